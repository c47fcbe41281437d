package reconcile

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"opentap/fabric"
	"opentap/fabric/session"
	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/want"
)

// demon is PyTapDEMON's topology on real switches: s1 and s2 with five hosts each, five cables from each to s3, and
// the capture host h11 there.
type demon struct {
	t        *testing.T
	switches *nettest.NS
	hosts    *nettest.NS
	ovs      *nettest.OVS
}

func newDemon(t *testing.T) *demon {
	t.Helper()
	d := &demon{t: t, switches: nettest.NewNS(t), hosts: nettest.NewNS(t)}
	d.ovs = nettest.NewOVS(t, d.switches)
	for i := 1; i <= 3; i++ {
		d.ovs.Bridge(fmt.Sprintf("s%d", i), uint64(i))
	}
	host := func(n, sw, port int) {
		a, b := fmt.Sprintf("s%d-eth%d", sw, port), fmt.Sprintf("h%d", n)
		nettest.Veth(t, d.switches, a, d.hosts, b)
		d.ovs.Port(fmt.Sprintf("s%d", sw), a, port)
	}
	for n := 1; n <= 5; n++ {
		host(n, 1, n)
		host(n+5, 2, n)
	}
	host(11, 3, 11)
	for n := 1; n <= 5; n++ {
		d.cable(1, n+5, 3, n)
		d.cable(2, n+5, 3, n+5)
	}
	return d
}

func (d *demon) cable(s1, p1, s2, p2 int) {
	a, b := fmt.Sprintf("s%d-eth%d", s1, p1), fmt.Sprintf("s%d-eth%d", s2, p2)
	nettest.Veth(d.t, d.switches, a, d.switches, b)
	d.ovs.Port(fmt.Sprintf("s%d", s1), a, p1)
	d.ovs.Port(fmt.Sprintf("s%d", s2), b, p2)
}

// seed is the seed's scenario.
func seed() want.Fabric {
	return want.Fabric{
		Switches: map[string]want.FabricSwitch{"s1": {DPID: 1}, "s2": {DPID: 2}, "s3": {DPID: 3}},
		Pairs:    []want.FabricPair{{"s1/1", "s1/2"}, {"s1/3", "s1/4"}, {"s2/1", "s2/2"}},
		Ports: map[string]want.FabricPort{
			"h1": {At: "s1/1", Role: want.RoleFilter}, "h7": {At: "s2/2", Role: want.RoleFilter}, "h11": {At: "s3/11", Role: want.RoleDelivery},
		},
		Policies: []want.FabricPolicy{
			{Name: "mirror-h1", From: []string{"h1"}, To: []string{"h11"}},
			{Name: "mirror-h7", From: []string{"h7"}, To: []string{"h11"}},
		},
	}
}

// memory is a Keeper.
type memory struct {
	mu sync.Mutex
	m  Memory
}

func (k *memory) LoadMemory(context.Context) (Memory, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return Memory{Tags: *k.m.Tags.Clone(), Links: k.m.Links}, nil
}

func (k *memory) SaveMemory(_ context.Context, m Memory) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.m = Memory{Tags: *m.Tags.Clone(), Links: m.Links}
	return nil
}

// controller is an engine with its server, in the switches' namespace.
type controller struct {
	*Engine
	addr string
	stop func()
}

// control starts one. addr "" = any port.
func (d *demon) control(k Keeper, addr string) *controller {
	d.t.Helper()
	return d.controlWith(k, addr, func(*Config) {})
}

