package detail

import (
	"net/netip"
	"strconv"
	"strings"
)

var dnsTypes = map[int]string{1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 41: "OPT", 43: "DS", 46: "RRSIG", 48: "DNSKEY", 64: "SVCB", 65: "HTTPS", 255: "ANY"}

var dnsCodes = map[int]string{0: "no error", 1: "format error", 2: "server failure", 3: "no such name", 4: "not implemented", 5: "refused"}

func typeName(t int) string {
	if s, ok := dnsTypes[t]; ok {
		return s
	}
	return "type " + strconv.Itoa(t)
}

// dns spells a message out (RFC 1035 section 4).
func (d *decoder) dns(off int, protocol string) {
	l := d.begin(protocol, off)
	if !d.has(off, 12) {
		d.short(l, protocol)
		return
	}
	f := d.u16(off + 2)
	response := f&0x8000 != 0
	l.add("Identifier", off, 2, hex(d.u16(off), 4))
	l.add("Flags", off+2, 2, hex(f, 4))
	l.add("Response", off+2, 1, strconv.FormatBool(response))
	l.add("Return code", off+3, 1, named(dnsCodes, f&15, strconv.Itoa(f&15)))
	counts := [4]int{}
	for i, name := range []string{"Questions", "Answers", "Authorities", "Additional"} {
		counts[i] = d.u16(off + 4 + 2*i)
		l.add(name, off+4+2*i, 2, strconv.Itoa(counts[i]))
	}
	at, info, ok := off+12, "", true
	var answers []string
	for i := 0; i < counts[0] && i < 16 && ok; i++ {
		var name string
		begin := at
		if name, at, ok = d.name(off, at); !ok || !d.has(at, 4) {
			ok = false
			break
		}
		t := d.u16(at)
		at += 4
		l.add("Question", begin, at-begin, typeName(t)+" "+name)
		if i == 0 {
			info = typeName(t) + " " + name
		}
	}
	for section, n := range counts[1:] {
		for i := 0; i < n && i < 64 && ok; i++ {
			var name string
			begin := at
			if name, at, ok = d.name(off, at); !ok || !d.has(at, 10) {
				ok = false
				break
			}
			t, ttl, size := d.u16(at), d.u32(at+4), d.u16(at+8)
			at += 10
			if !d.has(at, size) {
				ok = false
				break
			}
			value := octets(size)
			switch {
			case t == 1 && size == 4:
				value = d.ip4(at)
			case t == 28 && size == 16:
				value = netip.AddrFrom16([16]byte(d.frame[at : at+16])).String()
			case t == 2 || t == 5 || t == 12:
				value, _, _ = d.name(off, at)
			case t == 16:
				value = text(d.frame[at : at+size])
			}
			at += size
			if t == 41 { // its fields mean other things, RFC 6891 section 6.1.2
				l.add("Option record", begin, at-begin, "")
				continue
			}
			l.add([]string{"Answer", "Authority", "Additional"}[section], begin, at-begin, typeName(t)+" "+name+" "+value+", "+strconv.FormatUint(uint64(ttl), 10)+" s")
			if section == 0 && len(answers) < 3 {
				answers = append(answers, value)
			}
		}
	}
	verb := "query "
	if response {
		verb = "response "
		if c := f & 15; c != 0 {
			info += ", " + named(dnsCodes, c, strconv.Itoa(c))
		} else if len(answers) > 0 {
			info += " → " + strings.Join(answers, ", ")
		}
	}
	l.done(d.end-off, verb+info)
	d.tell(protocol, verb+info)
}

// name reads a domain name with its compression, which is followed a bounded number of times.
func (d *decoder) name(message, at int) (string, int, bool) {
	var s strings.Builder
	after := -1
	for jumps := 0; ; {
		if !d.has(at, 1) {
			return text([]byte(s.String())), at, false
		}
		n := d.u8(at)
		switch {
		case n == 0:
			if after < 0 {
				after = at + 1
			}
			if s.Len() == 0 {
				return ".", after, true
			}
			return text([]byte(s.String())), after, true
		case n&0xc0 == 0xc0:
			if jumps++; jumps > 16 || !d.has(at, 2) {
				return text([]byte(s.String())), at, false
			}
			if after < 0 {
				after = at + 2
			}
			at = message + d.u16(at)&0x3fff
		case n&0xc0 != 0 || !d.has(at+1, n) || s.Len()+n > 512:
			return text([]byte(s.String())), at, false
		default:
			if s.Len() > 0 {
				s.WriteByte('.')
			}
			s.Write(d.frame[at+1 : at+1+n])
			at += 1 + n
		}
	}
}

var dhcpTypes = map[int]string{1: "discover", 2: "offer", 3: "request", 4: "decline", 5: "ack", 6: "nak", 7: "release", 8: "inform"}

// dhcp is RFC 2131 section 2 and RFC 2132.
func (d *decoder) dhcp(off int) {
	l := d.begin("DHCP", off)
	if !d.has(off, 240) || d.u32(off+236) != 0x63825363 {
		d.short(l, "DHCP")
		return
	}
	l.add("Operation", off, 1, named(map[int]string{1: "request", 2: "reply"}, d.u8(off), strconv.Itoa(d.u8(off))))
	l.add("Transaction", off+4, 4, hex(int(d.u32(off+4)), 8))
	l.add("Client address", off+12, 4, d.ip4(off+12))
	l.add("Your address", off+16, 4, d.ip4(off+16))
	l.add("Server address", off+20, 4, d.ip4(off+20))
	l.add("Client MAC", off+28, 6, d.mac(off+28))
	info := ""
	at := off + 240
	for i := 0; i < 64 && d.has(at, 2) && d.u8(at) != 255; i++ {
		kind := d.u8(at)
		if kind == 0 {
			at++
			continue
		}
		n := d.u8(at + 1)
		if !d.has(at+2, n) {
			break
		}
		switch {
		case kind == 53 && n == 1:
			t := d.u8(at + 2)
			info = named(dhcpTypes, t, strconv.Itoa(t))
			if s := dhcpTypes[t]; s != "" {
				info = s
			}
			l.add("Message type", at, 3, info)
		case kind == 12:
			l.add("Host name", at, 2+n, text(d.frame[at+2:at+2+n]))
			info += " " + text(d.frame[at+2:at+2+n])
		case kind == 50 && n == 4:
			l.add("Requested address", at, 6, d.ip4(at+2))
		default:
			l.add("Option "+strconv.Itoa(kind), at, 2+n, octets(n))
		}
		at += 2 + n
	}
	if your := d.ip4(off + 16); your != "0.0.0.0" {
		info += " " + your
	}
	l.done(d.end-off, info) // the end mark and what pads it belong to it
	d.tell("DHCP", strings.TrimSpace(info))
}
