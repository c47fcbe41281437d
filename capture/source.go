package capture

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"opentap/capture/ring"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/ledger"
	"opentap/packet"
)

// tick is how long a source waits for packets before it looks at the clock. It bounds how late a window ends.
const tick = 50 * time.Millisecond

// retryPoint is how often a point that vanished is tried again.
const retryPoint = 250 * time.Millisecond

// key says which consumers can share a ring.
type key struct {
	point  string
	filter string // canonical
	strict bool
	snap   int // octets that the ring keeps; 0 = all
	promis bool

	dedicated int // octets of memory for AF_XDP; 0 = the host gets the packets as well
	share     share
}

// share says which of the rings that divide a point's packets a source has.
type share struct {
	group      *ring.Group // nil = one ring for all
	number, of int
}

// serves reports whether a ring opened for k gives a consumer that asks for want all it needs. A longer snap length does:
// take cuts.
func (k key) serves(want key) bool {
	enough := k.snap == 0 || want.snap != 0 && want.snap <= k.snap
	k.snap, want.snap = 0, 0
	return enough && k == want
}

// source is one ring and the consumers that share it. All fields below mu are guarded by it; the rest belongs to run.
type source struct {
	key       key
	expr      *filter.Expr
	cfg       ring.Config
	open      openFunc
	isUp      func(point string) bool
	told      func(point, by string, instead error)
	restraint *atomic.Pointer[Restraint] // the engine's
	log       *slog.Logger

	// Of the packet at hand.
	parsed  packet.Parsed
	decoded bool

	link   packet.LinkType
	ring   reader
	order  bool             // the ring gives packets in the order of time
	asked  packet.Timestamp // when the last Read began
	past   ring.Counts      // of rings that this source had before the present one
	last   ring.Counts      // the present ring's, as of the last look
	active []*Attachment
	read   uint64 // packets that the present ring lent us
	newest packet.Timestamp
	gap    string // why the point cannot be seen now; "" = it can
	lend   func(frames)

	mu      sync.Mutex
	joining []*Attachment
	asks    []func()
	closed  bool // takes nobody any more
	wakeFn  func()
	kick    chan struct{}
	done    chan struct{}
}

// Attachment is one consumer at a source. It is safe for concurrent use.
type Attachment struct {
	src      *source
	spec     Spec
	consumer Consumer
	expr     *filter.Expr // at a dedicated point: what the consumer wants; nil = all

	// Owned by the source's goroutine.
	match   *cbpf.Matcher // of expr
	base    ring.Counts   // source's counts when the window began
	own     ledger.Account
	began   bool
	ended   bool
	detach  bool
	inBlock bool
	drained bool
	turn    uint32  // packets since the one that a sample took
	patient Patient // the consumer, if it is one
	late    bool    // it was waited for in vain

	mu       sync.Mutex
	progress Progress
	open     chan struct{} // closed once
	opened   bool          // it is
	done     chan struct{}
}

// Open is closed when packets are being taken from now on, or the point turned out to be one that cannot be seen now, or the
// attachment has ended: there is no more to wait for before its beginning is told.
func (a *Attachment) Open() <-chan struct{} { return a.open }

// Done is closed when the attachment has ended; Progress then is final and the consumer is called no more.
func (a *Attachment) Done() <-chan struct{} { return a.done }

// Progress returns the state as of the last block.
func (a *Attachment) Progress() Progress {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.progress
	p.Gaps = append([]Gap(nil), p.Gaps...)
	return p
}

