package agent

import (
	"context"
	"slices"
	"sync"

	"opentap/netdev/ovsport"
	"opentap/point"
	"opentap/tap/bpftap"
	"opentap/tap/ovstap"
)

// owners says whose ports the devices are, as Open vSwitch notes it.
type owners struct {
	mu      sync.Mutex
	devices []point.Point     // as the kernel has them
	ids     map[string]string // iface-id by device
}

// setDevices takes over the kernel's devices.
func (o *owners) setDevices(a *Agent, devices []point.Point) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.devices = slices.DeleteFunc(devices, func(p point.Point) bool {
		return slices.ContainsFunc(p.Aliases, bpftap.OwnAlias) || slices.ContainsFunc(p.Aliases, ovstap.OwnAlias)
	})
	o.publish(a)
}

// publish shows the devices with their owners. o.mu is held.
func (o *owners) publish(a *Agent) {
	out := slices.Clone(o.devices)
	for i := range out {
		out[i].IfaceID = o.ids[out[i].Name]
	}
	a.devices.Store(&out)
}

// followOwners hears from Open vSwitch, where there is one, until ctx ends.
func (a *Agent) followOwners(ctx context.Context) {
	socket := a.cfg.OVSDB
	if socket == "" {
		socket = ovsport.DefaultSocket
	}
	_ = ovsport.New(socket, a.log).Run(ctx, func(ids map[string]string) { // nil: it ends with ctx alone
		a.owners.mu.Lock()
		a.owners.ids = ids
		a.owners.publish(a)
		a.owners.mu.Unlock()
		a.taps.rec.Poke()
		a.link.InventoryChanged()
	})
}
