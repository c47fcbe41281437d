package query

import (
	"fmt"
	"strings"

	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// account returns what is stated about the source: the account of the chunks that were read, or the one given, with
// what cannot be read any more moved from captured to dropped.
func (s *source) account() ledger.Account {
	var a ledger.Account
	if s.Account != nil {
		a = *s.Account
	} else {
		a = s.last.Since(&s.base)
	}
	lost := min(s.sums().lost, a.Captured)
	a.Captured -= lost
	a.Dropped[ledger.Corrupt] += lost
	return a
}

// appendHead appends what comes before the packets.
func (p *Plan) appendHead(dst []byte) []byte {
	if p.format == PcapNG {
		dst = pcap.AppendSectionHeader(dst, p.meta.Section)
		for _, s := range p.sources {
			if s.lane == 0 {
				dst = pcap.AppendInterface(dst, s.Interface)
			}
		}
		return dst
	}
	snap, all := uint32(0), false
	for _, s := range p.sources {
		snap = max(snap, s.Interface.SnapLen)
		all = all || s.Interface.SnapLen == 0
	}
	if all || snap > pcap.MaxPacket {
		snap = 0
	}
	return pcap.AppendClassicHeader(dst, p.sources[0].Interface.Link, snap, p.format == Pcap)
}

// appendTail appends what comes after the packets: the accounts, as pcapng can hold them.
func (p *Plan) appendTail(dst []byte) []byte {
	if p.format != PcapNG {
		return dst
	}
	for _, s := range p.sources {
		if s.lane > 0 {
			continue
		}
		a := s.account()
		st := pcap.Stats{
			Interface: int(s.iface), Received: a.Seen, Dropped: a.DroppedTotal(), FilterAccepted: a.Seen - min(a.Seen, a.Filtered),
			Delivered: s.sums().packets, Has: pcap.HasReceived | pcap.HasDropped | pcap.HasFilterAccepted | pcap.HasDelivered,
			Comment: p.statement(s, &a),
		}
		if start, end, ok := p.bounds(s); ok {
			st.Time, st.Start, st.End = end, start, end
			st.Has |= pcap.HasStart | pcap.HasEnd
		}
		dst = pcap.AppendStats(dst, &st)
	}
	return dst
}

// bounds returns the window of a source, with the recording's own bounds where the window has none.
func (p *Plan) bounds(s *source) (start, end packet.Timestamp, ok bool) {
	for _, in := range s.rec.Segments() {
		if in.Packets == 0 {
			continue
		}
		if !ok {
			start, end, ok = in.Earliest, in.Latest, true
		}
		start, end = min(start, in.Earliest), max(end, in.Latest)
	}
	if p.window.From != 0 {
		start, ok = p.window.From, ok || p.window.To != 0
	}
	if p.window.To != 0 {
		end = p.window.To
	}
	return start, end, ok
}

// statement is the account in words.
func (p *Plan) statement(s *source, a *ledger.Account) string {
	var b strings.Builder
	fmt.Fprintf(&b, "ledger: seen %d = captured %d + filtered %d + sampled out %d + rate-limited %d + dropped %d (",
		a.Seen, a.Captured, a.Filtered, a.SampledOut, a.RateLimited, a.DroppedTotal())
	for r, n := range a.Dropped {
		if r > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %d", ledger.Reason(r), n)
	}
	fmt.Fprintf(&b, "); octets %d, stored %d", a.Octets, a.StoredOctets)
	if a.FilterUncounted {
		b.WriteString("; the kernel did not count what its filter left out: seen and filtered are without it")
	}
	t := s.sums()
	fmt.Fprintf(&b, ". In this file: %d packets, %d octets", t.packets, t.octets)
	if t.bad > 0 {
		fmt.Fprintf(&b, "; %d damaged chunks with %d packets could not be read", t.bad, t.lost)
	}
	if p.window.Match != nil {
		b.WriteString("; only packets that match the query's filter")
	}
	return b.String()
}
