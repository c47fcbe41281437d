package agent

import (
	"errors"
	"fmt"

	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/flow"
	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
)

// Check finds what would make every capture or recorder fail. What depends on devices is not known here.
func (c *Config) Check() error {
	ring := c.Capture.Ring
	ring.Interface = "any"
	if err := ring.Validate(); err != nil {
		return fmt.Errorf("ring: %w", err)
	}
	if _, err := flow.New(c.Flow, func(*flow.Record) {}); err != nil {
		return err
	}
	if err := c.Budgets.check(); err != nil {
		return err
	}
	for i := range c.Recorders {
		r := &c.Recorders[i]
		err := r.check()
		if _, dedicated := c.Capture.Dedicated[r.Point]; err == nil && dedicated && r.Fanout > 1 {
			err = errors.New("fanout: a dedicated point is read by one ring, whose queues are its own; leave it out")
		}
		if err != nil {
			return fmt.Errorf("recorders[%d]: %w", i, err)
		}
	}
	return nil
}

func (r *Recorder) check() error {
	if r.Snap < 0 || r.Snap > pcap.MaxPacket {
		return fmt.Errorf("snap is %d octets; it can be 0 (whole packets) to %d", r.Snap, pcap.MaxPacket)
	}
	if r.Fanout < 0 || r.Fanout > want.MaxFanout {
		return fmt.Errorf("fanout is %d; it can be 1 to %d, or left out for one", r.Fanout, want.MaxFanout)
	}
	if r.Filter == "" {
		return nil
	}
	e, err := filter.Parse(r.Filter)
	if err == nil {
		_, err = cbpf.Compile(e, cbpf.Options{Link: packet.LinkEthernet, Target: cbpf.Kernel})
	}
	if err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	return nil
}