// Detach ends the attachment: what is in the ring by now is still delivered. It returns when that is done or ctx ends.
func (a *Attachment) Detach(ctx context.Context) error {
	a.until(packet.TimestampOf(time.Now()))
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// until asks for the end of the attachment at a time, if it would be later.
func (a *Attachment) until(to packet.Timestamp) {
	a.src.ask(func() {
		if a.spec.To == 0 || a.spec.To > to {
			a.spec.To, a.detach = to, true
		}
	})
}

// Do runs fn on the source's goroutine, between blocks, so that it may touch what the consumer owns. It returns false
// when fn did not run and will not: the attachment has ended, and the consumer is then the caller's alone, or ctx has.
func (a *Attachment) Do(ctx context.Context, fn func()) bool {
	var claimed atomic.Bool // by the source to run fn, or by us to leave it
	ran := make(chan bool, 1)
	if !a.src.ask(func() {
		if !claimed.CompareAndSwap(false, true) {
			return
		}
		if a.ended {
			ran <- false
			return
		}
		fn()
		ran <- true
	}) {
		select {
		case <-a.done:
		case <-ctx.Done():
		}
		return false
	}
	select {
	case ok := <-ran:
		return ok
	case <-ctx.Done():
		return !claimed.CompareAndSwap(false, true) && <-ran
	}
}

// ask has fn run on the source's goroutine. false: the source has ended.
func (s *source) ask(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.asks = append(s.asks, fn)
	s.wakeLocked()
	return true
}

func (s *source) wakeLocked() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
	if s.wakeFn != nil {
		s.wakeFn()
	}
}

// join adds an attachment. false: the source is ending; open another.
func (s *source) join(a *Attachment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.joining = append(s.joining, a)
	s.wakeLocked()
	return true
}

// run is the source's life: it ends when its last attachment has.
func (s *source) run() {
	defer close(s.done)
	for {
		s.takeAsks()
		if s.retire() {
			return
		}
		if s.ring == nil {
			if !s.reopen() {
				s.greet()
				select {
				case <-s.kick:
				case <-time.After(retryPoint):
				}
				s.settle(packet.TimestampOf(time.Now()), true)
				continue
			}
		}
		s.greet()
		s.asked = packet.TimestampOf(time.Now())
		blocks, err := s.ring.Read(s.patience(), s.lend)
		now := packet.TimestampOf(time.Now())
		switch {
		case err == nil && (s.gap == "" || blocks > 0 || s.isUp(s.key.point)):
			s.setGap("")
		case err == nil: // still down
		case errors.Is(err, ring.ErrDown):
			s.setGap("device " + s.key.point + " is down")
		default:
			s.lose(err)
		}
		s.settle(now, blocks == 0)
	}
}

// greet tells those who joined that the source is at work for them.
func (s *source) greet() {
	for _, a := range s.active {
		a.greet()
	}
}

func (a *Attachment) greet() {
	if !a.opened {
		a.opened = true
		close(a.open)
	}
}

// patience is how long the next Read may wait: until the clock has work for us.
func (s *source) patience() time.Duration {
	d := tick
	now := packet.TimestampOf(time.Now())
	for _, a := range s.active {
		if !a.ended && a.spec.To != 0 {
			d = min(d, max(a.spec.To.Sub(now), time.Millisecond))
		}
	}
	return d
}

// takeAsks moves what others asked for into the source's own hands.
func (s *source) takeAsks() {
	s.mu.Lock()
	joining, asks := s.joining, s.asks
	s.joining, s.asks = nil, nil
	s.mu.Unlock()
	if len(joining) > 0 {
		s.look()
	}
	for _, a := range joining {
		a.base = s.counts() // of a ring not yet open: zero, so that all it will count is this consumer's
		s.active = append(s.active, a)
		if s.ring != nil {
			if err := a.sieve(s.link); err != nil {
				a.finish(EndError, err)
				continue
			}
		}
		if s.gap != "" {
			a.openGap(s.gap)
		}
	}
	for _, fn := range asks {
		fn()
	}
}

// look reads the ring's counters.
func (s *source) look() {
	if s.ring == nil {
		return
	}
	c, err := s.ring.Counts()
	if err != nil {
		s.log.Warn("cannot read the ring's counters", "point", s.key.point, "err", err)
		return
	}
	s.last = c
}

// counts are cumulative over all rings the source has had.
func (s *source) counts() ring.Counts {
	return ring.Counts{
		Seen: s.past.Seen + s.last.Seen, Filtered: s.past.Filtered + s.last.Filtered,
		Passed: s.past.Passed + s.last.Passed, Dropped: s.past.Dropped + s.last.Dropped, FilterCounted: s.last.FilterCounted,
	}
}

