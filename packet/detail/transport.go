package detail

import (
	"bytes"
	"strconv"
	"strings"
)

// tcp is RFC 9293 section 3.1.
func (d *decoder) tcp(off int) {
	l := d.begin("TCP", off)
	if !d.has(off, 20) {
		if d.has(off, 4) {
			l.add("Source port", off, 2, strconv.Itoa(d.u16(off)))
			l.add("Destination port", off+2, 2, strconv.Itoa(d.u16(off+2)))
		}
		d.short(l, "TCP")
		return
	}
	sp, dp, hl, fl := d.u16(off), d.u16(off+2), 4*(d.u8(off+12)>>4), d.u8(off+13)
	set := flags(fl, "CWR", "ECE", "URG", "ACK", "PSH", "RST", "SYN", "FIN")
	l.add("Source port", off, 2, strconv.Itoa(sp))
	l.add("Destination port", off+2, 2, strconv.Itoa(dp))
	l.add("Sequence", off+4, 4, strconv.FormatUint(uint64(d.u32(off+4)), 10))
	l.add("Acknowledgement", off+8, 4, strconv.FormatUint(uint64(d.u32(off+8)), 10))
	l.add("Header length", off+12, 1, octets(hl))
	l.add("Flags", off+13, 1, set+" ("+hex(fl, 2)+")")
	l.add("Window", off+14, 2, strconv.Itoa(d.u16(off+14)))
	l.add("Checksum", off+16, 2, hex(d.u16(off+16), 4))
	l.add("Urgent pointer", off+18, 2, strconv.Itoa(d.u16(off+18)))
	for at := off + 20; hl >= 20 && at < off+hl && d.has(at, 1); { // options
		kind, n := d.u8(at), 1
		if kind == 0 {
			break
		}
		if kind != 1 {
			if !d.has(at, 2) || d.u8(at+1) < 2 {
				break
			}
			n = d.u8(at + 1)
		}
		name, value := "Option "+strconv.Itoa(kind), octets(n)
		switch {
		case kind == 1:
			name, value = "No-operation", ""
		case kind == 2 && n == 4 && d.has(at, 4):
			name, value = "Maximum segment size", strconv.Itoa(d.u16(at+2))
		case kind == 3 && n == 3 && d.has(at, 3):
			name, value = "Window scale", strconv.Itoa(d.u8(at+2))
		case kind == 4:
			name = "SACK permitted"
		case kind == 5:
			name = "SACK"
		case kind == 8 && n == 10 && d.has(at, 10):
			name, value = "Timestamps", strconv.FormatUint(uint64(d.u32(at+2)), 10)+", "+strconv.FormatUint(uint64(d.u32(at+6)), 10)
		}
		l.add(name, at, n, value)
		at += n
	}
	ports := strconv.Itoa(sp) + " → " + strconv.Itoa(dp)
	l.done(max(hl, 20), ports+" ["+set+"]")
	size := max(0, d.end-off-hl)
	d.tell("TCP", ports+" ["+set+"] seq "+strconv.FormatUint(uint64(d.u32(off+4)), 10)+" win "+strconv.Itoa(d.u16(off+14))+" len "+strconv.Itoa(size))
	if hl < 20 || size == 0 {
		return
	}
	at := off + hl
	switch {
	case d.tls(at):
	case d.http(at):
	case (sp == 53 || dp == 53) && d.has(at, 14) && d.u16(at) >= 12:
		d.dns(at+2, "DNS")
	default:
		d.rest("Payload", at)
	}
}

func (d *decoder) udp(off int) {
	l := d.begin("UDP", off)
	if !d.has(off, 8) {
		d.short(l, "UDP")
		return
	}
	sp, dp, n := d.u16(off), d.u16(off+2), d.u16(off+4)
	l.add("Source port", off, 2, strconv.Itoa(sp))
	l.add("Destination port", off+2, 2, strconv.Itoa(dp))
	l.add("Length", off+4, 2, strconv.Itoa(n))
	l.add("Checksum", off+6, 2, hex(d.u16(off+6), 4))
	ports := strconv.Itoa(sp) + " → " + strconv.Itoa(dp)
	l.done(8, ports)
	at := off + 8
	d.tell("UDP", ports+" len "+strconv.Itoa(max(0, d.end-at)))
	either := func(p int) bool { return sp == p || dp == p }
	switch {
	case d.end == at:
	case either(53):
		d.dns(at, "DNS")
	case either(5353):
		d.dns(at, "mDNS")
	case either(67) && either(68), dp == 67, dp == 68:
		d.dhcp(at)
	case dp == 4789:
		d.vxlan(at)
	case dp == 6081:
		d.geneve(at)
	default:
		d.rest("Payload", at)
	}
}

// vxlan is RFC 7348 section 5.
func (d *decoder) vxlan(off int) {
	l := d.begin("VXLAN", off)
	if !d.has(off, 8) {
		d.short(l, "VXLAN")
		return
	}
	vni := strconv.Itoa(int(d.u32(off+4) >> 8))
	l.add("Flags", off, 1, hex(d.u8(off), 2))
	l.add("Network identifier", off+4, 3, vni)
	l.done(8, "VNI "+vni)
	d.tell("VXLAN", "VNI "+vni)
	d.inner(off+8, d.ethernet)
}

