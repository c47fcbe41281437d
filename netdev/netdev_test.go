package netdev

import (
	"strings"
	"testing"

	"opentap/packet"
)

func TestLink(t *testing.T) {
	for _, c := range []struct {
		name   string
		arphrd uint16
		want   packet.LinkType
		reason string
	}{
		{"ethernet", 1, packet.LinkEthernet, ""},
		{"loopback", 772, packet.LinkEthernet, ""},
		{"tun", 0xfffe, packet.LinkRaw, ""},
		{"ipip", 768, packet.LinkRaw, ""},
		{"gre", 778, 0, "GRE tunnel"},
		{"can", 280, 0, "CAN"},
		{"monitor", 803, 0, "radiotap"},
		{"nobody knows", 4242, 0, "device type 4242"},
	} {
		t.Run(c.name, func(t *testing.T) {
			link, reason := Link(c.arphrd)
			if link != c.want || (reason == "") != (c.reason == "") || !strings.Contains(reason, c.reason) {
				t.Errorf("Link(%d) = %d, %q; want %d and a reason with %q", c.arphrd, link, reason, c.want, c.reason)
			}
		})
	}
}
