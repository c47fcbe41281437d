package agent

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"opentap/capture"
	"opentap/capture/segment"
	"opentap/filter"
	"opentap/packet"
	"opentap/want"
)

// Recorder keeps the newest packets of a point at all times, so that captures can reach into the past.
type Recorder struct {
	Point  string
	Filter string
	Snap   int           // octets kept of each packet; 0 = all
	Bytes  int64         // the oldest segments go when it holds more
	Age    time.Duration // and when they are older; 0 = any age

	Compress bool // sealed segments, with zstd
	Fanout   int  // rings that share the point's packets, each read by a thread of its own; 0 = 1
}

// recordingsDir is where recordings live, beside the captures. It is no UID.
const recordingsDir = "recordings"

// recording is a Recorder at work.
type recording struct {
	a    *Agent
	cfg  Recorder
	dir  string
	kick chan struct{} // full has changed
	wish *wished       // of the API; nil = it is the configuration's

	pins *pins // shared with the recording that takes this one's place

	cancel context.CancelFunc // set when it is started
	done   chan struct{}      // closed when run has returned

	mu      sync.Mutex
	s       *stream // nil while it is not recording
	began   time.Time
	held    int64      // octets on disk, as the guard saw them
	gaps    []want.Gap // of earlier runs
	problem string     // why it does not record; "" = it does
	hungry  string     // why it should record more than it does; "" = nothing speaks for it
	full    string     // why nothing may be recorded now; "" = it may
}

// pins are captures that need what a recording holds.
type pins struct {
	mu sync.Mutex
	by map[string]time.Time // by UID: and of what is newer than this
}

func newRecording(a *Agent, cfg Recorder) *recording {
	return &recording{
		a: a, cfg: cfg, dir: filepath.Join(a.cfg.CaptureDir, recordingsDir, url.PathEscape(cfg.Point)), kick: make(chan struct{}, 1),
		pins: &pins{by: make(map[string]time.Time)}, cancel: func() {}, done: make(chan struct{}),
	}
}

// retryRecording is how long after a failure a recording is tried again.
const retryRecording = 10 * time.Second

func (r *recording) trouble(text string) {
	r.mu.Lock()
	r.problem = text
	r.mu.Unlock()
	r.a.trouble("recorder "+r.cfg.Point, text)
}

// run records until ctx ends. A recording that fails is tried again.
func (r *recording) run(ctx context.Context) {
	if r.cfg.Compress {
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { r.compress(ctx) })
	}
	for {
		err := r.record(ctx)
		if ctx.Err() != nil {
			return
		}
		r.a.log.Error("recording stopped; it is tried again", "point", r.cfg.Point, "err", err)
		r.trouble(fmt.Sprintf("the recording of %s stopped: %v", r.cfg.Point, err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryRecording):
		}
	}
}

// segmentConfig bounds how many segments a recording is made of: the guard looks at all of them.
func (r *recording) segmentConfig() segment.Config {
	c := r.a.cfg.Segment
	c.SegmentBytes = min(max(r.cfg.Bytes/64, 4*int64(c.ChunkBytes)), 1<<30)
	c.Lanes = r.cfg.Fanout
	c.Buffers = max(c.Buffers, 4*c.Lanes)
	return c
}

