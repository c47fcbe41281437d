package pcap

import (
	"fmt"

	"opentap/packet"
)

func (d *Reader) addInterface(body []byte) string {
	if len(body) < 8 {
		return "interface block: too short for its fields"
	}
	if len(d.interfaces) == maxInterfaces {
		return fmt.Sprintf("more than %d interfaces", maxInterfaces)
	}
	i := Interface{Link: packet.LinkType(d.bo.Uint16(body)), SnapLen: d.bo.Uint32(body[4:])}
	resol, offset := uint8(6), int64(0)
	for opts := body[8:]; len(opts) > 0; {
		code, v, rest, msg := nextOption(opts, d.bo)
		if msg != "" {
			return "interface block: " + msg
		}
		opts = rest
		switch {
		case code == optIfName:
			i.Name = string(v)
		case code == optIfDescription:
			i.Description = string(v)
		case code == optIfOS:
			i.OS = string(v)
		case code == optIfFilter && len(v) > 1 && v[0] == 0:
			i.Filter = string(v[1:])
		case code == optIfMAC && len(v) == 6:
			i.MAC, i.HasMAC = packet.MAC(v), true
		case code == optIfSpeed && len(v) == 8:
			i.SpeedBPS = d.bo.Uint64(v)
		case code == optIfTSResol && len(v) == 1:
			resol = v[0]
		case code == optIfTSOffset && len(v) == 8:
			offset = int64(d.bo.Uint64(v))
		}
	}
	if d.texts += len(i.Name) + len(i.Description) + len(i.OS) + len(i.Filter); d.texts > maxTexts {
		return fmt.Sprintf("interface descriptions take more than %d octets", maxTexts)
	}
	c, ok := newClock(resol, offset)
	if !ok {
		return fmt.Sprintf("interface block: time resolution %#02x is finer than 64 bits hold", resol)
	}
	d.interfaces = append(d.interfaces, i)
	d.clocks = append(d.clocks, c)
	return ""
}

func (d *Reader) addStats(body []byte) string {
	var s Stats
	if msg := decodeStats(body, &s, d.bo); msg != "" {
		return msg
	}
	i, msg := d.lookup(uint32(s.Interface))
	if msg != "" {
		return msg
	}
	s.Interface = i
	c := &d.clocks[i]
	s.Time = c.time(uint64(s.Time))
	if s.Has&HasStart != 0 {
		s.Start = c.time(uint64(s.Start))
	}
	if s.Has&HasEnd != 0 {
		s.End = c.time(uint64(s.End))
	}
	d.stats = append(d.stats, s)
	d.statsBytes += statsSize(&s)
	drop := 0
	for len(d.stats)-drop > 1 && (len(d.stats)-drop > maxStats || d.statsBytes > maxStatsBytes) {
		d.statsBytes -= statsSize(&d.stats[drop])
		d.stats[drop] = Stats{}
		drop++
	}
	d.stats = d.stats[drop:]
	return ""
}

func statsSize(s *Stats) int {
	n := len(s.Comment)
	for i := range s.Custom {
		n += len(s.Custom[i].Data) + 40
	}
	return n
}

// lookup turns an interface number of the section into an index over all sections.
func (d *Reader) lookup(id uint32) (int, string) {
	if int64(id) >= int64(len(d.interfaces)-d.first) {
		return 0, fmt.Sprintf("interface %d is not described before it is used", id)
	}
	return d.first + int(id), ""
}

func (d *Reader) enhanced(body []byte, p *Packet) string {
	if msg := decodePacket(body, p, d.bo); msg != "" {
		return msg
	}
	i, msg := d.lookup(uint32(p.Interface))
	if msg != "" {
		return msg
	}
	p.Interface = i
	p.Time = d.clocks[i].time(uint64(p.Time))
	return ""
}

// simple reads a Simple Packet Block: the first interface of the section, no time.
func (d *Reader) simple(body []byte, p *Packet) string {
	i, msg := d.lookup(0)
	if msg != "" {
		return msg
	}
	if len(body) < 4 {
		return "simple packet block: too short for its fields"
	}
	orig := d.bo.Uint32(body)
	n := orig
	if snap := d.interfaces[i].SnapLen; snap != 0 && n > snap {
		n = snap
	}
	if n > MaxPacket || int(n) > len(body)-4 {
		return "simple packet block: captured length is beyond the block or the limit"
	}
	*p = Packet{Interface: i, OrigLen: orig, Data: body[4 : 4+n : 4+n]}
	return ""
}

// old reads an obsolete Packet Block: like an enhanced one, with 16 bits of interface and 16 of drops.
func (d *Reader) old(body []byte, p *Packet) string {
	if len(body) < 20 {
		return "packet block: too short for its fields"
	}
	id := uint32(d.bo.Uint16(body))
	if msg := decodePacket(body, p, d.bo); msg != "" {
		return msg
	}
	i, msg := d.lookup(id)
	if msg != "" {
		return msg
	}
	p.Interface = i
	p.Time = d.clocks[i].time(uint64(p.Time))
	return ""
}
