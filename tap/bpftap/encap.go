package bpftap

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"opentap/tap"
)

// Wire numbers of encapsulations, as in bpf/tunnel.h.
const (
	wireVXLAN  = 1
	wireGRE    = 2
	wireERSPAN = 3
	wireGeneve = 4
)

// Ports of UDP that IANA assigned.
const (
	portVXLAN  = 4789
	portGeneve = 6081
)

// Octets.
const (
	ethernetHeader = 14
	outerRoom      = 80 // of struct mux_config.header
)

// geneveOption is our option of Geneve: class 0xff54 of the experimental range, type 1, one word of data: direction (1 in, 2
// out; 0x80 = cut), zero, length of the frame before it was cut (RFC 8926 section 3.5).
var geneveOption = [8]byte{0xff, 0x54, 1, 1}

// tunnel is a target as it is on the wire.
type tunnel struct {
	encap    tap.Encap
	wire     uint8
	id       uint32
	port     uint16 // 0 = not over UDP
	src, dst netip.Addr
}

// newTunnel checks that the tunnel can be written.
func newTunnel(e tap.Encap, id uint32, port uint16, src, dst netip.Addr) (tunnel, error) {
	t := tunnel{encap: e, id: id, src: src.Unmap(), dst: dst.Unmap()}
	most := uint32(1<<24 - 1)
	switch e {
	case tap.VXLAN, "":
		t.encap, t.wire, t.port = tap.VXLAN, wireVXLAN, portVXLAN
	case tap.Geneve:
		t.wire, t.port = wireGeneve, portGeneve
	case tap.GRE:
		t.wire, most = wireGRE, 1<<32-1
	case tap.ERSPAN1, tap.ERSPAN2:
		t.wire, most, t.id = wireERSPAN, 1<<32-1, id&tap.MaxSession
	default:
		return t, fmt.Errorf("%w: encapsulation %q", tap.ErrUnsupported, e)
	}
	if id > most {
		return t, fmt.Errorf("%w: %s carries tunnel ids up to %d, not %d", tap.ErrUnsupported, t.encap, most, id)
	}
	if port != 0 && t.port != 0 {
		t.port = port
	}
	return t, nil
}

// header builds all that comes before the inner frame: an Ethernet header of zeros, IP with no length and no checksum, the
// tunnel's. sum is the sum of the IPv4 header's 16-bit words as they are.
func (t *tunnel) header() (b []byte, sum uint32) {
	b = make([]byte, ethernetHeader, outerRoom)
	proto := byte(47)
	if t.port != 0 {
		proto = 17
	}
	if t.dst.Is4() {
		h := make([]byte, 20) // RFC 791 section 3.1
		h[0], h[8], h[9] = 0x45, 64, proto
		h[6] = 0x40 // do not fragment
		copy(h[12:], t.src.AsSlice())
		copy(h[16:], t.dst.AsSlice())
		for i := 0; i < len(h); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(h[i:]))
		}
		b = append(b, h...)
	} else {
		h := make([]byte, 40) // RFC 8200 section 3
		h[0], h[6], h[7] = 0x60, proto, 64
		copy(h[8:], t.src.AsSlice())
		copy(h[24:], t.dst.AsSlice())
		b = append(b, h...)
	}
	switch t.wire {
	case wireVXLAN: // RFC 7348 section 5; no UDP checksum, over IPv6 as RFC 6935 allows
		b = binary.BigEndian.AppendUint32(b, uint32(t.port))
		b = append(b, 0, 0, 0, 0, 8, 0, 0, 0)
		b = binary.BigEndian.AppendUint32(b, t.id<<8)
	case wireGeneve: // RFC 8926 section 3.4: two words of options, Ethernet inside
		b = binary.BigEndian.AppendUint32(b, uint32(t.port))
		b = append(b, 0, 0, 0, 0, 2, 0, 0x65, 0x58)
		b = binary.BigEndian.AppendUint32(b, t.id<<8)
		b = append(b, geneveOption[:]...)
	case wireGRE: // RFC 2784 section 2, RFC 2890 section 2: key present, transparent Ethernet bridging
		b = append(b, 0x20, 0, 0x65, 0x58)
		b = binary.BigEndian.AppendUint32(b, t.id)
	case wireERSPAN: // draft-foschiano-erspan-03 section 4.2: a sequence number, version 1
		b = append(b, 0x10, 0, 0x88, 0xbe, 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint32(b, 1<<28|t.id)
		b = append(b, 0, 0, 0, 0)
	}
	return b, sum
}

// overhead is how many octets longer the IP packet is than the frame inside.
func (t *tunnel) overhead() int {
	b, _ := t.header()
	return len(b) - ethernetHeader
}

// key is struct tunnel of bpf/tunnel.h with the address of the other end.
func (t *tunnel) key(other netip.Addr) tunnelKey {
	return tunnelKey{Addr: other.As16(), ID: t.id, Port: t.port, Encap: t.wire}
}

// tunnelKey is struct tunnel of bpf/tunnel.h.
type tunnelKey struct {
	Addr  [16]byte
	ID    uint32
	Port  uint16
	Encap uint8
	_     uint8
}
