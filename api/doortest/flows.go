package doortest

import (
	"context"
	"io"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// OpenFlows implements the doors' Controller: one record.
func (c *Controller) OpenFlows(_ context.Context, id auth.Identity, q want.FlowQuery) (*want.Retrieval, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.Fail["OpenFlows"]; err != nil {
		return nil, err
	}
	if !id.May(auth.ReadPayload) {
		return nil, fault.New(fault.Forbidden, "role %s may not read captured data", id.Role)
	}
	if q.Format == "" {
		q.Format = want.CSV
	}
	if q.Format != want.CSV && q.Format != want.NDJSON {
		return nil, fault.Field("format", "%q is no format of flow records here", q.Format)
	}
	text := "first,last,src_addr,dst_addr,protocol_number,packets,octets\n2026-01-02T03:04:05Z,2026-01-02T03:04:06Z,10.0.0.1,10.0.0.2,6,10,1000\n"
	if q.Format == want.NDJSON {
		text = `{"first":"2026-01-02T03:04:05Z","packets":10}` + "\n"
	}
	return &want.Retrieval{
		Format: q.Format, FileName: "opentap-flows" + q.Format.Extension(), Size: -1,
		Write: func(_ context.Context, w io.Writer, _, _ int64) error { _, err := io.WriteString(w, text); return err },
		Close: func() error { return nil },
	}, nil
}

// TopFlows implements the doors' Controller: one group.
func (c *Controller) TopFlows(_ context.Context, id auth.Identity, q want.FlowQuery) (want.FlowTop, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.Fail["TopFlows"]; err != nil {
		return want.FlowTop{}, err
	}
	if !id.May(auth.ReadPayload) {
		return want.FlowTop{}, fault.New(fault.Forbidden, "role %s may not read captured data", id.Role)
	}
	g := want.FlowGroup{Key: make([]string, len(q.By)), Bytes: 1000, Packets: 10, Flows: 1}
	for i := range q.By {
		g.Key[i] = "10.0.0.1"
	}
	return want.FlowTop{
		By: append([]string{}, q.By...), Groups: []want.FlowGroup{g}, Total: want.FlowGroup{Key: []string{}, Bytes: 1000, Packets: 10, Flows: 1},
		Records: 1, Points: []string{"virgo/eth0"}, Since: Epoch,
	}, nil
}
