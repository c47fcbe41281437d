package oftap

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"opentap/fabric"
	"opentap/fabric/reconcile"
	"opentap/fabric/session"
	"opentap/internal/nettest"
	"opentap/tap"
	"opentap/tap/taptest"
	"opentap/want"
)

// loom is a fabric of two switches on Open vSwitch: at s1 a pair, 1 and 2, whose 1 is a filter port; a cable from s1/3 to s2/3; a tool
// at s2/1. It outlives drivers.
type loom struct {
	t               *testing.T
	switches, hosts *nettest.NS
	ovs             *nettest.OVS
	engine          *reconcile.Engine
	base            *fabric.Layout

	mu     sync.Mutex
	wishes []Wish

	tool   *nettest.Ear
	peer   *nettest.Ear // at the other end of the pair
	sender *nettest.Sender
}

func (f *loom) Layout() *fabric.Layout { return f.base }

func (f *loom) Carried() []Wish {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Wish(nil), f.wishes...)
}

func (f *loom) Carry(list []Wish) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wishes = list
	l, refused := With(f.base, list)
	if len(refused) > 0 {
		f.t.Errorf("refused: %v", refused)
	}
	f.engine.Want(l)
}

func (f *loom) Settle(ctx context.Context) error { return f.engine.Await(ctx) }

func (f *loom) View(ctx context.Context, fresh bool) (want.FabricView, error) {
	return f.engine.View(ctx, fresh)
}

type noMemory struct{}

func (noMemory) LoadMemory(context.Context) (m reconcile.Memory, err error) { return m, nil }
func (noMemory) SaveMemory(context.Context, reconcile.Memory) error         { return nil }

func newLoom(t *testing.T) *loom {
	t.Helper()
	f := &loom{t: t, switches: nettest.NewNS(t), hosts: nettest.NewNS(t)}
	f.ovs = nettest.NewOVS(t, f.switches)
	f.ovs.Bridge("s1", 1)
	f.ovs.Bridge("s2", 2)
	f.plug("s1", "s1-1", "h1", 1)
	f.plug("s1", "s1-2", "h2", 2)
	f.plug("s2", "s2-1", "tool", 1)
	nettest.Veth(t, f.switches, "s1-3", f.switches, "s2-3")
	f.ovs.Port("s1", "s1-3", 3)
	f.ovs.Port("s2", "s2-3", 3)
	var err error
	if f.base, err = fabric.NewLayout(want.Fabric{
		Switches: map[string]want.FabricSwitch{"s1": {DPID: 1}, "s2": {DPID: 2}},
		Pairs:    []want.FabricPair{{"s1/1", "s1/2"}},
		Ports:    map[string]want.FabricPort{"line": {At: "s1/1", Role: want.RoleFilter}, "ids": {At: "s2/1", Role: want.RoleDelivery}},
		Links:    []want.FabricLink{{A: "s1/3", B: "s2/3"}},
	}); err != nil {
		t.Fatal(err)
	}
	cfg := reconcile.DefaultConfig()
	cfg.Every = time.Hour
	f.engine = reconcile.New(cfg, fabric.Seal{Key: []byte("test")}, noMemory{}, slog.New(slog.DiscardHandler))
	var l net.Listener
	f.switches.Do(func() { l, err = net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	f.engine.Lead(1)
	f.engine.Want(f.base)
	wg.Go(func() { _ = f.engine.Run(ctx) })
	wg.Go(func() {
		_ = session.NewServer(session.DefaultConfig(), f.engine, slog.New(slog.DiscardHandler)).Run(ctx, l)
	})
	f.ovs.Controller("s1", "tcp:"+l.Addr().String())
	f.ovs.Controller("s2", "tcp:"+l.Addr().String())
	f.until("the switches are up to date and the cable is proven", func(v *want.FabricView) bool {
		return len(v.Switches) == 2 && v.Switches[0].InSync && v.Switches[1].InSync && len(v.Links) == 1 && v.Links[0].Confirmed
	})
	f.tool = nettest.NewEar(t, f.hosts, "tool")
	return f
}

// plug connects a host's interface to a port of a switch.
func (f *loom) plug(bridge, port, host string, number int) {
	nettest.Veth(f.t, f.switches, port, f.hosts, host)
	f.ovs.Port(bridge, port, number)
}

func (f *loom) until(what string, ok func(v *want.FabricView) bool) {
	f.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		v, err := f.engine.View(context.Background(), false)
		if err == nil && ok(&v) {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("timed out: %s: %v %+v", what, err, v)
		}
	}
}

func (f *loom) send(frames ...[]byte) {
	f.ovs.Settle()
	if f.sender == nil {
		f.sender, f.peer = nettest.NewSender(f.t, f.hosts, "h1"), nettest.NewEar(f.t, f.hosts, "h2")
	}
	for some := range slices.Chunk(frames, 20) {
		f.sender.Send(some...)
		for range some { // the switch is a program: it gets no more before these have passed the pair
			f.peer.Next(2 * time.Second)
		}
	}
	f.ovs.Settle() // they are counted by the rules that there were
}

func (f *loom) vanish() {
	f.ovs.Ctl("del-port", "s1", "s1-1")
	f.switches.Delete("s1-1")
	f.sender = nil
	f.until("the port is gone", func(v *want.FabricView) bool { return !present(v, "s1/1") })
}

func (f *loom) come() {
	f.plug("s1", "s1-1", "h1", 1)
	f.until("the port is back", func(v *want.FabricView) bool { return present(v, "s1/1") })
}

func TestNetnsDriver(t *testing.T) {
	taptest.Driver(t, func(t *testing.T) *taptest.Lab {
		f := newLoom(t)
		return &taptest.Lab{
			Open: func() tap.Driver { return New(f) }, Do: func(fn func()) { fn() }, Source: "s1/1", Tool: "s2/1",
			Send: f.send, Hear: func() [][]byte { return f.tool.All(150 * time.Millisecond) }, Vanish: f.vanish, Return: f.come, Merges: true,
			Strange: func() func() bool {
				f.ovs.Ofctl("add-flow", "s1", "cookie=0x99,priority=7,in_port=9,actions=drop")
				return func() bool { return strings.Contains(f.ovs.Ofctl("dump-flows", "s1"), "cookie=0x99") }
			},
		}
	})
}