// block shows one lent block to every consumer.
func (s *source) block(b frames) {
	var f ring.Frame
	frame := Frame{Frame: &f, src: s}
	for _, a := range s.active { // before the first Begin: nobody holds a lock while we wait for another
		if !a.ended && a.patient != nil {
			s.await(a, b.Octets())
		}
	}
	for _, a := range s.active {
		if !a.ended {
			a.consumer.Begin()
			a.inBlock = true
		}
	}
	restraint := s.restraint.Load()
	if len(s.active) == 1 && s.active[0].wantsAll(restraint) {
		s.showAll(s.active[0], b, &frame)
	}
	for b.Next(&f) {
		s.read++
		s.newest = max(s.newest, f.Time)
		s.decoded = false
		frame.whole = f.Data
		for _, a := range s.active {
			if a.ended || f.Time < a.spec.From {
				continue
			}
			if a.spec.To != 0 && f.Time >= a.spec.To {
				a.drained = s.order
				continue
			}
			if a.match != nil && !a.match.Match(frame.whole, f.OrigLen) {
				a.own.Filtered++
				continue
			}
			a.show(&frame, restraint)
		}
	}
	for _, a := range s.active {
		if a.inBlock {
			a.consumer.End()
			a.inBlock = false
		}
	}
}

// wantsAll reports whether every packet in the window goes to the consumer, whole.
func (a *Attachment) wantsAll(r *Restraint) bool {
	return !a.ended && a.match == nil && a.spec.Snap == 0 && *r == (Restraint{})
}

// showAll shows packets to the one consumer there is, which wants all: what block does, with less to ask for each. It
// returns at the end of the block or when the consumer has ended.
func (s *source) showAll(a *Attachment, b frames, frame *Frame) {
	f := frame.Frame
	from, to := a.spec.From, a.spec.To
	if to == 0 {
		to = math.MaxInt64
	}
	n, octets, stored, newest := uint64(0), uint64(0), uint64(0), s.newest
	read := uint64(0)
	book := func() {
		s.read, s.newest = s.read+read, newest
		a.own.Captured, a.own.Octets, a.own.StoredOctets = a.own.Captured+n, a.own.Octets+octets, a.own.StoredOctets+stored
		n, octets, stored, read = 0, 0, 0, 0
	}
	for b.Next(f) {
		read++
		newest = max(newest, f.Time)
		if f.Time < from {
			continue
		}
		if f.Time >= to {
			a.drained = s.order
			continue
		}
		s.decoded = false
		frame.whole = f.Data
		v := a.consumer.Frame(frame)
		if v == Took {
			n++
			octets += uint64(f.OrigLen)
			stored += uint64(len(f.Data))
			continue
		}
		book()
		if a.took(v, f); a.ended {
			return
		}
	}
	book()
}

// await gives a consumer time to get ready for a block, as long as the ring has room for what comes meanwhile.
func (s *source) await(a *Attachment, octets int) {
	if a.patient.Ready(octets) {
		a.late = false
		return
	}
	for began := time.Now(); !a.late && !s.ring.Pressed(); time.Sleep(time.Millisecond) {
		if a.patient.Ready(octets) {
			return
		}
		a.late = time.Since(began) > Patience
	}
}

// take shows one packet to the consumer and books it.
func (a *Attachment) take(f *Frame) { a.took(a.consumer.Frame(f), f.Frame) }

// took books what the consumer did with a packet.
func (a *Attachment) took(v Verdict, f *ring.Frame) {
	switch v {
	case Took, TookLast:
		a.own.Captured++
		a.own.Octets += uint64(f.OrigLen)
		a.own.StoredOctets += uint64(len(f.Data))
		if v == TookLast {
			a.finish(EndLimit, nil)
		}
	case LostDisk:
		a.own.Dropped[ledger.Disk]++
	case LostReader:
		a.own.Dropped[ledger.SlowReader]++
	case Full:
		a.finish(EndLimit, nil)
	}
}

