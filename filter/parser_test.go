package filter

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// TestCanonical states the canonical text of expressions.
func TestCanonical(t *testing.T) {
	for _, c := range [][2]string{
		{"", ""},
		{"  ", ""},
		{"tcp", "tcp"},
		{"tcp port http or https", "tcp port 80 or tcp port 443"},
		{"port 80 or 443", "port 80 or port 443"},
		{"port http", "tcp port 80"},
		{"port domain", "port 53"},
		{"tcp port 80 or udp port 53", "tcp port 80 or udp port 53"},
		{"src or dst host 10.0.0.1", "host 10.0.0.1"},
		{"src and dst 10.0.0.1", "src and dst host 10.0.0.1"},
		{"host 10.1", "net 10.1.0.0/16"},
		{"net 10", "net 10.0.0.0/8"},
		{"net 10.0.0.0 mask 255.0.255.0", "net 10.0.0.0 mask 255.0.255.0"},
		{"net 2001:db8::/32", "net 2001:db8::/32"},
		{"host ::ffff:1.2.3.4", "host 0:0:0:0:0:ffff:102:304"},
		{"a:b:c:d:e:f", ""},
		{"ether src 2:0:0:0:0:1", "ether src host 02:00:00:00:00:01"},
		{"ip or arp and tcp", "(ip or arp) and tcp"},
		{"ip or (arp and tcp)", "ip or (arp and tcp)"},
		{"ip and arp or tcp", "(ip and arp) or tcp"},
		{"!tcp && (udp || icmp)", "not tcp and (udp or icmp)"},
		{"host 10.0.0.1 and not 10.0.0.2", "host 10.0.0.1 and not host 10.0.0.2"},
		{"port (80 or 443)", "port 80 or port 443"},
		{"ip proto \\tcp", "ip proto 6"},
		{"ip6 proto tcp", "ip6 proto 6"},
		{"ether proto 0x800", "ip"},
		{"vlan 100 and vlan", "vlan 100 and vlan"},
		{"vlan (100)", "vlan 100"},
		{"less 64", "len <= 64"},
		{"greater 64", "len >= 64"},
		{"tcp[tcpflags] & (tcp-syn|tcp-ack) != 0", "tcp[13] & (2 | 16) != 0"},
		{"icmp[icmptype]=icmp-echo", "icmp[0] = 8"},
		{"ip[2:2]>576", "ip[2:2] > 576"},
		{"len = 10 % 3 % 2", "len = 10 % (3 % 2)"},
		{"len = 10 - 3 - 2", "len = (10 - 3) - 2"},
		{"mpls 5", "mpls 5"},
		{"pppoes 7", "pppoes 7"},
		{"pppoed", "pppoed"},
		{"multicast", "ether multicast"},
		{"vlan 100-120,300", "vlan 100-120,300"},
		{"vlan 0x10-0x20 , 5", "vlan 16-32,5"},
		{"vlan 7-7", "vlan 7"},
		{"geneve 5 and inner(tcp or udp)", "geneve 5 and inner(tcp or udp)"},
		{"geneve", "geneve"},
		{"inner(inner(port 80 or 443)) and inbound", "inner(inner(port 80 or port 443)) and inbound"},
		{"not outbound", "not outbound"},
		{"llc", "llc"},
		{"llc rnr", "llc rnr"},
		{"llc and iso", "llc and iso"},
		{"es-is", "esis"},
		{"iso proto \\clnp", "clnp"},
		{"iso proto 5", "iso proto 5"},
		{"isis proto 15", "isis proto 15"},
		{"l1 or lsp", "l1 or lsp"},
		{"1 << len > 1", "1 << len > 1"},
	} {
		e, err := Parse(c[0])
		if c[1] == "" && strings.TrimSpace(c[0]) != "" {
			if err == nil {
				t.Errorf("%q is taken as %q", c[0], e)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c[0], err)
			continue
		}
		if got := e.String(); got != c[1] {
			t.Errorf("%q prints as %q, want %q", c[0], got, c[1])
		}
	}
}