// geneve is RFC 8926 section 3.4.
func (d *decoder) geneve(off int) {
	l := d.begin("Geneve", off)
	if !d.has(off, 8) {
		d.short(l, "Geneve")
		return
	}
	n, typ, vni := 8+4*(d.u8(off)&63), d.u16(off+2), strconv.Itoa(int(d.u32(off+4)>>8))
	l.add("Options length", off, 1, octets(n-8))
	l.add("Protocol", off+2, 2, named(etherTypes, typ, hex(typ, 4)))
	l.add("Network identifier", off+4, 3, vni)
	if n > 8 {
		l.add("Options", off+8, n-8, octets(n-8))
	}
	l.done(n, "VNI "+vni)
	d.tell("Geneve", "VNI "+vni)
	if typ == 0x6558 && d.has(off, n) {
		d.inner(off+n, d.ethernet)
	} else if (typ == 0x0800 || typ == 0x86dd) && d.has(off, n) {
		d.inner(off+n, d.ip)
	}
}

var methods = [][]byte{[]byte("GET "), []byte("POST "), []byte("PUT "), []byte("HEAD "), []byte("DELETE "), []byte("OPTIONS "), []byte("PATCH "), []byte("CONNECT "), []byte("HTTP/1.")}

// http spells the lines of a header out (RFC 9112 section 2.1).
func (d *decoder) http(off int) bool {
	b := d.frame[off:d.end]
	ok := false
	for _, m := range methods {
		ok = ok || bytes.HasPrefix(b, m)
	}
	if !ok {
		return false
	}
	l := d.begin("HTTP", off)
	at, first, host := 0, "", ""
	for i := 0; i < 64 && at < len(b); i++ {
		n := bytes.IndexByte(b[at:], '\n')
		size := n + 1
		if n < 0 {
			size = len(b) - at
		}
		line := bytes.TrimRight(b[at:at+size], "\r\n")
		if i == 0 {
			first = text(line)
			l.add("Start line", off+at, size, first)
		} else if len(line) == 0 {
			at += size
			break
		} else {
			name, value, _ := bytes.Cut(line, []byte(":"))
			l.add(text(name), off+at, size, text(bytes.TrimSpace(value)))
			if strings.EqualFold(string(name), "host") {
				host = " " + text(bytes.TrimSpace(value))
			}
		}
		at += size
	}
	l.done(at, first)
	d.tell("HTTP", first+host)
	d.rest("Body", off+at)
	return true
}

var recordTypes = map[int]string{20: "change cipher spec", 21: "alert", 22: "handshake", 23: "application data"}

var handshakes = map[int]string{1: "client hello", 2: "server hello", 4: "new session ticket", 8: "encrypted extensions", 11: "certificate", 12: "server key exchange", 14: "server hello done", 16: "client key exchange", 20: "finished"}

// tls spells the first record out (RFC 8446 sections 5.1 and 4), and of a client hello the name of the server (RFC 6066).
func (d *decoder) tls(off int) bool {
	if !d.has(off, 5) || d.u8(off+1) != 3 || d.u8(off+2) > 4 || recordTypes[d.u8(off)] == "" || d.u16(off+3) > 1<<14+2048 {
		return false
	}
	typ, n := d.u8(off), d.u16(off+3)
	l := d.begin("TLS", off)
	l.add("Record type", off, 1, named(recordTypes, typ, strconv.Itoa(typ)))
	l.add("Version", off+1, 2, hex(d.u16(off+1), 4))
	l.add("Length", off+3, 2, strconv.Itoa(n))
	info := recordTypes[typ]
	if typ == 22 && d.has(off+5, 4) {
		hs := d.u8(off + 5)
		if s := handshakes[hs]; s != "" {
			info = s
		} else {
			info = "encrypted handshake"
		}
		l.add("Handshake", off+5, 1, info)
		l.add("Handshake length", off+6, 3, strconv.Itoa(int(d.u32(off+5)&0xffffff)))
		if hs == 1 {
			if name := d.serverName(l, off+9); name != "" {
				info += " " + name
			}
		}
	}
	l.done(5+n, info)
	d.tell("TLS", info)
	d.rest("Payload", off+5+n)
	return true
}

func (d *decoder) serverName(l *layer, at int) string {
	if !d.has(at, 35) {
		return ""
	}
	l.add("Client version", at, 2, hex(d.u16(at), 4))
	at += 34
	at += 1 + d.u8(at)
	if !d.has(at, 2) {
		return ""
	}
	suites := d.u16(at)
	l.add("Cipher suites", at+2, suites, strconv.Itoa(suites/2))
	at += 2 + suites
	if !d.has(at, 1) {
		return ""
	}
	at += 1 + d.u8(at)
	if !d.has(at, 2) {
		return ""
	}
	end := min(at+2+d.u16(at), d.end)
	name := ""
	for at += 2; at+4 <= end; {
		kind, n := d.u16(at), d.u16(at+2)
		switch {
		case kind == 0 && n >= 5 && d.has(at+4, n) && d.u16(at+7) <= n-5:
			name = text(d.frame[at+9 : at+9+d.u16(at+7)])
			l.add("Server name", at+9, d.u16(at+7), name)
		case kind == 16:
			l.add("Application protocols", at, 4+n, "")
		default:
			l.add("Extension "+strconv.Itoa(kind), at, 4+n, octets(n))
		}
		at += 4 + n
	}
	return name
}
