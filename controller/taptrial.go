package controller

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/tap"
	"opentap/tap/oftap"
	"opentap/want"
)

// Bounds of a self-test.
const (
	trialFor   = 15 * time.Second
	trialQuiet = 300 * time.Millisecond // so long nothing more may come
	trialEach  = 4                      // canaries of each sort
	trialVLAN  = 100                    // tag of the tagged ones, where the flow has no list
)

// TryTapFlow puts canaries on a flow's source and listens for their copies at its tool.
func (c *Controller) TryTapFlow(ctx context.Context, id auth.Identity, name string) (tap.Trial, error) {
	if !id.May(makeTap) {
		return tap.Trial{}, c.deny(ctx, id, "tap.flow.test", name, makeTap)
	}
	c.mu.Lock()
	f, err := keptFlows.find(c, id, name)
	var from, to place
	var why string
	var fromNode, toNode string
	others := 0
	if err == nil {
		fromNode, toNode, from, to, why = c.trialPlaces(f)
		for other := range c.taps.flowsOf[f.Flow.PortID] {
			if o := c.taps.flows[other]; o != nil && other != f.Flow.ID && o.Flow.ServiceID == f.Flow.ServiceID {
				others++
			}
		}
	}
	c.mu.Unlock()
	if err != nil {
		return tap.Trial{}, err
	}
	if why != "" {
		return tap.Trial{}, &fault.Error{Kind: fault.Unavailable, Msg: "the flow cannot be tested: " + why, RetryAfter: 5 * time.Second}
	}
	done, err := c.trials.begin(f.Flow.ID)
	if err != nil {
		return tap.Trial{}, err
	}
	defer done()
	if err := c.record(ctx, id, "tap.flow.test", f.Flow.ID, f.Flow.Project, nil); err != nil {
		return tap.Trial{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, trialFor)
	defer cancel()
	t := tap.Trial{Others: others, Flow: f.Flow.ID, From: fromNode + "/" + from.device, To: toNode + "/" + to.device, Began: time.Now().UTC()}
	var token [8]byte
	_, _ = rand.Read(token[:]) // never fails, crypto/rand

	listening, end := newTrialEar(), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := c.hub.Stream(ctx, end, to.nodeID, toNode, want.LiveSpec{Look: &want.Look{CanaryHear: &want.CanaryHear{Device: to.device, Token: token}}}, listening)
		listening.end(err)
	})
	defer wg.Wait()
	defer close(end)
	if err := listening.await(ctx); err != nil {
		return tap.Trial{}, err
	}
	vlan := uint16(trialVLAN)
	if v, ok := firstVLAN(f.Flow.Options.VLANs); ok {
		vlan = v
	}
	var sent bytes.Buffer
	q := want.CanarySend{Tap: f.Flow.ID, Token: token, Each: trialEach, Lengths: []int{64, 576, 0}, VLANs: []uint16{0, vlan}}
	err = c.hub.Stream(ctx, nil, from.nodeID, fromNode, want.LiveSpec{Look: &want.Look{CanarySend: &q}}, &limited{w: &sent, left: maxTrial})
	if err != nil {
		return tap.Trial{}, err
	}
	var s want.CanarySent
	if err := json.Unmarshal(sent.Bytes(), &s); err != nil {
		return tap.Trial{}, fault.New(fault.Internal, "node %s says what cannot be read: %v", fromNode, err)
	}
	for _, x := range s.Sorts {
		t.Sorts = append(t.Sorts, tap.TrialSort{Direction: tap.Direction(x.Direction), VLAN: x.VLAN, Length: x.Length, Sent: x.Sent})
	}
	t.Counted = s.Counted
	t.Judge(f.Flow.Direction, f.Flow.Options, listening.quiet(ctx), from.nodeID == to.nodeID)
	t.Took = time.Since(t.Began)
	return t, nil
}

// trials are the self-tests under way: one of a flow, and some of all. They put frames on ports. The zero value is ready.
type trials struct {
	mu  sync.Mutex
	now map[string]bool // by flow
}

// mostTrials bounds the self-tests at one time.
const mostTrials = 16

