//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"opentap/internal/await"
	"opentap/internal/nettest"
)

// site is a network of hosts: each has eth0 on a common switch.
type site struct {
	t  testing.TB
	sw *nettest.NS
	n  int
}

func newSite(t testing.TB) *site {
	t.Helper()
	needRoot(t)
	s := &site{t: t, sw: nettest.NewNS(t), n: 10}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	attrs.HardwareAddr = net.HardwareAddr{2, 0, 10, 9, 0, 1} // of its own, it would change with each host that is added
	if err := s.sw.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Skipf("needs a kernel with bridges: %v", err)
	}
	s.sw.Up("br0")
	s.address(s.sw, "br0", "10.9.0.1/24")
	return s
}

func (s *site) address(ns *nettest.NS, dev, cidr string) {
	s.t.Helper()
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := ns.Netlink().AddrAdd(ns.Link(dev), a); err != nil {
		s.t.Fatalf("give %s the address %s: %v", dev, cidr, err)
	}
}

// machine is a host of a site; traffic for it to see is sent into wire0 and arrives at its tap0.
type machine struct {
	*daemon
	ip   string
	port string // of the switch
	far  *nettest.NS
	*nettest.Sender
}

// machine adds a host. yaml is its configuration.
func (s *site) machine(name, yaml string) *machine {
	s.t.Helper()
	s.n++
	h := &machine{ip: fmt.Sprintf("10.9.0.%d", s.n), port: fmt.Sprintf("port%d", s.n)}
	ns := nettest.NewNS(s.t)
	nettest.Veth(s.t, s.sw, h.port, ns, "eth0")
	if err := s.sw.Netlink().LinkSetMaster(s.sw.Link(h.port), s.sw.Link("br0")); err != nil {
		s.t.Fatal(err)
	}
	s.address(ns, "eth0", h.ip+"/24")
	h.daemon = prepare(s.t, ns, "node: "+name+"\n"+strings.ReplaceAll(yaml, "@IP", h.ip))
	return h
}

// controller starts a controller. yaml is what its configuration has besides; fleet is under its key fleet.
func (s *site) controller(name, fleet, yaml string) *machine {
	s.t.Helper()
	c := s.machine(name, "role: controller\nfleet:\n  listen: '@IP:2021'\n"+fleet+yaml)
	c.start()
	return c
}

// agent prepares an agent of these controllers that has not joined.
func (s *site) agent(name string, controllers ...*machine) *machine {
	s.t.Helper()
	var list []string
	for _, c := range controllers {
		list = append(list, "'"+c.ip+":2021'")
	}
	h := s.machine(name, fmt.Sprintf("role: agent\nfleet:\n  controllers: [%s]\n  join_token_file: TOKEN\n", strings.Join(list, ", ")))
	b, err := os.ReadFile(h.conf)
	if err == nil {
		err = os.WriteFile(h.conf, []byte(strings.ReplaceAll(string(b), "TOKEN", h.file("join.token"))), 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	h.far = nettest.NewNS(s.t)
	nettest.Veth(s.t, h.far, "wire0", h.ns, "tap0")
	h.Sender = nettest.NewSender(s.t, h.far, "wire0")
	return h
}

// join gives an agent a token and starts it.
func (h *machine) join(c *machine) {
	h.t.Helper()
	h.token(c.must("node", "join-token", "-q"))
	h.launch()
	c.awaitNode(h.name(), "connected")
}

// token is what it finds when it starts.
func (h *machine) token(text string) {
	h.t.Helper()
	if err := os.WriteFile(h.file("join.token"), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *machine) name() string {
	b, _ := os.ReadFile(h.conf)
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimPrefix(line, "node: ")
}

// says waits until the program has said something.
func (h *machine) says(text string) {
	h.t.Helper()
	await.Until(h.t, "it says "+text, func() bool { b, _ := os.ReadFile(h.log); return strings.Contains(string(b), text) })
}

// nodeView is a host as /v1 shows it.
type nodeView struct {
	Name            string    `json:"name"`
	ID              string    `json:"id"`
	Connected       bool      `json:"connected"`
	Since           time.Time `json:"since"`
	Revision        int64     `json:"revision"`
	Behind          bool      `json:"behind"`
	Problems        []string  `json:"problems"`
	Enrolled        time.Time `json:"enrolled"`
	CertificateEnds time.Time `json:"certificate_ends"`
	Revoked         time.Time `json:"revoked"`
	Epoch           string    `json:"epoch"`
}

func (d *daemon) node(name string) (n nodeView) {
	d.t.Helper()
	d.ask(200, "GET", "/v1/nodes/"+name, nil).decode(d.t, &n)
	return n
}

// awaitNode waits until a node is connected and its points are known, or it is gone or revoked.
func (d *daemon) awaitNode(name, state string) (n nodeView) {
	d.t.Helper()
	await.Until(d.t, "node "+name+" is "+state, func() bool {
		a := d.try("GET", "/v1/nodes/"+name, nil)
		if a.Status != 200 {
			return false
		}
		n = nodeView{}
		a.decode(d.t, &n)
		switch state {
		case "connected":
			return n.Connected && d.try("GET", "/v1/points/"+name+"%2Flo", nil).Status == 200
		case "gone":
			return !n.Connected && n.Revoked.IsZero()
		}
		return !n.Connected && !n.Revoked.IsZero()
	})
	return n
}

// cut takes a host off the network, and mend puts it back.
func (s *site) cut(h *machine)  { s.sw.Down(h.port) }
func (s *site) mend(h *machine) { s.sw.Up(h.port) }

func (h *machine) dirOf(v view) string { return filepath.Join(h.dir, "captures", v.UID) }
