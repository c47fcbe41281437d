package cbpf

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"opentap/filter"
	"opentap/packet"
)

// TestLibpcapLive compares with the installed libpcap, which may be another version than the stored programs are from.
func TestLibpcapLive(t *testing.T) {
	needTcpdump(t)
	if testing.Short() {
		t.Skip("starts tcpdump some hundred times")
	}
	file := emptyCapture(t, packet.LinkEthernet)
	frames := genFrames(23, 2000, false)
	for _, x := range expressions(t) {
		sameAsLibpcap(t, ask(file, x), packet.LinkEthernet, frames)
	}
}

// genExpr makes a random expression.
func genExpr(r *rapid.T, depth int) string {
	one := func(s ...string) string { return rapid.SampledFrom(s).Draw(r, "word") }
	if depth > 0 {
		switch rapid.IntRange(0, 7).Draw(r, "shape") {
		case 0:
			return genExpr(r, depth-1) + " and " + genExpr(r, depth-1)
		case 1:
			return genExpr(r, depth-1) + " or " + genExpr(r, depth-1)
		case 2:
			return "(" + genExpr(r, depth-1) + " " + one("and", "or") + " " + genExpr(r, depth-1) + ")"
		case 3:
			return "not " + genExpr(r, depth-1)
		case 4:
			return "not (" + genExpr(r, depth-1) + ")"
		}
	}
	dir := func() string { return one("", "", "src ", "dst ", "src or dst ", "src and dst ") }
	ip4 := func() string { return one("10.0.0.1", "10.0.0.2", "10.1.2.3", "192.168.1.5", "1.2.3.4", "224.0.0.1") }
	ip6 := func() string { return one("2001:db8::1", "fe80::200:ff:fe00:1", "ff02::1", "2001:db8:1::2") }
	port := func() string { return one("80", "443", "53", "22", "5060", "http", "domain", "0x50") }
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

// TestLibpcapRandom compares generated expressions with the installed libpcap on generated frames.
func TestLibpcapRandom(t *testing.T) {
	needTcpdump(t)
	file := emptyCapture(t, packet.LinkEthernet)
	frames := genFrames(rand.Uint64(), 1500, false)
	compared, refused := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		x := genExpr(r, 3)
		if rapid.IntRange(0, 3).Draw(r, "geneve") == 0 {
			x = "geneve and " + x
		}
		plain, msg := libpcap(file, x, false)
		e, err := filter.Parse(x)
		if err == nil {
			_, err = Compile(e, Options{Link: packet.LinkEthernet, Strict: true})
		}
		if msg != "" {
			if err == nil {
				r.Fatalf("%q: libpcap refuses it, we do not: %s", x, msg)
			}
			refused++
			return
		}
		if err != nil {
			for _, known := range []string{"intermediate values", "inside one another", "behind geneve", "shift by more", "memory words", "outer packet"} {
				if strings.Contains(err.Error(), known) {
					return
				}
			}
			r.Fatalf("%q: libpcap takes it, we do not: %v", x, err)
		}
		before := t.Failed()
		sameAsLibpcap(t, golden{expr: x, plain: plain}, packet.LinkEthernet, frames)
		if !before && t.Failed() {
			r.Fatal(fmt.Sprintf("%q differs", x))
		}
		compared++
	})
	t.Logf("%d expressions compared on %d frames, %d refused by both", compared, len(frames), refused)
}
