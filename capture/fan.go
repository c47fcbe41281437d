package capture

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"opentap/capture/ring"
	"opentap/packet"
)

// Fan is several attachments to one point, each of which is shown a share of its packets by a ring and a goroutine of its
// own: a point with more packets than one processor can take is taken by several. All packets of a flow are shown to the same
// consumer, unless its ring runs full. It is safe for concurrent use.
type Fan struct {
	members []*Attachment
	open    chan struct{}
	done    chan struct{}
}

// AttachFan is Attach for a consumer each ring. The rings are the fan's own and have the memory of one ring together. With one
// consumer it is Attach. A dedicated point has one ring: the error then wraps errors.ErrUnsupported.
func (e *Engine) AttachFan(spec Spec, consumers []Consumer) (*Fan, error) {
	f := &Fan{open: make(chan struct{}), done: make(chan struct{})}
	k := share{of: len(consumers)}
	if len(consumers) > 1 {
		if _, ok := e.cfg.Dedicated[spec.Point]; ok {
			return nil, errDedicatedFan
		}
		k.group = &ring.Group{}
	}
	for i, c := range consumers {
		k.number = i
		a, err := e.attach(spec, c, k)
		if err != nil {
			_ = f.Detach(context.Background()) // fails with its context alone
			return nil, err
		}
		f.members = append(f.members, a)
	}
	e.running.Go(f.watch)
	return f, nil
}

// watch ends all members with the first one that ends.
func (f *Fan) watch() {
	defer close(f.done)
	ended := make(chan struct{}, len(f.members))
	for _, a := range f.members {
		go func() { <-a.done; ended <- struct{}{} }()
	}
	go func() {
		defer close(f.open)
		for _, a := range f.members {
			<-a.open
		}
	}()
	<-ended
	f.end()
	for range len(f.members) - 1 {
		<-ended
	}
	<-f.open
}

// end ends all members at one moment.
func (f *Fan) end() {
	now := packet.TimestampOf(time.Now())
	for _, a := range f.members {
		a.until(now)
	}
}

// Open is Attachment.Open of all members.
func (f *Fan) Open() <-chan struct{} { return f.open }

// Done is closed when all members have ended.
func (f *Fan) Done() <-chan struct{} { return f.done }

// Detach is Attachment.Detach.
func (f *Fan) Detach(ctx context.Context) error {
	f.end()
	for _, a := range f.members {
		select {
		case <-a.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Progress is the state of all members together, each as of its last block.
func (f *Fan) Progress() Progress {
	var sum Progress
	var errs []error
	ended := true
	for i, a := range f.members {
		p := a.Progress()
		sum.Account.Add(&p.Account)
		if i == 0 || p.Began.IsZero() || !sum.Began.IsZero() && p.Began.After(sum.Began) {
			sum.Began = p.Began
		}
		sum.Gaps = append(sum.Gaps, p.Gaps...)
		ended = ended && p.End != 0
		sum.End = max(sum.End, p.End) // an error above all
		errs = append(errs, p.Err)
	}
	if !ended {
		sum.End = 0
		return sum.joinGaps()
	}
	sum.Err = errors.Join(errs...)
	return sum.joinGaps()
}

// joinGaps makes one gap of those that overlap: what a member could not see is not wholly seen.
func (p Progress) joinGaps() Progress {
	slices.SortStableFunc(p.Gaps, func(a, b Gap) int { return cmp.Compare(a.From.UnixNano(), b.From.UnixNano()) })
	out := p.Gaps[:0]
	for _, g := range p.Gaps {
		last := len(out) - 1
		switch {
		case last < 0 || !out[last].To.IsZero() && out[last].To.Before(g.From):
			out = append(out, g)
		case g.To.IsZero() || !out[last].To.IsZero() && g.To.After(out[last].To):
			out[last].To = g.To
		}
	}
	p.Gaps = out
	return p
}
