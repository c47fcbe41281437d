package agent

import (
	"bufio"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"opentap/internal/await"
	"opentap/point"
)

// What Open vSwitch notes of a device is among its facts, whichever of the two is heard of first.
func TestOwnersOfDevices(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "ovsdb")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	// Whoever asks is answered: the driver of taps asks the same database, and one of the two is first.
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 1024))
				_, _ = c.Write([]byte(`{"id":"monitor","error":null,"result":{"Interface":{"u":{"new":{"name":"lo","external_ids":["map",[["iface-id","port-1"]]]}}}}}`))
				_, _ = bufio.NewReader(c).ReadByte() // until the agent goes
			})
		}
	})
	h := newHost(t, func(c *Config) { c.OVSDB = sock })
	h.start()
	lo := func() (p point.Point) {
		points, _ := h.Inventory()
		for _, p := range points {
			if p.Name == "lo" {
				return p
			}
		}
		return p
	}
	await.Until(t, "the owner is known", func() bool { return lo().IfaceID == "port-1" })
	h.owners.setDevices(h.Agent, []point.Point{{Name: "lo"}, {Name: "eth9"}})
	if got := lo().IfaceID; got != "port-1" {
		t.Errorf("after the devices changed: %q", got)
	}
	h.end()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	served.Wait()
}
