package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"opentap/netdev/ovsport"
	"opentap/point"
	"opentap/tap/bpftap"
	"opentap/tap/ovstap"
)

// owners says whose ports the devices are, as Open vSwitch notes it, and what ports it has that are no devices.
type owners struct {
	mu      sync.Mutex
	devices []point.Point  // as the kernel has them
	ports   []ovsport.Port // as Open vSwitch has them
	since   map[string]time.Time
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

// noDevice says why no packets can be had at a port of Open vSwitch.
const noDevice = "no kernel device stands for this port of Open vSwitch: it can be tapped, not captured from"

// publish shows the devices with their owners, and the ports that are no devices. o.mu is held.
func (o *owners) publish(a *Agent) {
	out := slices.Clone(o.devices)
	at := make(map[string]int, len(out))
	for i := range out {
		at[out[i].Name] = i
	}
	since := make(map[string]time.Time)
	for _, p := range o.ports {
		if i, ok := at[p.Name]; ok {
			out[i].IfaceID = p.IfaceID
			continue
		}
		if p.Type == "" { // its device is not there now
			continue
		}
		since[p.Name] = o.since[p.Name]
		if since[p.Name].IsZero() {
			since[p.Name] = time.Now().UTC()
		}
		out = append(out, point.Point{
			Name: p.Name, Kind: point.Netdev, Present: true, MAC: p.MAC, MTU: p.MTU, Up: p.Up, Driver: p.Type, NoPcap: noDevice, IfaceID: p.IfaceID,
			Since: since[p.Name],
		})
	}
	o.since = since
	a.devices.Store(&out)
}

// followOwners hears from Open vSwitch, where there is one, until ctx ends.
func (a *Agent) followOwners(ctx context.Context) {
	socket := a.cfg.OVSDB
	if socket == "" {
		socket = ovsport.DefaultSocket
	}
	_ = ovsport.New(socket, a.log).Run(ctx, func(ports []ovsport.Port) { // nil: it ends with ctx alone
		a.owners.mu.Lock()
		a.owners.ports = ports
		a.owners.publish(a)
		a.owners.mu.Unlock()
		a.taps.rec.Poke()
		a.link.InventoryChanged()
	})
}
