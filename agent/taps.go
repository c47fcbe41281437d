package agent

import (
	"context"
	"strings"

	"opentap/point"
	"opentap/tap"
	"opentap/tap/bpftap"
	"opentap/tap/ovstap"
	"opentap/tap/reconcile"
)

// tapping is what the agent has for taps.
type tapping struct {
	rec     *reconcile.Reconciler
	drivers []tap.Driver // what a kernel device stands for is eBPF's
	ovs     *ovstap.Driver
}

// openTaps takes hold of the taps of an earlier process, and of what is wished for. Where no driver works the taps say so.
func (a *Agent) openTaps() error {
	set, err := a.keep.taps()
	if err != nil {
		return err
	}
	known, err := a.keep.tapMemos()
	if err != nil {
		return err
	}
	ebpf, atFeeds := tap.Divide(newLateDriver("ebpf", bpftap.Left(a.tapConfig()), func() (tap.Driver, error) {
		return bpftap.Open(a.tapConfig())
	}), "ovs/")
	t := &tapping{ovs: ovstap.New(ovstap.Config{Socket: a.cfg.OVSDB, Instance: a.keep.nodeID, Copier: atFeeds})}
	t.drivers = []tap.Driver{ebpf, t.ovs}
	t.rec = reconcile.New(reconcile.Config{
		Drivers: t.drivers, Find: a.findDevice, Changed: func() { a.link.TapsChanged() },
		Keep: func(m []reconcile.Memo) {
			if err := a.keep.rememberTaps(m); err != nil {
				a.log.Error("the states of taps cannot be kept", "err", err)
			}
		},
		Known: known, Alive: a.keep.alive, Log: a.log,
	}, set)
	a.taps = t
	return nil
}

// LeftTaps finds what agents of this host have left of taps and do not run: directories in the BPF file system, and devices.
func (a *Agent) LeftTaps() (dirs, devices []string, err error) {
	return bpftap.Orphans(a.tapConfig())
}

// OpenVSwitch asks the Open vSwitch of this host, if there is one, whether taps can be made there, and which version it is.
func (a *Agent) OpenVSwitch(ctx context.Context) (version string, there bool, err error) {
	version, err = a.taps.ovs.Examine(ctx)
	return version, a.taps.ovs.Present(), err
}

// tapConfig is that of the driver.
func (a *Agent) tapConfig() bpftap.Config { return bpftap.Config{Instance: a.keep.nodeID, Log: a.log} }

// run keeps the taps real until ctx ends. They go on without us then.
func (t *tapping) run(ctx context.Context) {
	t.rec.Run(ctx)
	for _, d := range t.drivers {
		_ = d.Close() // what it has open is closed at our end at the latest
	}
}

// TapStates implements agentapi.Local.
func (a *Agent) TapStates() []tap.Status { return a.taps.rec.Statuses() }

// findDevice finds the device that is meant by its iface-id, its name, or its MAC address, in this order.
func (a *Agent) findDevice(d tap.Device) (reconcile.Place, bool) {
	devices := *a.devices.Load()
	place := func(p *point.Point) (reconcile.Place, bool) {
		return reconcile.Place{Name: p.Name, Index: p.IfIndex, MTU: p.MTU}, true
	}
	if d.IfaceID != "" {
		for i := range devices {
			if devices[i].IfaceID == d.IfaceID {
				return place(&devices[i])
			}
		}
	}
	sameMAC := func(p *point.Point) bool { return d.MAC == "" || strings.EqualFold(p.MAC, d.MAC) }
	for i := range devices {
		if p := &devices[i]; d.Name != "" && (p.Name == d.Name || d.MAC != "" && hasAlias(p, d.Name)) && sameMAC(p) {
			return place(p)
		}
	}
	for i := range devices {
		if d.MAC != "" && sameMAC(&devices[i]) {
			return place(&devices[i])
		}
	}
	return reconcile.Place{}, false
}

func hasAlias(p *point.Point, name string) bool {
	for _, alias := range p.Aliases {
		if alias == name {
			return true
		}
	}
	return false
}