// TestErrors: the error points at the character and says what to do.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		expr string
		pos  int
		want string
	}{
		{"tcp prot 80", 4, "did you mean port?"},
		{"hots 10.0.0.1", 0, "did you mean host?"},
		{"host 10.0.0.300", 12, "300 is too large"},
		{"host 10.0.0.1.2", 5, "not an IPv4 address"},
		{"host www.example.org", 5, "names are not looked up"},
		{"host", 4, "a value must follow"},
		{"port", 4, "a value must follow"},
		{"port 70000", 5, "more than 65535"},
		{"port 80-90", 5, "portrange 80-90"},
		{"port foo", 5, "unknown port name"},
		{"udp port ssh", 9, "not a udp port"},
		{"portrange a-b", 10, "not a range"},
		{"port 80,443", 7, "join values with or"},
		{"tcp and", 7, "ends too early"},
		{"tcp or or udp", 7, "did not expect \"or\""},
		{"(tcp", 4, "opened at character 1"},
		{"tcp)", 3, "no ( for it"},
		{"tcp udp", 4, "join conditions"},
		{"tcp or 80", 7, "a number alone"},
		{"10.0.0.1", 0, "host, net"},
		{"net 10.0.0.1/8", 4, "outside its mask"},
		{"host 10.0.0.0/8", 5, "write net"},
		{"src 10.0.0.0/8", 4, "write net"},
		{"net 10.0.0.0/33", 13, "0 to 32"},
		{"net 2001:db8::/129", 15, "0 to 128"},
		{"net 2001:db8::1/64", 4, "outside its mask"},
		{"host 2001:db8::g", 15, "did not expect"},
		{"host 1:2:3:4:5:6:7", 5, "not an IPv6 address"},
		{"host 1:2:3:4:5:6", 5, "needs ether"},
		{"ether host 10.0.0.1", 11, "no Ethernet address"},
		{"ip host ::1", 8, "IPv6 address does not occur"},
		{"ip6 host 10.0.0.1", 9, "no IPv6 address"},
		{"tcp host 10.0.0.1", 0, "tcp and host"},
		{"arp port 80", 0, "arp has no ports"},
		{"ip broadcast", 3, "mask"},
		{"vlan 5000", 5, "more than 4095"},
		{"vlan 120-100", 5, "write 100-120"},
		{"vlan 100,", 9, "must follow the comma"},
		{"vlan 100-5000", 5, "more than 4095"},
		{"vlan 100 - 120", 9, "without blanks"},
		{"host 10.0.0.1 and inner tcp", 24, "( must follow inner"},
		{"inner(tcp", 9, "opened at character 6"},
		{"inner(80)", 6, "a number alone"},
		{"port 80 or inner(443)", 17, "a number alone"},
		{"gateway 10.0.0.1", 0, "name server"},
		{"geneve 16777216", 7, "more than 16777215"},
		{"1 << (1 << (1 << (1 << len))) > 1", 2, "inside one another"},
		{"tcp[13", 6, "expected ]"},
		{"tcp[0:3] = 1", 6, "1, 2 or 4"},
		{"tcp[13] & 2", 11, "compare it"},
		{"tcp[1/0] = 1", 5, "division by zero"},
		{"len << 32 > 1", 4, "31 bits"},
		{"ah[0] = 1", 2, "cannot be read"},
		{"len = 99999999999", 6, "more than 32 bits"},
		{"port 089", 5, "octal"},
		{"ether", 5, "alone is no condition"},
		{"ip protochain 6", 3, "loop"},
		{"gateway foo", 0, "ether host MAC"},
		{"tcp $ udp", 4, "not part of the language"},
		{"'tcp'", 0, "without quotes"},
		{"ip proto 300", 9, "more than 255"},
		{"src proto 6", 4, "no direction"},
		{"é", 0, "not part of the language"},
		{"port 80 or (443 or tcp)", 19, "values only"},
		{"tcp \\", 4, "backslash"},
	} {
		e, err := Parse(c.expr)
		var se *SyntaxError
		if !errors.As(err, &se) {
			t.Errorf("%q: %v, %v; want a syntax error", c.expr, e, err)
			continue
		}
		if se.Pos != c.pos || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: position %d, want %d with %q:\n%v", c.expr, se.Pos, c.pos, c.want, err)
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != 3 || strings.TrimLeft(lines[2], " ") != "^" {
			t.Errorf("%q: no caret line:\n%v", c.expr, err)
		}
	}
}