// settle does what is due between blocks: accounts, windows, consumers' own clocks. empty says that the kernel had no
// block for us: all packets older than the ring's retire time have been read.
func (s *source) settle(now packet.Timestamp, empty bool) {
	s.look()
	reached := s.newest // packet time: it never runs ahead of packets still in the ring
	if empty {
		reached = max(reached, now.Add(-2*s.cfg.Retire))
	}
	for _, a := range s.active {
		if a.ended {
			continue
		}
		if !a.began {
			if now < a.spec.From {
				a.base = s.counts()
				continue
			}
			a.begin()
		}
		a.book(s.counts())
		a.consumer.Idle(reached, &a.progress.Account) // only this goroutine writes it
		if a.spec.To == 0 || now < a.spec.To {
			continue
		}
		why := EndWindow
		if a.detach {
			why = EndDetached
		}
		if s.ring == nil || a.drained || s.alone(a) || empty && now >= a.spec.To.Add(2*s.cfg.Retire) || !s.order && s.asked >= a.spec.To.Add(s.cfg.Retire) {
			s.end(a, why)
		}
	}
}

// end finishes an attachment whose packets may still be in the ring. The source's last consumer gets all of them: the
// ring is closed to new packets first. Others have seen everything that the kernel had handed over.
func (s *source) end(a *Attachment, why EndReason) {
	if s.ring != nil && s.alone(a) {
		if err := s.ring.Stop(); err != nil {
			s.log.Warn("cannot close the ring to new packets", "point", s.key.point, "err", err)
		}
		if err := s.ring.Drain(s.lend); err != nil {
			s.log.Warn("ring not drained", "point", s.key.point, "err", err)
		}
		s.look()
		if c := s.last; c.Passed != c.Dropped+s.read || c.FilterCounted && c.Seen != c.Filtered+c.Passed {
			s.log.Error("the ring's counts do not add up", "point", s.key.point, "seen", c.Seen, "filtered", c.Filtered,
				"passed", c.Passed, "dropped", c.Dropped, "read", s.read)
		}
	}
	a.finish(why, nil)
}

