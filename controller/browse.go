package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/filter"
	"opentap/want"
)

// browseAudit is how long one audit entry stands for one caller's looking at one capture: who scrolls asks many times a
// second. The entry is written before the first look.
const browseAudit = 10 * time.Minute

// browsers remembers who has been written down as looking at what. The zero value is ready.
type browsers struct {
	mu   sync.Mutex
	seen map[browser]time.Time
}

type browser struct{ name, project, via, remote, uid, action string }

// looked reports whether an entry stands, and forgets old ones.
func (b *browsers) looked(k browser, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t, ok := b.seen[k]; ok && now.Sub(t) < browseAudit {
		return true
	}
	for old, t := range b.seen {
		if now.Sub(t) >= browseAudit {
			delete(b.seen, old)
		}
	}
	return false
}

func (b *browsers) note(k browser, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen == nil || len(b.seen) >= 10_000 {
		b.seen = make(map[browser]time.Time)
	}
	b.seen[k] = now
}

// browse has the node that holds a capture show a part of it, after the right was proven and the looking written down. expr is
// the filter that the look has, "" = none.
func browse[T any](ctx context.Context, c *Controller, id auth.Identity, captureID, action string, kind want.Kind, expr string, look func(uid string) *want.Look) (out T, err error) {
	if !id.May(auth.ReadPayload) {
		return out, c.refuse(ctx, id, action, captureID, auth.ReadPayload)
	}
	e, err := c.find(id, captureID)
	if err != nil {
		return out, err
	}
	if e.Capture.Kind != kind {
		return out, &fault.Error{Kind: fault.Unsupported, Msg: "this is a capture of kind " + string(e.Capture.Kind), Hint: "only one of kind " + string(kind) + " can be looked at in this way"}
	}
	if strings.TrimSpace(expr) != "" && kind == want.Packets {
		if _, err := parseFilter(expr, false); err != nil {
			return out, err
		}
	} else if expr != "" {
		if _, err := filter.Parse(expr); err != nil {
			return out, filterFault(err)
		}
	}
	now := time.Now()
	host, _, _ := strings.Cut(id.Remote, "]:")
	if i := strings.LastIndexByte(id.Remote, ':'); i > 0 {
		host = id.Remote[:i] // the port changes with every connection
	}
	k := browser{id.Name, id.Project, id.Via, host, e.Capture.UID, action}
	if !c.browsers.looked(k, now) {
		details := map[string]string{"uid": e.Capture.UID}
		if expr != "" {
			details["filter"] = expr
		}
		if err := c.record(ctx, id, action, e.Capture.ID, e.Capture.Project, details); err != nil {
			return out, err
		}
		c.browsers.note(k, now)
	}
	var b bytes.Buffer
	l := look(e.Capture.UID)
	l.Capture = e.Capture.UID
	if err := c.hub.Stream(ctx, nil, e.NodeID, e.Node, want.LiveSpec{Look: l}, &b); err != nil {
		return out, err
	}
	if err := json.Unmarshal(b.Bytes(), &out); err != nil {
		return out, fault.New(fault.Internal, "node %s showed something that is not understood: %v", e.Node, err)
	}
	return out, nil
}

// Packets shows some packets of a capture, one line each.
func (c *Controller) Packets(ctx context.Context, id auth.Identity, captureID string, l want.PacketsLook) (want.PacketRows, error) {
	return browse[want.PacketRows](ctx, c, id, captureID, "capture.browse", want.Packets, l.Filter, func(string) *want.Look { return &want.Look{Packets: &l} })
}

// Packet shows one packet, with what each of its octets means.
func (c *Controller) Packet(ctx context.Context, id auth.Identity, captureID string, l want.PacketLook) (want.PacketDetail, error) {
	return browse[want.PacketDetail](ctx, c, id, captureID, "capture.browse", want.Packets, l.Filter, func(string) *want.Look { return &want.Look{Packet: &l} })
}

// Timeline shows how the packets of a capture lie in time.
func (c *Controller) Timeline(ctx context.Context, id auth.Identity, captureID string, l want.TimelineLook) (want.Timeline, error) {
	return browse[want.Timeline](ctx, c, id, captureID, "capture.browse", want.Packets, l.Filter, func(string) *want.Look { return &want.Look{Timeline: &l} })
}

// CaptureTop shows who has most in a capture of flow records.
func (c *Controller) CaptureTop(ctx context.Context, id auth.Identity, captureID string, l want.RecordsLook) (want.FlowTop, error) {
	if err := checkRecordsLook(&l); err != nil {
		return want.FlowTop{}, err
	}
	return browse[want.FlowTop](ctx, c, id, captureID, "capture.browse", want.Flows, l.Filter, func(string) *want.Look { return &want.Look{Records: &l} })
}

// CaptureSeries shows how the largest groups of a capture's flow records lie in time.
func (c *Controller) CaptureSeries(ctx context.Context, id auth.Identity, captureID string, l want.RecordsLook) (want.FlowSeries, error) {
	if err := checkRecordsLook(&l); err != nil {
		return want.FlowSeries{}, err
	}
	if l.Step <= 0 {
		return want.FlowSeries{}, fault.Field("step", "must be longer than 0s")
	}
	return browse[want.FlowSeries](ctx, c, id, captureID, "capture.browse", want.Flows, l.Filter, func(string) *want.Look { return &want.Look{Records: &l} })
}

// What can be asked of flow records; flow/query, which answers, is a room of the agent's.
var (
	flowKeys    = []string{"src", "dst", "sport", "dport", "proto", "vlan", "tos", "smac", "dmac", "ipversion", "end"}
	flowMetrics = []string{"bytes", "packets", "flows"}
)

func checkRecordsLook(l *want.RecordsLook) error {
	for _, k := range l.By {
		if !slices.Contains(flowKeys, k) {
			return fault.Field("by", "%s is none of %s", strconv.Quote(k), strings.Join(flowKeys, ", "))
		}
	}
	if l.Metric == "" {
		l.Metric = "bytes"
	}
	if !slices.Contains(flowMetrics, l.Metric) {
		return fault.Field("metric", "%s is none of %s", strconv.Quote(l.Metric), strings.Join(flowMetrics, ", "))
	}
	if l.Top < 0 || l.Top > 1000 {
		return fault.Field("top", "is %d; it can be up to 1000", l.Top)
	}
	if l.From != 0 && l.To != 0 && l.To <= l.From {
		return fault.Field("to", "must be later than from")
	}
	if l.Step < 0 {
		return fault.Field("step", "is negative")
	}
	return nil
}
