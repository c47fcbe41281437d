package session

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/wire/of13"
)

// listener is a Handler that counts frames.
type listener struct {
	*events
	frames atomic.Int64
}

func (l *listener) PacketIn(*Session, *of13.PacketIn) { l.frames.Add(1) }

// open connects a good switch to a session of its own, whose handler is h.
func open(t *testing.T, cfg Config, h Handler, up chan *Session) (*fake, *Session) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, cfg, h, l)
	f := connect(t, l.Addr().String(), nil)
	return f, get(t, "switch", up)
}

func TestFloodOfFramesIsCutOff(t *testing.T) {
	cfg := quick()
	cfg.PacketIns, cfg.Echo = 10, time.Minute
	h := &listener{events: newEvents()}
	f, s := open(t, cfg, h, h.up)
	const frames = 5000
	for range frames {
		f.send(9, &of13.PacketIn{Total: 60, Match: of13.Uint(of13.InPort, 1), Data: make([]byte, 60)})
	}
	await.Until(t, "all have come", func() bool { came, _ := s.PacketIns(); return came == frames })
	came, dropped := s.PacketIns()
	if looked := uint64(h.frames.Load()); looked+dropped != came || looked < 10 || dropped == 0 {
		t.Errorf("%d came, %d were looked at and %d dropped", came, looked, dropped)
	}
}

func TestSwitchThatInventsPorts(t *testing.T) {
	h := newEvents()
	var heard atomic.Int64
	go func() {
		for range h.ports {
			heard.Add(1)
		}
	}()
	t.Cleanup(func() { close(h.ports) })
	cfg := quick()
	cfg.Echo = time.Minute
	f, s := open(t, cfg, h, h.up)
	for n := uint32(1); n <= maxPorts+1000; n++ {
		f.send(n, &of13.PortStatus{Reason: of13.PortAdded, Port: of13.Port{Number: n, Name: "x"}})
	}
	// A port that is there changes all the same, and the one that was said before is gone when it says so.
	f.send(1, &of13.PortStatus{Reason: of13.PortModified, Port: of13.Port{Number: 1, Name: "again"}})
	f.send(1, &of13.PortStatus{Reason: of13.PortDeleted, Port: of13.Port{Number: 2}})
	await.Until(t, "all were heard", func() bool { return heard.Load() == maxPorts+1000+2 })
	ports := s.Ports()
	if _, there := ports[2]; there {
		t.Error("port 2 is there")
	}
	if len(ports) > maxPorts {
		t.Errorf("%d ports are remembered", len(ports))
	}
	if ports[1].Name != "again" {
		t.Errorf("port 1 is %+v", ports[1])
	}
}