// TestBounds: hostile texts are refused quickly.
func TestBounds(t *testing.T) {
	start := time.Now()
	for _, x := range []string{
		strings.Repeat("(", 1<<20), strings.Repeat("(", 60000), strings.Repeat("not ", 15000) + "tcp",
		strings.Repeat("!", 60000) + "tcp", "len = " + strings.Repeat("-", 60000) + "1", "len = " + strings.Repeat("(", 60000),
		strings.Repeat("ip[", 20000), "vlan " + strings.Repeat("(", 60000) + "1", "port " + strings.Repeat("(", 60000) + "1",
		"len = " + strings.Repeat("1 % ", 15000) + "1", "port " + strings.Repeat("not ", 15000) + "1",
		strings.Repeat("a", 60000), strings.Repeat("1", 60000), strings.Repeat(":", 60000), strings.Repeat("1:", 30000),
		strings.Repeat("tcp or ", 9000) + "udp",
	} {
		if _, err := Parse(x); err == nil {
			t.Errorf("%.20q...: taken", x)
		} else if len(err.Error()) > 1000 {
			t.Errorf("%.20q...: message of %d octets", x, len(err.Error()))
		}
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
	if _, err := Parse("tcp" + strings.Repeat(" or tcp and udp", 4000)); err != nil {
		t.Errorf("a long flat filter: %v", err)
	}
}

func TestExplain(t *testing.T) {
	for _, c := range [][2]string{
		{"", "Every packet."},
		{"tcp port 80", "Packets with TCP port 80 as source or destination."},
		{"vlan 100 and not arp", "Packets with VLAN 100 and that are not ARP."},
		{"not (src net 10 or udp)", "Packets without an IPv4 address of 10.0.0.0/8 as source (in ARP and RARP too) and that are not UDP."},
		{"ip6 proto 44 or ether proto 0x88cc", "Packets that are IPv6 with next header 44 or that are of EtherType 0x88cc."},
		{"tcp[13] & 2 != 0", "Packets whose tcp[13] & 2 is not 0."},
		{"not len > 100", "Packets whose length in octets is at most 100."},
		{"portrange 6000-6008 and ether broadcast", "Packets with a TCP, UDP or SCTP port from 6000 to 6008 as source or destination and that are sent to the Ethernet broadcast address."},
	} {
		e, err := Parse(c[0])
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Explain(); got != c[1] {
			t.Errorf("%q: %q, want %q", c[0], got, c[1])
		}
	}
}

// FuzzParse: Parse gives a tree or an error, in bounded time, and the canonical text is a fixed point.
func FuzzParse(f *testing.F) {
	b, err := os.ReadFile("filtertest/expressions.txt")
	if err != nil {
		f.Fatal(err)
	}
	for l := range strings.SplitSeq(string(b), "\n") {
		f.Add(l)
	}
	for _, x := range []string{"host 10.0.0.300", "((((", "tcp[", "port 80-", "1::2::3", "\\", "len=-%^", "\xff\x00"} {
		f.Add(x)
	}
	f.Fuzz(func(t *testing.T, x string) {
		e, err := Parse(x)
		if (e == nil) == (err == nil) {
			t.Fatalf("%q: %v, %v", x, e, err)
		}
		if err != nil {
			var se *SyntaxError
			if !errors.As(err, &se) || se.Pos < 0 || se.Pos > len(x) || se.Msg == "" {
				t.Fatalf("%q: %#v", x, err)
			}
			_ = err.Error()
			return
		}
		if e.Explain() == "" {
			t.Fatalf("%q: no explanation", x)
		}
		if strings.TrimSpace(x) != "" && e.Root == nil {
			t.Fatalf("%q: no tree", x)
		}
		s := e.String()
		again, err := Parse(s)
		if err != nil {
			var se *SyntaxError
			if errors.As(err, &se) && (strings.Contains(se.Msg, "longer than") || strings.Contains(se.Msg, "deeper")) {
				return
			}
			t.Fatalf("%q: canonical %q: %v", x, s, err)
		}
		if again.String() != s {
			t.Fatalf("%q: canonical %q prints as %q", x, s, again)
		}
	})
}
