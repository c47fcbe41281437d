package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"opentap/fault"
	"opentap/flow/query"
	"opentap/want"
)

// browseGroups bounds the groups that are counted for somebody who looks: memory, and what anybody can read.
const browseGroups = 1 << 20

// showRecords adds up the flow records of a capture. They are read as they are retrieved, so that what is shown is what can be
// had.
func (a *Agent) showRecords(ctx context.Context, uid string, l want.RecordsLook, w io.Writer) error {
	j, _, err := a.readableJob(uid)
	if err != nil {
		return err
	}
	if kind := j.get().Kind; kind != want.Flows {
		return fault.New(fault.Unsupported, "a capture of kind %s holds no flow records", kind)
	}
	cfg := query.Config{By: l.By, Metric: l.Metric, From: l.From, To: l.To, Step: time.Duration(l.Step), MaxKeys: browseGroups}
	if l.Filter != "" {
		if cfg.Filter, err = query.NewFilter(l.Filter); err != nil {
			return fault.Field("filter", "%v", err)
		}
	}
	c, err := query.NewCounter(cfg)
	if err != nil {
		return fault.New(fault.Invalid, "%v", err)
	}
	r, err := j.open(ctx, want.OpenOptions{Format: want.CSV})
	if err != nil {
		return err
	}
	pr, pw := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := r.Write(ctx, pw, 0, -1)
		_ = pw.CloseWithError(err) // always nil, io.PipeWriter
		written <- err
	}()
	err = query.ReadCSV(pr, c.Add)
	_ = pr.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	werr := <-written
	cerr := r.Close()
	switch {
	case err != nil:
		return fault.New(fault.Exhausted, "the flow records cannot be added up: %v", err)
	case werr != nil:
		return werr
	case cerr != nil:
		return cerr
	}
	group := func(key []string, n query.Counts) want.FlowGroup {
		return want.FlowGroup{Key: append([]string{}, key...), Bytes: n.Octets, Packets: n.Packets, Flows: n.Flows}
	}
	by := append([]string{}, l.By...)
	enc := json.NewEncoder(w)
	if l.Step > 0 {
		out := want.FlowSeries{By: by, Step: l.Step, Points: []want.FlowPoint{}, Records: c.Records()}
		for _, p := range c.Series(l.Top) {
			out.Points = append(out.Points, want.FlowPoint{Time: p.Start.Time(), FlowGroup: group(p.Key, p.Counts)})
		}
		return enc.Encode(&out)
	}
	out := want.FlowTop{By: by, Groups: []want.FlowGroup{}, Total: group(nil, c.Total()), Records: c.Records(), Points: j.get().Query.Points}
	for _, g := range c.Top(l.Top) {
		out.Groups = append(out.Groups, group(g.Key, g.Counts))
	}
	return enc.Encode(&out)
}
