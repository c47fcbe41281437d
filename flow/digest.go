package flow

import "opentap/packet"

// digest is what a table needs of one packet: the flow it belongs to, and what it adds to it.
type digest struct {
	k              key
	h              uint32 // the table's hash of k
	octets         uint32 // of IP
	time           packet.Timestamp
	srcMAC, dstMAC packet.MAC
	tos, tcpFlags  uint8
	bits           uint8
}

// Bits of a digest.
const (
	digestFlow     = 1 << 0 // the packet belongs to a flow; without it only time counts
	digestSwapped  = 1 << 1 // k is the other direction's
	digestNoPorts  = 1 << 2 // ports not known
	digestFragment = 1 << 3
	digestTCP      = 1 << 4 // tcpFlags mean something
)

func (d *digest) has(bit uint8) bool { return d.bits&bit != 0 }

// digest fills d from p.
func (t *Table) digest(d *digest, p *packet.Parsed) {
	d.time, d.bits = p.Time, 0
	if !p.IsIP() {
		return
	}
	d.bits = digestFlow
	if d.k.fill(p) {
		d.bits |= digestNoPorts
	}
	if t.cfg.Bidirectional && d.k.unite() {
		d.bits |= digestSwapped
	}
	d.h = t.secret.hash(&d.k)
	d.octets, d.srcMAC, d.dstMAC, d.tos, d.tcpFlags = p.IPOctets, p.SrcMAC, p.DstMAC, p.TOS, 0
	if p.Layers&packet.LayerFragment != 0 {
		d.bits |= digestFragment
	}
	if p.Layers&packet.LayerTCP != 0 {
		d.bits |= digestTCP
		d.tcpFlags = p.TCPFlags
	}
}

// arrived counts a packet by what it is.
func (s *Stats) arrived(p *packet.Parsed) {
	s.Packets++
	switch {
	case p.IsIP():
		s.Metered++
		s.Octets += uint64(p.IPOctets)
	case p.Defect == packet.DefectTruncated:
		s.Truncated++
	case p.Defect == packet.DefectMalformed:
		s.Malformed++
	default:
		s.NonIP++
	}
}