// controlWith starts one that is set otherwise.
func (d *demon) controlWith(k Keeper, addr string, set func(*Config)) *controller {
	d.t.Helper()
	log := slog.New(slog.NewTextHandler(testLog{d.t}, nil))
	cfg := DefaultConfig()
	cfg.Every = time.Hour // tests ask for a turn
	cfg.Retry = 2 * time.Second
	set(&cfg)
	e := New(cfg, fabric.Seal{Key: []byte("test")}, k, log)
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	var l net.Listener
	var err error
	d.switches.Do(func() { l, err = net.Listen("tcp", addr) })
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	e.Lead(1)
	wg.Go(func() { _ = e.Run(ctx) })
	wg.Go(func() { _ = session.NewServer(session.DefaultConfig(), e, log).Run(ctx, l) })
	var once sync.Once
	stop := func() { once.Do(func() { cancel(); wg.Wait() }) }
	d.t.Cleanup(stop)
	return &controller{e, l.Addr().String(), stop}
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}

func layout(t *testing.T, f want.Fabric) *fabric.Layout {
	t.Helper()
	l, err := fabric.NewLayout(f)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// active waits until all policies are.
func (c *controller) active(t *testing.T) want.FabricView {
	t.Helper()
	var v want.FabricView
	await.Until(t, "policies active", func() bool {
		v, _ = c.View(context.Background(), false)
		for _, p := range v.Policies {
			if p.State != want.PolicyActive {
				return false
			}
		}
		return len(v.Policies) > 0
	})
	return v
}

func (d *demon) connect(c *controller) {
	for i := 1; i <= 3; i++ {
		d.ovs.Controller(fmt.Sprintf("s%d", i), "tcp:"+c.addr)
	}
}

func TestNetnsSeedScenario(t *testing.T) {
	d := newDemon(t)
	c := d.control(&memory{}, "")
	c.Want(layout(t, seed()))
	d.connect(c)
	c.active(t)
	r, err := c.Verify(context.Background())
	if err != nil || !r.OK {
		t.Errorf("%v %+v", err, r)
	}
	ears := make(map[int]*nettest.Ear)
	for n := 1; n <= 11; n++ {
		ears[n] = nettest.NewEar(t, d.hosts, fmt.Sprintf("h%d", n))
	}
	send := func(n int, frames ...[]byte) { nettest.NewSender(t, d.hosts, fmt.Sprintf("h%d", n)).Send(frames...) }
	frame := func(n int) []byte {
		return nettest.Packet{SrcPort: uint16(n), DstPort: 7, Payload: []byte(fmt.Sprint("from h", n))}.Bytes()
	}
	tagged := nettest.Packet{SrcPort: 9, Tags: []nettest.Tag{{TCI: 0x2064}}, Payload: make([]byte, 300)}.Bytes()
	double := nettest.Packet{SrcPort: 10, Tags: []nettest.Tag{{TPID: nettest.EtherQinQ, TCI: 5}, {TCI: 77}}, Payload: make([]byte, 300)}.Bytes()
	send(1, frame(1), tagged, double)
	send(2, frame(2))
	send(3, frame(3))
	send(4, frame(4))
	send(6, frame(6))
	send(7, frame(7))
	send(5, frame(5))
	send(11, frame(11))
	wantAt := map[int][][]byte{
		1: {frame(2)}, 2: {frame(1), tagged, double}, 3: {frame(4)}, 4: {frame(3)}, 6: {frame(7)}, 7: {frame(6)},
		11: {frame(1), tagged, double, frame(7)},
	}
	for n := 1; n <= 11; n++ {
		got := ears[n].All(300 * time.Millisecond)
		kept := got[:0]
		for _, f := range got {
			if len(f) > 14 && f[12] == 0x88 && f[13] == 0xcc {
				continue
			}
			kept = append(kept, f)
		}
		if !sameFrames(kept, wantAt[n]) {
			t.Errorf("h%d got %d frames, want %d:\n%x\n%x", n, len(kept), len(wantAt[n]), kept, wantAt[n])
		}
	}
}

func sameFrames(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	used := make([]bool, len(b))
next:
	for _, x := range a {
		for i, y := range b {
			if !used[i] && bytes.Equal(x, y) {
				used[i] = true
				continue next
			}
		}
		return false
	}
	return true
}
