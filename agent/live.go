package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"opentap/capture"
	"opentap/capture/ring"
	"opentap/fault"
	"opentap/filter"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
)

const (
	// liveBuffer is what packets may take that wait for one live reader, octets. As much again is on its way to it.
	liveBuffer = 8 << 20
	// liveReaders bounds how many there are, and with it their memory.
	liveReaders = 32
	// liveStats is how often the accounts are written while they change, liveBeat while they do not: the reader's
	// connection is seen to live.
	liveStats = time.Second
	liveBeat  = 10 * time.Second
)

// liveReader is one live stream. The sources' goroutines append to the points' buffers; one goroutine empties them.
type liveReader struct {
	a      *Agent
	spec   want.LiveSpec
	w      io.Writer
	points []*livePoint
	limit  budget
	wake   chan struct{}    // there is something in a buffer
	spare  []byte           // changes places with a point's buffer
	upto   packet.Timestamp // what was recorded before it has been written
}

// livePoint is one point of a live stream; it implements capture.Consumer.
type livePoint struct {
	r     *liveReader
	face  pcap.Interface
	iface uint32
	most  int // octets of buf
	past  ledger.Account
	began packet.Timestamp
	att   *capture.Attachment // nil before
	told  ledger.Account      // as last written
	when  time.Time           // it was

	mu  sync.Mutex
	buf []byte
}

// Begin implements capture.Consumer. The lock is held for a block: nobody but the emptying goroutine wants it, which
// holds it for as long as it takes to exchange two slices.
func (p *livePoint) Begin() { p.mu.Lock() }

// End implements capture.Consumer.
func (p *livePoint) End() {
	some := len(p.buf) > 0
	p.mu.Unlock()
	if some {
		select {
		case p.r.wake <- struct{}{}:
		default:
		}
	}
}

// Frame implements capture.Consumer. It copies the packet or, when the reader is late, counts it as lost.
func (p *livePoint) Frame(f *capture.Frame) capture.Verdict {
	dir := pcap.DirectionIn
	if f.Outgoing {
		dir = pcap.DirectionOut
	}
	if len(p.buf)+pcap.PacketSize(len(f.Data), dir) > p.most {
		return capture.LostReader
	}
	v := p.r.limit.take(len(f.Data))
	if v == capture.Full {
		return v
	}
	p.buf = pcap.AppendPacket(p.buf, p.iface, f.Time, f.OrigLen, f.Data, dir)
	return v
}

// Idle implements capture.Consumer.
func (p *livePoint) Idle(packet.Timestamp, *ledger.Account) {}

// Live implements agentapi.Local.
func (a *Agent) Live(ctx context.Context, end <-chan struct{}, spec want.LiveSpec, w io.Writer) error {
	if spec.Look != nil {
		return a.show(ctx, end, *spec.Look, w)
	}
	defer a.live.Add(-1)
	if a.live.Add(1) > liveReaders {
		return &fault.Error{
			Kind: fault.Exhausted, Msg: fmt.Sprintf("node %s serves %d live streams, as many as it may", a.cfg.NodeName, liveReaders),
			Hint: "end one of them, or start a capture and retrieve it", RetryAfter: 5 * time.Second,
		}
	}
	return a.stream(ctx, end, spec, w, liveBuffer)
}

// stream serves one reader with a buffer of so many octets.
func (a *Agent) stream(ctx context.Context, end <-chan struct{}, spec want.LiveSpec, w io.Writer, buffer int) (err error) {
	r := &liveReader{a: a, spec: spec, w: w, limit: budget{of: filter.Limits{Packets: spec.Packets}}, wake: make(chan struct{}, 1)}
	for i, pt := range spec.Points {
		link, err := ring.LinkTypeOf(pt.Name)
		if errors.Is(err, ring.ErrGone) {
			return &fault.Error{Kind: fault.Unavailable, Field: "points", Msg: pt.Name + " is not there now", RetryAfter: 5 * time.Second}
		} else if err != nil {
			return fault.New(fault.Unsupported, "no packets can be had at %s: %v", pt.Name, err)
		}
		face := a.describe(pt.Name, filter.Query{Filter: spec.Filter, Strict: spec.Strict, Snap: spec.Snap}, link)
		face.Name = pt.Label
		r.points = append(r.points, &livePoint{r: r, face: face, iface: uint32(i), most: buffer / len(spec.Points)})
	}
	began := time.Now()
	from := packet.TimestampOf(began)
	headed := false
	if spec.Past > 0 {
		if err := r.head(); err != nil {
			return err
		}
		headed = true
		if from, err = r.history(ctx, end, began); err != nil || r.enough() {
			if err == nil {
				err = r.stats(true)
			}
			return err
		}
	}
	defer func() {
		for _, p := range r.points {
			if p.att != nil {
				_ = p.att.Detach(context.Background()) // it cannot end before the source has
			}
		}
	}()
	if err := r.attach(began, from); err != nil {
		return err
	}
	if spec.Past > 0 {
		if err := r.join(ctx, from); err != nil {
			return err
		}
	}
	if !headed {
		if err := r.head(); err != nil {
			return err
		}
	}
	return r.run(ctx, end)
}