func (r *recording) record(ctx context.Context) error {
	if full := r.noRoom(); full != "" {
		return errors.New(full)
	}
	c := want.Capture{Query: filter.Query{Points: []string{r.cfg.Point}, Filter: r.cfg.Filter, Snap: r.cfg.Snap}}
	c.Query.From = time.Unix(0, 0)
	p := &packets{fail: make(chan struct{})}
	s := &stream{point: r.cfg.Point, dir: r.dir, limit: &p.limit, p: p}
	last := r.lastWritten()
	r.loadGaps()
	if err := s.open(r.a, r.segmentConfig(), c.Query, true); err != nil {
		return err
	}
	began := time.Now().UTC()
	if rec, err := segment.Open(r.dir); err == nil {
		for _, info := range rec.Segments() {
			if info.Packets > 0 {
				began = info.Earliest.Time()
				break
			}
		}
		_ = rec.Close() // read only
	}
	var err error
	if err = s.attach(r.a.engine, engineSpec(r.cfg.Point, &c, false)); err != nil {
		return errors.Join(err, s.w.Close(s.base))
	}
	awaitOpen(s.att)
	if now := time.Now().UTC(); !last.IsZero() && now.After(last) {
		r.keepGaps([]want.Gap{{From: last, To: now, Reason: r.cfg.Point + ": the recorder was not running"}})
	}
	r.mu.Lock()
	r.s, r.began = s, began
	r.mu.Unlock()
	r.trouble("")
	r.a.link.InventoryChanged()
	full := ""
	var h hunger
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for full == "" && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-look.C:
			r.worry(&h, s.att.Progress())
		case <-s.att.Done():
			full = "it ended"
		case <-p.fail:
			full = "the disk refuses"
		case <-r.kick:
			full = r.noRoom()
		}
	}
	err = s.att.Detach(context.WithoutCancel(ctx))
	pr := s.att.Progress()
	r.mu.Lock()
	r.s, r.hungry = nil, ""
	r.mu.Unlock()
	r.keepGaps(gapsOf(pr.Gaps, r.cfg.Point))
	total := s.base
	total.Add(&pr.Account)
	if err := errors.Join(err, pr.Err, s.w.Close(total)); err != nil {
		return err
	}
	return errors.New(full)
}

// worry notes when the interface counts packets that do not come here. A filter that refuses all is no worry: a recorder waits for
// what is rare.
func (r *recording) worry(h *hunger, pr capture.Progress) {
	h.fed = true
	reason := ""
	if n := len(pr.Gaps); n > 0 && pr.Gaps[n-1].To.IsZero() || r.a.restraint() != "" {
		h.rest()
	} else {
		reason = h.look(r.a, []string{r.cfg.Point}, &pr.Account, time.Now())
	}
	r.mu.Lock()
	same := (r.hungry == "") == (reason == "")
	r.hungry = reason
	r.mu.Unlock()
	if !same {
		r.a.link.InventoryChanged()
	}
}

// halt says why nothing more may be recorded; with "" it may again.
func (r *recording) halt(reason string) {
	r.mu.Lock()
	r.full = reason
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

func (r *recording) noRoom() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.full
}

// since is the time from which on packets are recorded; zero = nothing is.
func (r *recording) since() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.s == nil {
		return time.Time{}
	}
	return r.began
}

// pin keeps what is newer than from until unpin.
func (r *recording) pin(uid string, from time.Time) {
	r.pins.mu.Lock()
	r.pins.by[uid] = from
	r.pins.mu.Unlock()
}

func (r *recording) unpin(uid string) {
	r.pins.mu.Lock()
	delete(r.pins.by, uid)
	r.pins.mu.Unlock()
}

// shrink removes what is too old, and as many of the oldest segments as it takes to hold at most most octets; what a
// capture needs stays. It returns how much is held after that.
func (r *recording) shrink(most int64) (int64, error) {
	rec, err := segment.Open(r.dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer rec.Close()
	r.pins.mu.Lock()
	pinned := packet.Timestamp(1<<63 - 1)
	for _, from := range r.pins.by {
		pinned = min(pinned, packet.TimestampOf(from))
	}
	r.pins.mu.Unlock()
	if r.cfg.Age > 0 {
		if _, err := rec.ExpireBefore(min(pinned, packet.TimestampOf(time.Now().Add(-r.cfg.Age)))); err != nil {
			return 0, err
		}
	}
	held := int64(0)
	for _, info := range rec.Segments() {
		held += info.Bytes + info.IndexBytes
	}
	for held > most && len(rec.Segments()) > 1 && rec.Segments()[0].Latest < pinned {
		info, err := rec.DropOldest()
		if err != nil {
			return held, err
		}
		held -= info.Bytes + info.IndexBytes
	}
	for _, info := range rec.Segments() {
		if info.Packets > 0 {
			r.mu.Lock()
			r.began = info.Earliest.Time()
			r.mu.Unlock()
			break
		}
	}
	return held, nil
}

// flush makes what was recorded until now readable.
func (r *recording) flush() error {
	r.mu.Lock()
	s := r.s
	r.mu.Unlock()
	if s == nil {
		return nil
	}
	if err := s.w.Flush(); err != nil && !errors.Is(err, segment.ErrClosed) {
		return err
	}
	return nil
}
