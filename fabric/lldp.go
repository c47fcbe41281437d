package fabric

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"opentap/want"
	"opentap/wire/of13"
)

// Frames of ours have source addresses with this beginning, which is locally administered ("ot" after 02).
var ourMAC = [3]byte{0x02, 0x6f, 0x74}

// lldpTo is the nearest-bridge address (IEEE 802.1AB-2016, table 7-1).
var lldpTo = [6]byte{0x01, 0x80, 0xc2, 0, 0, 0x0e}

const (
	etherLLDP = 0x88cc

	tlvEnd, tlvChassis, tlvPort, tlvTTL, tlvOrg = 0, 1, 2, 3, 127 // IEEE 802.1AB-2016 section 8.4

	localSubtype = 7 // "locally assigned", of chassis and port ids
	sealOctets   = 16
)

// Seal signs discovery frames, so that no host can make one up. Key has any length.
type Seal struct{ Key []byte }

func (s Seal) sum(parts ...[]byte) []byte {
	h := hmac.New(sha256.New, s.Key)
	for _, p := range parts {
		_, _ = h.Write(p)
	}
	return h.Sum(nil)[:sealOctets]
}

// sealed is what is signed: where the frame was sent, and when.
func sealed(e Endpoint, at time.Time) []byte {
	b := binary.BigEndian.AppendUint64([]byte("opentap lldp"), e.Switch)
	b = binary.BigEndian.AppendUint32(b, e.Port)
	return binary.BigEndian.AppendUint64(b, uint64(at.UnixNano()))
}

// Discovery makes the LLDP frame that a port sends.
func (s Seal) Discovery(e Endpoint, at time.Time) []byte {
	b := append([]byte(nil), lldpTo[:]...)
	b = append(b, ourMAC[:]...)
	b = append(b, byte(e.Switch), byte(e.Port>>8), byte(e.Port))
	b = binary.BigEndian.AppendUint16(b, etherLLDP)
	tlv := func(kind int, value []byte) {
		b = binary.BigEndian.AppendUint16(b, uint16(kind<<9|len(value)))
		b = append(b, value...)
	}
	tlv(tlvChassis, append([]byte{localSubtype}, want.DPID(e.Switch).String()...))
	tlv(tlvPort, append([]byte{localSubtype}, strconv.FormatUint(uint64(e.Port), 10)...))
	tlv(tlvTTL, []byte{0, byte(DiscoveryLost / time.Second)})
	signed := sealed(e, at)
	org := append(append(append([]byte(nil), ourMAC[:]...), 1), signed[len(signed)-8:]...)
	tlv(tlvOrg, append(org, s.sum(signed)...))
	tlv(tlvEnd, nil)
	for len(b) < 60 {
		b = append(b, 0)
	}
	return b
}

var errNotOurs = errors.New("it is no discovery frame of this controller")

// Discovered reads a discovery frame: which port sent it. Anything not signed by this controller lately is an error.
func (s Seal) Discovered(frame []byte, now time.Time) (Endpoint, error) {
	var e Endpoint
	if len(frame) < 14 || !bytes.Equal(frame[:6], lldpTo[:]) || binary.BigEndian.Uint16(frame[12:]) != etherLLDP {
		return e, errNotOurs
	}
	var chassis, port, org []byte
	for b := frame[14:]; len(b) >= 2; {
		head := binary.BigEndian.Uint16(b)
		kind, n := int(head>>9), int(head&0x1ff)
		if n > len(b)-2 {
			return e, fmt.Errorf("decode LLDP: a TLV of %d octets at %d of %d", n, len(frame)-len(b), len(frame))
		}
		v := b[2 : 2+n]
		b = b[2+n:]
		switch {
		case kind == tlvEnd:
			b = nil
		case kind == tlvChassis && chassis == nil && n > 1 && v[0] == localSubtype:
			chassis = v[1:]
		case kind == tlvPort && port == nil && n > 1 && v[0] == localSubtype:
			port = v[1:]
		case kind == tlvOrg && org == nil && n == 4+8+sealOctets && bytes.Equal(v[:3], ourMAC[:]) && v[3] == 1:
			org = v[4:]
		}
	}
	if chassis == nil || port == nil || org == nil {
		return e, errNotOurs
	}
	dpid, err := strconv.ParseUint(string(chassis), 16, 64)
	if err != nil {
		return e, errNotOurs
	}
	number, err := strconv.ParseUint(string(port), 10, 32)
	if err != nil {
		return e, errNotOurs
	}
	e = Endpoint{dpid, uint32(number)}
	at := time.Unix(0, int64(binary.BigEndian.Uint64(org)))
	if !hmac.Equal(s.sum(sealed(e, at)), org[8:]) {
		return e, errors.New("its signature is not ours: somebody made it up")
	}
	if age := now.Sub(at); age > DiscoveryEvery || age < -time.Second {
		return e, fmt.Errorf("it was sent %s ago: somebody plays it again", age.Round(time.Second))
	}
	return e, nil
}

// discoveryMatch is what discovery frames are known by in the switches. LLDP of others passes as any traffic does.
func discoveryMatch() of13.Match {
	return and(of13.Octets(of13.EthSrc, ourMAC[:], []byte{0xff, 0xff, 0xff}), ether(etherLLDP))
}
