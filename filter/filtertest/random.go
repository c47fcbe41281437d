package filtertest

import "pgregory.net/rapid"

// Expr draws an expression. own: with what libpcap does not know.
func Expr(r *rapid.T, depth int, own bool) string {
	one := func(s ...string) string { return rapid.SampledFrom(s).Draw(r, "word") }
	if depth > 0 {
		switch rapid.IntRange(0, 7).Draw(r, "shape") {
		case 7:
			if own {
				return one("", "not ") + "inner(" + Expr(r, depth-1, own) + ")"
			}
		case 0:
			return Expr(r, depth-1, own) + " and " + Expr(r, depth-1, own)
		case 1:
			return Expr(r, depth-1, own) + " or " + Expr(r, depth-1, own)
		case 2:
			return "(" + Expr(r, depth-1, own) + " " + one("and", "or") + " " + Expr(r, depth-1, own) + ")"
		case 3:
			return "not " + Expr(r, depth-1, own)
		case 4:
			return "not (" + Expr(r, depth-1, own) + ")"
		}
	}
	dir := func() string { return one("", "", "src ", "dst ", "src or dst ", "src and dst ") }
	ip4 := func() string { return one("10.0.0.1", "10.0.0.2", "10.1.2.3", "192.168.1.5", "1.2.3.4", "224.0.0.1") }
	ip6 := func() string { return one("2001:db8::1", "fe80::200:ff:fe00:1", "ff02::1", "2001:db8:1::2") }
	port := func() string { return one("80", "443", "53", "22", "5060", "http", "domain", "0x50") }
	if own && rapid.IntRange(0, 9).Draw(r, "own") == 0 {
		return one("vlan 100-200", "vlan 1,200-300", "vlan 0-4095", "geneve", "inner(ip)", "inner(vlan 100-300)")
	}
	switch rapid.IntRange(0, 12).Draw(r, "primitive") {
	case 0:
		return one("", "ip ", "arp ", "rarp ") + dir() + "host " + ip4() + one("", "", " or "+ip4(), " and not "+ip4())
	case 1:
		return one("", "ip6 ") + dir() + "host " + ip6()
	case 2:
		return one("", "ip ") + dir() + "net " + one("10", "10.0", "10.0.0.0/8", "10.0.0.0/31", "192.168.0.0/16", "10.0.0.0 mask 255.0.255.0")
	case 3:
		return dir() + "net " + one("2001:db8::/32", "fe80::/10", "::/0", "2001:db8:1::/48")
	case 4, 5:
		return one("", "tcp ", "udp ") + dir() + "port " + one("80", "443", "53", "22", "5060", "0x50") + one("", "", " or "+one("80", "53"))
	case 6:
		return one("", "tcp ", "udp ", "sctp ") + dir() + "portrange " + one("1-1023", "53-80", "443-22", "0-65535")
	case 7:
		return one("ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6", "igmp", "ah", "esp", "pim", "vrrp", "stp", "ipx", "atalk")
	case 8:
		return one("ip proto ", "ip6 proto ", "proto ") + one("6", "17", "1", "58", "44", "132")
	case 9:
		return one("vlan", "vlan 100", "vlan 200", "ether broadcast", "ether multicast", "ip multicast", "ip6 multicast",
			"ether host 02:00:00:00:00:01", "ether src 02:00:00:00:00:02", "ether dst ff:ff:ff:ff:ff:ff",
			"ether proto 0x800", "ether proto 0x8100", "ether proto 5", "llc", "llc s", "isis", "clnp", "l1")
	case 10:
		return one("less 60", "greater 80", "len > 70", "port "+port())
	}
	var arith func(d int) string
	arith = func(d int) string {
		if d > 0 && rapid.IntRange(0, 2).Draw(r, "operation") > 0 {
			op := one("+", "-", "*", "&", "|", "^", "%", "/", "<<", ">>")
			right := arith(d - 1)
			switch op {
			case "/", "%":
				right = one("2", "3", "16", "ip[8]")
			}
			if rapid.Bool().Draw(r, "parentheses") {
				return "(" + arith(d-1) + " " + op + " " + right + ")"
			}
			return arith(d-1) + " " + op + " " + right
		}
		return one("len", "1", "5", "80", "0x10", "ip[8]", "ip[0]", "ip[2:2]", "ip6[6]", "tcp[13]", "tcp[tcpflags]", "tcp[0:2]", "udp[4:2]",
			"icmp[icmptype]", "icmp6[0]", "ether[0]", "ether[12:2]", "ip[12:4]", "tcp[(tcp[12] & 0xf0) >> 2]", "ip[(ip[0] & 15) << 2]", "tcp-syn")
	}
	return arith(2) + " " + one("=", "!=", ">", "<", ">=", "<=") + " " + arith(1)
}
