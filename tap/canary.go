package tap

import (
	"bytes"
	"encoding/binary"
	"time"
)

// Canary is a marked frame that is put on a source's device, to see what becomes of its copy. It harms nobody: its
// destination is a group address that bridges keep to themselves (IEEE 802.1Q table 8-1), its type one for experiments (IEEE 802).
type Canary struct {
	Token     [16]byte  // of the test
	Number    uint32    // in the test, from 0 on
	Direction Direction // In or Out
	VLAN      uint16    // 0 = untagged
	Length    int       // octets of the frame, with its tag
	Sent      time.Time // by the clock of the node that put it on the device
}

var (
	canaryTo   = [6]byte{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e}
	canaryFrom = [6]byte{0x02, 'O', 'T', 'a', 'p', 0x01} // locally administered
	canaryMark = []byte("OpenTap canary\x00\x01")
)

const (
	canaryType = 0x88b5 // IEEE 802 local experimental EtherType 1
	vlanType   = 0x8100
	canaryBody = 16 + 16 + 4 + 1 + 1 + 2 + 2 + 8
	// ShortestCanary is the least length of an untagged one; the tag comes on top of it. Octets.
	ShortestCanary = 14 + canaryBody
)

// Frame builds the frame.
func (c *Canary) Frame() []byte {
	b := make([]byte, 0, max(c.Length, ShortestCanary+4))
	b = append(b, canaryTo[:]...)
	b = append(b, canaryFrom[:]...)
	if c.VLAN != 0 {
		b = binary.BigEndian.AppendUint16(b, vlanType)
		b = binary.BigEndian.AppendUint16(b, c.VLAN)
	}
	b = binary.BigEndian.AppendUint16(b, canaryType)
	b = append(b, canaryMark...)
	b = append(b, c.Token[:]...)
	b = binary.BigEndian.AppendUint32(b, c.Number)
	d := byte(1)
	if c.Direction == Out {
		d = 2
	}
	b = append(b, d, 0)
	b = binary.BigEndian.AppendUint16(b, c.VLAN)
	b = binary.BigEndian.AppendUint16(b, uint16(c.Length))
	b = binary.BigEndian.AppendUint64(b, uint64(c.Sent.UnixNano()))
	return append(b, make([]byte, max(0, c.Length-len(b)))...)
}

// ParseCanary reads a frame back. vlan is the tag it has now, 0 = none; ok is false if it is no canary, or cut too short to tell.
func ParseCanary(f []byte) (c Canary, vlan uint16, ok bool) {
	if len(f) < 14 {
		return c, 0, false
	}
	at := 12
	if binary.BigEndian.Uint16(f[at:]) == vlanType && len(f) >= 18 {
		vlan = binary.BigEndian.Uint16(f[at+2:]) & 0xfff
		at += 4
	}
	if binary.BigEndian.Uint16(f[at:]) != canaryType || len(f) < at+2+canaryBody || !bytes.HasPrefix(f[at+2:], canaryMark) {
		return c, 0, false
	}
	b := f[at+2+len(canaryMark):]
	copy(c.Token[:], b)
	c.Number = binary.BigEndian.Uint32(b[16:])
	c.Direction = In
	if b[20] == 2 {
		c.Direction = Out
	}
	c.VLAN, c.Length = binary.BigEndian.Uint16(b[22:]), int(binary.BigEndian.Uint16(b[24:]))
	c.Sent = time.Unix(0, int64(binary.BigEndian.Uint64(b[26:]))).UTC()
	return c, vlan, true
}
