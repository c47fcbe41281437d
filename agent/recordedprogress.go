package agent

import (
	"context"
	"sync"
	"time"

	"opentap/capture/query"
	"opentap/ledger"
	"opentap/packet"
	"opentap/want"
)

const (
	// recordedLook is how often what came into a window that is still open is counted.
	recordedLook = 2 * time.Second
	// A past is counted in parts, so that it shows how far that is: so many at most, and none shorter than this.
	recordedParts  = 50
	recordedPart   = time.Minute
	recordedEnough = "its limit is reached"
)

// progress counts what a window that is still open holds so far. Each part of it is looked at once, when it is over, so that counting
// costs as much as the answer, however long the window is open. It is the newest estimate and not the account: packets
// that came late for their part are missing until the end.
type progress struct {
	r      *recorded
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex      // for what look reads
	sum  *ledger.Account // nil = nothing is counted yet
	full bool            // the limits of the answer are reached

	// Its goroutine's own.
	began  bool
	at     packet.Timestamp // counted up to here
	found  query.Result     // packets and octets of the answer
	others uint64           // packets of the window that the filter leaves out
	losses ledger.Account   // of the recordings in the window, until it was first looked at
	live   ledger.Account   // of the recorders, at that time
}

// follow counts until ctx or the capture ends.
func (r *recorded) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	p := &progress{r: r, cancel: cancel, done: make(chan struct{}), at: packet.TimestampOf(r.j.get().Query.From)}
	r.progress = p
	go func() {
		defer close(p.done)
		t := time.NewTicker(recordedLook)
		defer t.Stop()
		for {
			if err := p.count(ctx); err != nil && ctx.Err() == nil { // whoever asks for the data is told, and the end tells it
				r.j.log.Debug("cannot count what a capture holds so far", "err", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
	}()
}

// stop ends the counting. It may be called again.
func (p *progress) stop() {
	p.cancel()
	<-p.done
}

// read returns what was counted, nil for nothing yet, and whether the limits are reached with it.
func (p *progress) read() (*ledger.Account, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sum, p.full
}

// count looks at what has come into the window since the last time.
func (p *progress) count(ctx context.Context) error {
	c := p.r.j.get()
	until := time.Now().Add(-recordedSettle)
	if end := c.End(); !end.IsZero() && end.Before(until) {
		until = end
	}
	to := packet.TimestampOf(until)
	if _, full := p.read(); full || p.at >= to {
		return nil
	}
	e, err := p.r.extent(time.Time{})
	if err != nil {
		return err
	}
	plan, err := p.r.sources(e)
	if err != nil {
		return err
	}
	live := p.r.met()
	if !p.began {
		all, err := p.look(ctx, plan, to, false)
		if err != nil {
			return err
		}
		p.losses, p.live, p.began = ledgerOf(all), live, true
	}
	part := max(to.Sub(p.at)/recordedParts, recordedPart)
	for p.at < to {
		next := min(to, p.at.Add(part))
		got, err := p.look(ctx, plan, next, true)
		if err != nil {
			return err
		}
		res := got.Result()
		if plan.window.Match != nil {
			all, err := p.look(ctx, plan, next, false)
			if err != nil {
				return err
			}
			p.others += all.Result().Packets - min(res.Packets, all.Result().Packets)
		}
		p.found.Packets, p.found.Octets, p.at = p.found.Packets+res.Packets, p.found.Octets+res.Octets, next
		p.tell(&live, c.Query.Limits.Packets, c.Query.Limits.Octets)
	}
	return nil
}

// look plans the answer from where the last part ended; matched leaves out what is not in it.
func (p *progress) look(ctx context.Context, plan *recordedPlan, to packet.Timestamp, matched bool) (*query.Plan, error) {
	w := plan.window
	w.From, w.To, w.MaxPackets, w.MaxOctets = p.at, to, 0, 0
	if !matched {
		w.Match, w.Need, w.Snap = nil, nil, 0
	}
	found, err := query.New(plan.sources, w, query.PcapNG, query.Meta{})
	if err != nil {
		return nil, err
	}
	_, err = found.Size(ctx)
	return found, err
}

// tell makes the sums known.
func (p *progress) tell(live *ledger.Account, packets, octets uint64) {
	a := live.Since(&p.live)
	a.Add(&p.losses)
	a.Captured, a.Octets, a.StoredOctets = p.found.Packets, p.found.Octets, p.found.Octets
	a.Filtered += p.others
	full := packets > 0 && a.Captured >= packets || octets > 0 && a.Octets >= octets
	if packets > 0 {
		a.Captured = min(a.Captured, packets)
	}
	a.Balance()
	p.mu.Lock()
	p.sum, p.full = &a, full
	p.mu.Unlock()
}

// met is what the recorders of the capture's points have met, all their life.
func (r *recorded) met() (total ledger.Account) {
	r.each(func(rec *recording) {
		st := rec.status()
		total.Add(&st.Ledger)
	})
	return total
}

// fare has the status say when a recorder does not record what the capture waits for.
func (r *recorded) fare(st *want.Status) {
	if st.State != want.Running && st.State != want.Degraded {
		return
	}
	st.State, st.Reason = want.Running, ""
	if !r.each(func(rec *recording) {
		if s := rec.status(); s.State == want.Degraded || s.State == want.Failed {
			st.State, st.Reason = want.Degraded, "recorder of "+rec.cfg.Point+": "+s.Reason
		}
	}) {
		st.State, st.Reason = want.Degraded, "a point of this capture is no longer recorded"
	}
}
