package doortest

import (
	"context"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// packetRow is the only packet that captures here are looked at to have.
var packetRow = want.PacketRow{Time: Epoch, Point: "eth0", Src: "192.0.2.1", Dst: "192.0.2.2", Protocol: "DNS", Length: 60, Info: "query A example.com"}

func (c *Controller) look(id auth.Identity, captureID, method string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !id.May(auth.ReadPayload) {
		return fault.New(fault.Forbidden, "may not read")
	}
	if _, err := c.get(captureID); err != nil {
		return err
	}
	return c.Fail[method]
}

// Packets implements the doors' Controller.
func (c *Controller) Packets(_ context.Context, id auth.Identity, captureID string, l want.PacketsLook) (want.PacketRows, error) {
	out := want.PacketRows{Total: 1, From: l.From, First: Epoch, Last: Epoch}
	if l.From == 0 && l.Limit > 0 {
		out.Packets = []want.PacketRow{packetRow}
	}
	return out, c.look(id, captureID, "Packets")
}

// Packet implements the doors' Controller.
func (c *Controller) Packet(_ context.Context, id auth.Identity, captureID string, l want.PacketLook) (want.PacketDetail, error) {
	if err := c.look(id, captureID, "Packet"); err != nil {
		return want.PacketDetail{}, err
	}
	if l.Number > 0 {
		return want.PacketDetail{}, fault.New(fault.NotFound, "the capture has no packet %d", l.Number)
	}
	return want.PacketDetail{
		PacketRow: packetRow, Captured: 4, Link: 1, Data: []byte("abcd"), Flow: &want.FlowFilter{Conversation: "host a", Hosts: "host a"},
		Layers: []want.Field{{Name: "Ethernet", Length: 4, Fields: []want.Field{{Name: "Type", Value: "IPv4", Length: 2}}}},
	}, nil
}

// Timeline implements the doors' Controller.
func (c *Controller) Timeline(_ context.Context, id auth.Identity, captureID string, _ want.TimelineLook) (want.Timeline, error) {
	return want.Timeline{From: Epoch, Step: want.Duration(time.Second), Packets: []uint64{1}, Octets: []uint64{60}}, c.look(id, captureID, "Timeline")
}

// CaptureTop implements the doors' Controller.
func (c *Controller) CaptureTop(_ context.Context, id auth.Identity, captureID string, l want.RecordsLook) (want.FlowTop, error) {
	g := want.FlowGroup{Key: append([]string{}, l.By...), Bytes: 9, Packets: 2, Flows: 1}
	return want.FlowTop{By: l.By, Groups: []want.FlowGroup{g}, Total: want.FlowGroup{Key: []string{}, Bytes: 9, Packets: 2, Flows: 1}, Records: 1}, c.look(id, captureID, "CaptureTop")
}

// CaptureSeries implements the doors' Controller.
func (c *Controller) CaptureSeries(_ context.Context, id auth.Identity, captureID string, l want.RecordsLook) (want.FlowSeries, error) {
	p := want.FlowPoint{Time: Epoch, FlowGroup: want.FlowGroup{Key: append([]string{}, l.By...), Bytes: 9}}
	return want.FlowSeries{By: l.By, Step: l.Step, Points: []want.FlowPoint{p}, Records: 1}, c.look(id, captureID, "CaptureSeries")
}