func (t *trials) begin(flow string) (done func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.now[flow]:
		return nil, &fault.Error{Kind: fault.Conflict, Msg: "the flow is being tested", Hint: "try again when that is over", RetryAfter: trialFor}
	case len(t.now) >= mostTrials:
		return nil, &fault.Error{Kind: fault.Exhausted, Msg: "too many flows are being tested", RetryAfter: trialFor}
	case t.now == nil:
		t.now = make(map[string]bool)
	}
	t.now[flow] = true
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.now, flow)
	}, nil
}

// trialPlaces says where a flow's source and tool are. c.mu is held.
func (c *Controller) trialPlaces(f *storedFlow) (fromNode, toNode string, from, to place, why string) {
	places := c.taps.places[f.Flow.PortID]
	if len(places) == 0 {
		return "", "", from, to, "its source port is on no node now"
	}
	from = places[len(places)-1]
	if _, why := c.taps.source(f, from); why != "" {
		return "", "", from, to, why
	}
	to, ok := c.taps.target(c.taps.services[f.Flow.ServiceID])
	if !ok {
		return "", "", from, to, "the service's port is on no node now"
	}
	if from.nodeID == fabricNode || to.nodeID == fabricNode {
		return "", "", from, to, "no frames can be put in at a port of a switch, or heard there; probe the way through the fabric: opentap fabric probe " + oftap.Prefix + f.Flow.ID
	}
	return c.taps.nodes[from.nodeID].Node, c.taps.nodes[to.nodeID].Node, from, to, ""
}

// firstVLAN is the first id of a list such as 5-9,12.
func firstVLAN(list string) (id uint16, ok bool) {
	for _, ch := range []byte(list) {
		if ch < '0' || ch > '9' {
			break
		}
		id, ok = id*10+uint16(ch-'0'), true
	}
	return id, ok && id > 0 && id < 4095
}

// maxTrial bounds what a node may say in a test, octets.
const maxTrial = 1 << 20

// limited refuses more than so many octets.
type limited struct {
	w    io.Writer
	left int
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errors.New("a node says too much")
	}
	return l.w.Write(p)
}

// trialEar takes the lines of want.CanaryHeard.
type trialEar struct {
	mu    sync.Mutex
	part  []byte
	heard []tap.HeardCanary
	last  time.Time
	total int
	begun chan struct{} // closed when the node listens
	over  chan struct{} // closed when the stream ended
	once  sync.Once
	err   error
}

func newTrialEar() *trialEar { return &trialEar{begun: make(chan struct{}), over: make(chan struct{})} }

// Write implements io.Writer.
func (e *trialEar) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.total += len(p); e.total > maxTrial {
		return 0, errors.New("a node says too much")
	}
	e.part = append(e.part, p...)
	for {
		line, rest, ok := bytes.Cut(e.part, []byte{'\n'})
		if !ok {
			return len(p), nil
		}
		e.part = rest
		var h want.CanaryHeard
		if err := json.Unmarshal(line, &h); err != nil {
			return 0, err
		}
		e.last = time.Now()
		if h.Number < 0 {
			e.once.Do(func() { close(e.begun) })
			continue
		}
		e.heard = append(e.heard, tap.HeardCanary{Number: int(h.Number), VLAN: int(h.VLAN), Length: h.Length, Delay: h.At.Sub(h.Sent)})
	}
}

func (e *trialEar) end(err error) {
	e.err = err
	close(e.over)
}

// await waits until the node listens.
func (e *trialEar) await(ctx context.Context) error {
	select {
	case <-e.begun:
		return nil
	case <-e.over:
		if e.err != nil {
			return e.err
		}
	case <-ctx.Done():
	}
	return fault.New(fault.Unavailable, "the tool's node does not listen")
}

// quiet waits until nothing has come for a moment, and returns what was heard.
func (e *trialEar) quiet(ctx context.Context) []tap.HeardCanary {
	begin := time.Now()
	for {
		e.mu.Lock()
		since := e.last
		if since.Before(begin) {
			since = begin
		}
		left := trialQuiet - time.Since(since)
		heard := e.heard
		e.mu.Unlock()
		if left <= 0 {
			return heard
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return heard
		case <-e.over:
			return heard
		}
	}
}
