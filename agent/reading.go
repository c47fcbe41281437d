package agent

import (
	"fmt"

	"opentap/capture/xdpring"
	"opentap/point"
)

// Bounds of the memory of a dedicated point, octets.
const (
	MinDedicatedMemory = xdpring.MinMemory
	MaxDedicatedMemory = xdpring.MaxMemory
)

// reading notes how the packets of a point get here. It is called from the sources' goroutines.
func (a *Agent) reading(name, by string, instead error) {
	a.mu.Lock()
	same := a.readBy[name] == by
	a.readBy[name] = by
	a.mu.Unlock()
	text := ""
	if instead != nil {
		text = fmt.Sprintf("the dedicated point %s is read by a %s, because AF_XDP cannot: %v", name, by, instead)
	}
	a.trouble("dedicated "+name, text)
	if !same {
		a.link.InventoryChanged()
	}
}

// describeReading says of a point how it is read. a.mu is held.
func (a *Agent) describeReading(p *point.Point) {
	if p.Kind != point.Netdev {
		return
	}
	_, p.Dedicated = a.cfg.Capture.Dedicated[p.Name]
	p.ReadBy = a.readBy[p.Name]
	p.Restraint = a.restraint()
}
