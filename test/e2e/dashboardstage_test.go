//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"opentap/auth/openid/openidtest"
	"opentap/internal/await"
	"opentap/internal/nettest"
)

// hostileName is what somebody calls a device who wishes its readers ill: markup, the end of an attribute, an escape sequence, and
// the order of letters turned round.
const hostileName = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> \x1b[31m\u202egnp.exe"

// stage is a daemon that has something of everything to show: a cable with traffic, a tool for copies, three OpenFlow switches, a
// provider of identities, projects, hostile names.
type stage struct {
	*lab
	d   *daemon
	ovs *nettest.OVS // nil without Open vSwitch
	idp *openidtest.Provider
	// longest says that the cable carries frames of 64 KiB.
	longest bool
}

func newStage(t *testing.T) *stage {
	t.Helper()
	l := newLab(t)
	s := &stage{lab: l, longest: true}
	l.near.Ready("tap0")
	nettest.Veth(t, l.near, "tool0", l.near, "tool1")
	for _, x := range []struct {
		ns   *nettest.NS
		name string
	}{{l.far, "wire0"}, {l.near, "tap0"}, {l.near, "tool0"}, {l.near, "tool1"}} {
		if err := x.ns.Netlink().LinkSetMTU(x.ns.Link(x.name), 65535); err != nil { // the longest frames are shown as well
			t.Fatal(err)
		}
	}
	l.near.Do(func() { s.idp = openidtest.New(t) })
	s.idp.Users["alice"] = map[string]any{"groups": []string{"ops"}}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(s.idp.Secret), 0o600); err != nil {
		t.Fatal(err)
	}
	yaml := fmt.Sprintf(`
name: lab
points:
  aliases:
    - {point: tap0, name: uplink}
    - {point: tool1, name: %q}
recorders:
  - {point: tap0, bytes: 64MiB}
projects:
  - {name: red, description: %q, points: ["*/tap0"], captures: 10, bytes: 1GB, max_duration: 10m}
  - {name: default, description: "Everything that is nobody else’s"}
auth:
  oidc:
    - name: Example & Sons
      issuer: %s
      client_id: opentap
      client_secret_file: %s
      rules: [{claim: groups, value: ops, role: operator}]
`, hostileName, "the red team "+hostileName, s.idp.URL, secret)
	if s.switches(t) {
		yaml += "fabric: {listen: \"127.0.0.1:6653\", every: 3s}\n"
	}
	s.d = prepare(t, l.near, yaml)
	s.d.start()
	s.idp.Redirects[s.d.url()+"/v1/session/oidc/callback"] = true
	if s.ovs != nil {
		s.cable(t)
	}
	return s
}

// switches makes s1 and s2 with two hosts each, and s3 with the capture host, where Open vSwitch is.
func (s *stage) switches(t *testing.T) bool {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/ovs-vswitchd"); err != nil {
		return false
	}
	s.ovs = nettest.NewOVS(t, s.near)
	for i := 1; i <= 3; i++ {
		s.ovs.Bridge(fmt.Sprintf("s%d", i), uint64(i))
	}
	port := func(sw, n int) string {
		return fmt.Sprintf("s%d-eth%d", sw, n)
	}
	host := func(n, sw, p int) {
		nettest.Veth(t, s.near, port(sw, p), s.far, fmt.Sprintf("h%d", n))
		s.ovs.Port(fmt.Sprintf("s%d", sw), port(sw, p), p)
	}
	for n := 1; n <= 2; n++ {
		host(n, 1, n)
		host(n+5, 2, n)
		for sw := 1; sw <= 2; sw++ {
			nettest.Veth(t, s.near, port(sw, n+5), s.near, port(3, n+5*(sw-1)))
			s.ovs.Port(fmt.Sprintf("s%d", sw), port(sw, n+5), n+5)
			s.ovs.Port("s3", port(3, n+5*(sw-1)), n+5*(sw-1))
		}
	}
	host(11, 3, 11)
	return true
}

// cable has the switches come to the daemon, and mirrors two hosts of theirs.
func (s *stage) cable(t *testing.T) {
	t.Helper()
	for _, sw := range []string{"s1", "s2", "s3"} {
		s.ovs.Controller(sw, "tcp:127.0.0.1:6653")
	}
	file := s.d.file("fabric.yaml")
	if err := os.WriteFile(file, []byte(`
switches: {s1: {dpid: 1}, s2: {dpid: 2}, s3: {dpid: 3}}
pairs: [[s1/1, s1/2], [s2/1, s2/2]]
ports:
  h1: {at: s1/1, role: filter}
  h7: {at: s2/2, role: filter}
  h11: {at: s3/11, role: delivery}
policies:
  - {name: mirror-h1, from: [h1], to: [h11]}
  - {name: web-of-h7, from: [h7], to: [h11], filter: tcp port 80}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.d.must("fabric", "apply", "-q", "-f", file)
	await.Until(t, "the policies are active", func() bool {
		return strings.Count(s.d.must("fabric", "show", "-o", "json"), `"state": "active"`) == 2
	})
}

// chatter sends all kinds of packets, hostile ones among them, until the returned function is called.
func (s *stage) chatter(t *testing.T) (stop func()) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	senders := map[string]*nettest.Sender{}
	if s.ovs != nil {
		for _, h := range []string{"h1", "h7"} {
			senders[h] = nettest.NewSender(t, s.far, h)
		}
	}
	names := []string{"www.example.com", "<script>alert(1)</script>.evil.example", "a\x1b[2Jb.example", strings.Repeat("long-label-of-sixty-three-octets-that-never-seems-to-end-at-all.", 3) + "example"}
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			s.Send(zoo(10)...)
			s.Send(nettest.Packet{SrcPort: 4000, DstPort: 5353, Payload: append([]byte("<script>alert(1)</script>\x1b[2J\u202e"), numbered(i, 60)...)}.Bytes())
			s.Send(nettest.Packet{Proto: nettest.TCP, TCPFlags: 0x18, SrcPort: 4001, DstPort: 80, Seq: uint32(i), Payload: []byte("GET /<img src=x onerror=alert(1)> HTTP/1.1\r\nHost: <b>x</b>\r\n\r\n")}.Bytes())
			s.Send(nettest.Packet{SrcPort: uint16(5000 + i%100), DstPort: 53, Payload: question(uint16(i), names[i%len(names)])}.Bytes())
			if s.longest && i%50 == 0 {
				s.Send(nettest.Packet{Proto: nettest.TCP, TCPFlags: 0x18, SrcPort: 4002, DstPort: 80, Seq: uint32(i), Payload: []byte("GET /" + strings.Repeat("W", 64000) + " HTTP/1.1\r\nHost: long\r\n\r\n")}.Bytes())
			}
			for _, h := range senders {
				h.Send(plain(i, 2, 7000)...)
			}
		}
	})
	return func() { close(quit); wg.Wait() }
}

// question is a DNS query for the address of a name, RFC 1035 section 4.1.
func question(id uint16, name string) []byte {
	b := []byte{byte(id >> 8), byte(id), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, label := range strings.Split(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0, 0, 1, 0, 1)
}
