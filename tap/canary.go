package tap

import (
	"bytes"
	"encoding/binary"
	"time"
)

// Canary is a marked frame that is put on a source's device, to see what becomes of its copy. It harms nobody: its
// destination is a group address that bridges keep to themselves (IEEE 802.1Q table 8-1), its type one for experiments (IEEE 802).
// What it is known by comes first, so that it is known again in a copy that was cut to the least that a tap may cut to.
type Canary struct {
	Token  [8]byte   // of the test
	Number uint32    // in the test, from 0 on
	VLAN   uint16    // 0 = untagged
	Length int       // octets of the frame, with its tag
	Sent   time.Time // by the clock of the node that put it on the device; microseconds are kept
}

var (
	canaryTo   = []byte{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e}
	canaryFrom = []byte{0x02, 'O', 'T', 'a', 'p', 0x02} // locally administered; the last octet is this form's
	canaryText = []byte("OpenTap canary")               // for who finds one
)

const (
	canaryType = 0x88b5 // IEEE 802 local experimental EtherType 1
	vlanType   = 0x8100
	// ShortestCanary is the least length of an untagged one; the tag comes on top of it. Octets.
	ShortestCanary = 14 + 8 + 4 + 4
)

// Frame builds the frame.
func (c *Canary) Frame() []byte {
	b := make([]byte, 0, max(c.Length, ShortestCanary+4))
	b = append(b, canaryTo...)
	b = append(b, canaryFrom...)
	if c.VLAN != 0 {
		b = binary.BigEndian.AppendUint16(b, vlanType)
		b = binary.BigEndian.AppendUint16(b, c.VLAN)
	}
	b = binary.BigEndian.AppendUint16(b, canaryType)
	b = append(b, c.Token[:]...)
	b = binary.BigEndian.AppendUint32(b, c.Number)
	b = binary.BigEndian.AppendUint32(b, uint32(c.Sent.UnixMicro()))
	rest := b[len(b):max(c.Length, len(b))]
	copy(rest, canaryText)
	return b[:len(b)+len(rest)]
}

// ParseCanary reads a frame back that was heard at a time: VLAN and Length are those that it has now. Sent is right if it was sent
// within half an hour of that. ok is false if it is no canary, or cut to less than ShortestCanary and its tag.
func ParseCanary(f []byte, at time.Time) (c Canary, ok bool) {
	const macs, tag = 12, 4
	c.Length = len(f)
	if len(f) < ShortestCanary || !bytes.HasPrefix(f, canaryTo) || !bytes.HasPrefix(f[len(canaryTo):], canaryFrom) {
		return c, false
	}
	f = f[macs:]
	if binary.BigEndian.Uint16(f) == vlanType {
		c.VLAN = binary.BigEndian.Uint16(f[2:]) & 0xfff
		f = f[tag:]
	}
	if len(f) < ShortestCanary-macs || binary.BigEndian.Uint16(f) != canaryType {
		return c, false
	}
	f = f[2:]
	copy(c.Token[:], f)
	c.Number = binary.BigEndian.Uint32(f[8:])
	now := at.UnixMicro()
	c.Sent = time.UnixMicro(now - int64(int32(uint32(now)-binary.BigEndian.Uint32(f[12:])))).UTC()
	return c, true
}
