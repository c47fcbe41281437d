package bpftap

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"opentap/tap"
)

// TestNetnsRefusedDestinations: copies go neither into the host's own stack nor on to whom the packets are addressed; the
// same devices are sources as any other.
func TestNetnsRefusedDestinations(t *testing.T) {
	l := newLab(t, "")
	if err := l.host.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil {
		t.Fatalf("make a bridge: %v", err)
	}
	for name, why := range map[string]string{"lo": "loopback", "br0": "is a bridge"} {
		s := local("a", tap.Both, tap.Options{})
		s.To.Device = tap.Device{Name: name}
		if _, err := l.trySource(s); !errors.Is(err, tap.ErrUnsupported) || !strings.Contains(err.Error(), why) {
			t.Errorf("a tap to %s: %v", name, err)
		}
		var err error
		l.host.Do(func() {
			_, err = l.d.UpdateSink(context.Background(), tap.Sink{ID: "s", Device: tap.Device{Name: name}})
		})
		if !errors.Is(err, tap.ErrUnsupported) || !strings.Contains(err.Error(), why) {
			t.Errorf("a sink at %s: %v", name, err)
		}
		s = local("b", tap.Both, tap.Options{})
		s.Device = tap.Device{Name: name}
		l.source(s)
	}
}

// TestNetnsCloseLeavesNothing: what was refused, or taken away and not pruned, leaves nothing when the process ends in good
// order; a tap stays.
func TestNetnsCloseLeavesNothing(t *testing.T) {
	l := newLab(t, "")
	closed := func() []string {
		t.Helper()
		l.host.Do(func() {
			if err := l.d.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		l.d = nil
		left, err := filepath.Glob(filepath.Join(l.root, "opentap", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return left
	}
	s := local("a", tap.Both, tap.Options{Snap: 100}) // by the multiplexer
	l.source(s)
	if left := closed(); len(left) != 1 {
		t.Errorf("of a tap there is %q", left)
	}
	l.d = l.open("")
	var err error
	l.host.Do(func() { err = l.d.Delete(context.Background(), "a") })
	if err != nil {
		t.Fatal(err)
	}
	if left := closed(); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	if _, err := os.Stat(filepath.Join(l.root, "opentap", "agent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the agent's directory: %v", err)
	}
	if _, err := l.host.Netlink().LinkByName(muxIn); err == nil {
		t.Errorf("%s is left", muxIn)
	}
}

// TestNetnsOrphans: what an agent has left that does not run is found, what is of one that runs is not.
func TestNetnsOrphans(t *testing.T) {
	l := newLab(t, "")
	orphans := func() (dirs, devices []string) {
		t.Helper()
		var err error
		l.host.Do(func() { dirs, devices, err = Orphans(Config{PinRoot: l.root, Instance: "another"}) })
		if err != nil {
			t.Fatal(err)
		}
		return dirs, devices
	}
	l.source(local("a", tap.Both, tap.Options{Snap: 100})) // by the multiplexer
	if dirs, devices := orphans(); len(dirs)+len(devices) != 0 {
		t.Errorf("of an agent that runs: %q %q", dirs, devices)
	}
	l.host.Do(func() {
		if err := l.d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	dirs, devices := orphans()
	if len(dirs) != 1 || dirs[0] != filepath.Join(l.root, "opentap", "agent") || !slices.Contains(devices, muxIn) {
		t.Errorf("of an agent that does not run: %q %q", dirs, devices)
	}
	l.d = l.open("")
	if dirs, devices := orphans(); len(dirs)+len(devices) != 0 {
		t.Errorf("of an agent that runs again: %q %q", dirs, devices)
	}
}
