package main

import (
	"fmt"

	"opentap/agent"
)

// checkDevices finds devices whose description makes no sense.
func (c *config) checkDevices() error {
	seen := make(map[string]bool)
	for i, d := range c.Points.Devices {
		switch {
		case d.Point == "":
			return fmt.Errorf("points.devices[%d]: point is missing", i)
		case seen[d.Point]:
			return fmt.Errorf("points.devices[%d]: %s is described already", i, d.Point)
		case d.Memory != 0 && !d.Dedicated:
			return fmt.Errorf("points.devices[%d]: memory is that of a dedicated point, and %s is none", i, d.Point)
		case d.Memory != 0 && (d.Memory < agent.MinDedicatedMemory || d.Memory > agent.MaxDedicatedMemory):
			return fmt.Errorf("points.devices[%d]: memory must be 4MiB to 16GiB", i)
		}
		seen[d.Point] = true
	}
	return nil
}

// dedicated returns the devices that are read by AF_XDP, with their memory in octets.
func (c *config) dedicated() map[string]int {
	out := make(map[string]int)
	for _, d := range c.Points.Devices {
		if d.Dedicated {
			out[d.Point] = int(d.Memory)
		}
	}
	return out
}