// head writes what comes before all packets.
func (r *liveReader) head() error {
	b := pcap.AppendSectionHeader(nil, pcap.Section{Application: "opentapd " + r.a.cfg.Version, Hardware: r.a.cfg.NodeName})
	for _, p := range r.points {
		b = pcap.AppendInterface(b, p.face)
	}
	_, err := r.w.Write(b)
	return err
}

// attach begins to take packets at all points.
func (r *liveReader) attach(began time.Time, from packet.Timestamp) (err error) {
	for _, p := range r.points {
		spec := capture.Spec{Point: p.name(), Filter: r.spec.Filter, Strict: r.spec.Strict, Snap: r.spec.Snap, From: from, Promiscuous: true}
		if r.spec.Duration > 0 {
			spec.To = packet.TimestampOf(began.Add(time.Duration(r.spec.Duration)))
		}
		if p.began == 0 {
			p.began = from
		}
		if p.att, err = r.a.engine.Attach(spec, p); err != nil {
			return fault.New(fault.Unavailable, "cannot take packets at %s: %v", p.name(), err)
		}
	}
	for _, p := range r.points {
		awaitOpen(p.att)
		if pr := p.att.Progress(); pr.End == capture.EndError {
			if errors.Is(pr.Err, os.ErrPermission) {
				return fault.New(fault.Unsupported, "packets cannot be taken at %s: %v", p.name(), pr.Err)
			}
			return fault.New(fault.Unavailable, "cannot take packets at %s: %v", p.name(), pr.Err)
		}
	}
	return nil
}

// name is the point's own name.
func (p *livePoint) name() string { return p.r.spec.Points[p.iface].Name }

// run writes what comes until the stream ends.
func (r *liveReader) run(ctx context.Context, end <-chan struct{}) error {
	over := make(chan struct{})
	go func() { // ends with the attachments, which the caller detaches
		defer close(over)
		for _, p := range r.points {
			<-p.att.Done()
		}
	}()
	tick := time.NewTicker(liveStats)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wake:
			if err := r.empty(); err != nil {
				return err
			}
			if !r.enough() {
				continue
			}
			end = closedChan()
		case <-tick.C:
			if err := r.stats(false); err != nil {
				return err
			}
		case <-end:
			end = nil
			for _, p := range r.points {
				if err := p.att.Detach(ctx); err != nil {
					return err
				}
			}
		case <-over:
			if err := r.stats(true); err != nil {
				return err
			}
			for _, p := range r.points {
				if pr := p.att.Progress(); pr.End == capture.EndError {
					return fault.New(fault.Unavailable, "%s can no longer be seen: %v", p.name(), pr.Err)
				}
			}
			return nil
		}
	}
}

// enough reports whether the stream's limit is reached.
func (r *liveReader) enough() bool {
	return r.limit.of.Packets > 0 && r.limit.packets.Load() >= r.limit.of.Packets
}

func closedChan() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// empty writes out the buffers. A reader that is late is waited for here, and here alone.
func (r *liveReader) empty() error {
	for _, p := range r.points {
		p.mu.Lock()
		full := p.buf
		p.buf = r.spare[:0]
		p.mu.Unlock()
		r.spare = full
		if len(full) > 0 {
			if _, err := r.w.Write(full); err != nil {
				return err
			}
		}
	}
	return nil
}

// account is the point's, the past included.
func (p *livePoint) account() (ledger.Account, string) {
	a := p.past
	if p.att == nil {
		return a, ""
	}
	pr := p.att.Progress()
	a.Add(&pr.Account)
	if n := len(pr.Gaps); n > 0 && pr.Gaps[n-1].To.IsZero() {
		return a, pr.Gaps[n-1].Reason
	}
	return a, ""
}

// stats writes the points' accounts as Interface Statistics Blocks: those that have changed, from time to time the others
// too, and all of them at the end.
func (r *liveReader) stats(last bool) error {
	var b []byte
	now := time.Now()
	accounts := make([]ledger.Account, len(r.points))
	gaps := make([]string, len(r.points))
	for i, p := range r.points {
		accounts[i], gaps[i] = p.account()
	}
	if err := r.empty(); err != nil { // what an account counts is in the stream before it
		return err
	}
	for i, p := range r.points {
		a, gap := accounts[i], gaps[i]
		if !last && a == p.told && now.Sub(p.when) < liveBeat {
			continue
		}
		p.told, p.when = a, now
		b = pcap.AppendStats(b, pcap.AccountStats(int(p.iface), p.began, packet.TimestampOf(now), &a, gap))
	}
	if len(b) == 0 {
		return nil
	}
	_, err := r.w.Write(b)
	return err
}