// alone reports whether a is the last consumer, and makes sure that it stays so.
func (s *source) alone(a *Attachment) bool {
	for _, o := range s.active {
		if o != a && !o.ended {
			return false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.joining) > 0 {
		return false
	}
	s.closed = true
	return true
}

// retire forgets ended attachments and reports whether the source's life is over.
func (s *source) retire() bool {
	keep := s.active[:0]
	for _, a := range s.active {
		if !a.ended {
			keep = append(keep, a)
		}
	}
	clear(s.active[len(keep):])
	s.active = keep
	if len(s.active) > 0 {
		return false
	}
	s.mu.Lock()
	if len(s.joining) > 0 {
		s.mu.Unlock()
		return false
	}
	s.closed = true
	asks := s.asks
	s.asks, s.wakeFn = nil, nil
	s.mu.Unlock()
	for _, fn := range asks {
		fn()
	}
	if s.ring != nil {
		if err := s.ring.Close(); err != nil {
			s.log.Warn("cannot close the ring", "point", s.key.point, "err", err)
		}
		s.ring = nil
	}
	return true
}

// reopen tries to get the point's ring. Errors that time may mend open a gap; others end every attachment.
func (s *source) reopen() bool {
	r, err := s.open(s.cfg, s.expr, s.key)
	if err != nil {
		if errors.Is(err, ErrPoint) {
			s.setGap(err.Error())
			return false
		}
		for _, a := range s.active {
			a.finish(EndError, err)
		}
		return false
	}
	s.ring, s.link, s.order = r.reader, r.LinkType(), r.ordered
	if r.instead != nil {
		s.log.Warn("a dedicated point is not read by AF_XDP", "point", s.key.point, "by", r.by, "err", r.instead)
	} else if s.key.dedicated > 0 {
		s.log.Info("a dedicated point is taken over: its packets do not reach the host", "point", s.key.point, "by", r.by)
	}
	s.told(s.key.point, r.by, r.instead)
	s.last, s.read = ring.Counts{}, 0
	s.mu.Lock()
	s.wakeFn = r.Wake
	s.mu.Unlock()
	for _, a := range s.active {
		if err := a.sieve(s.link); err != nil {
			a.finish(EndError, err)
		}
	}
	s.setGap("")
	return true
}

// lose gives up a ring whose device went away; its counts stay in the accounts.
func (s *source) lose(err error) {
	if derr := s.ring.Drain(s.lend); derr != nil {
		s.log.Warn("ring not drained", "point", s.key.point, "err", derr)
	}
	s.look()
	s.past = s.counts()
	if got := s.last.Dropped + s.read; s.last.Passed > got {
		s.past.Dropped += s.last.Passed - got // they went with the ring
	}
	s.last = ring.Counts{FilterCounted: s.last.FilterCounted}
	s.mu.Lock()
	s.wakeFn = nil
	s.mu.Unlock()
	if cerr := s.ring.Close(); cerr != nil {
		s.log.Warn("cannot close the ring", "point", s.key.point, "err", cerr)
	}
	s.ring = nil
	if errors.Is(err, ring.ErrGone) {
		s.setGap("device " + s.key.point + " is gone")
		return
	}
	s.log.Error("reading a point failed; it is tried again", "point", s.key.point, "err", err)
	s.setGap(err.Error())
}

// setGap opens, renames or closes the gap of every attachment.
func (s *source) setGap(reason string) {
	if s.gap == reason {
		return
	}
	s.gap = reason
	for _, a := range s.active {
		switch {
		case a.ended:
		case reason == "":
			a.closeGap()
		default:
			a.openGap(reason)
		}
	}
}

// maxGaps bounds the gaps of an attachment; what would be more makes the last one longer.
const maxGaps = 1000

// oneGap is how long a device must be back between two gaps: a device that leaves is told to be down first, and then, maybe
// after it was taken for up once more, to be gone.
const oneGap = time.Second

func (a *Attachment) openGap(reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now().UTC()
	if n := len(a.progress.Gaps); n > 0 {
		if last := &a.progress.Gaps[n-1]; last.To.IsZero() || now.Sub(last.To) < oneGap || n >= maxGaps {
			last.To, last.Reason = time.Time{}, reason
			return
		}
	}
	a.progress.Gaps = append(a.progress.Gaps, Gap{From: now, Reason: reason})
}

func (a *Attachment) closeGap() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.progress.Gaps); n > 0 && a.progress.Gaps[n-1].To.IsZero() {
		a.progress.Gaps[n-1].To = time.Now().UTC()
	}
}

func (a *Attachment) begin() {
	a.began = true
	a.mu.Lock()
	a.progress.Began = time.Now().UTC()
	a.mu.Unlock()
}

// book makes the account from what the consumer took and what the ring counted since the window began.
func (a *Attachment) book(c ring.Counts) {
	acc := a.own
	acc.Filtered += c.Filtered - a.base.Filtered
	acc.Dropped[ledger.Ring] += c.Dropped - a.base.Dropped
	acc.FilterUncounted = a.src.key.filter != "" && c.Passed > 0 && !c.FilterCounted
	acc.Balance()
	a.mu.Lock()
	a.progress.Account = acc
	a.mu.Unlock()
}

func (a *Attachment) finish(why EndReason, err error) {
	if a.ended {
		return
	}
	a.ended = true
	a.src.look()
	if !a.began && a.own.Captured+a.own.DroppedTotal() > 0 { // its first block was its last, too
		a.begin()
	}
	if a.began {
		a.book(a.src.counts())
	}
	if a.inBlock { // the limit is reached in the midst of it; nothing may be called once done is closed
		a.inBlock = false
		a.consumer.End()
	}
	a.closeGap()
	a.mu.Lock()
	a.progress.End, a.progress.Err = why, err
	a.mu.Unlock()
	a.greet()
	close(a.done)
}
