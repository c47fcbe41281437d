package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"opentap/capture"
	"opentap/capture/ring"
	"opentap/capture/segment"
	"opentap/filter"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
)

// packets takes a pcap capture: a recording of its own for each point.
type packets struct {
	j     *job
	ended chan struct{} // all streams have ended

	mu      sync.Mutex // guards the streams' writers against open
	streams []*stream
	limit   budget
	fail    chan struct{} // closed by a source when the disk refuses
	once    sync.Once
}

// stream is one point of a pcap capture.
type stream struct {
	point     string
	dir       string
	limit     *budget
	base      ledger.Account // from before a restart
	baseBytes int64          // likewise, on disk
	w         *segment.Writer
	att       *capture.Fan
	late      time.Time // see lateGap
	p         *packets

	mu    sync.Mutex
	lanes []*lane // one, or of a recorder as many as its fanout
}

func newPackets(j *job) *packets {
	p := &packets{j: j, ended: make(chan struct{}), fail: make(chan struct{}), limit: budget{of: j.spec.Query.Limits}}
	for i, name := range j.spec.Query.Points {
		p.streams = append(p.streams, &stream{point: name, dir: filepath.Join(j.dir, strconv.Itoa(i)), limit: &p.limit, p: p})
	}
	return p
}

// budget is what a capture's limits leave, shared by its points.
type budget struct {
	of      filter.Limits
	packets atomic.Uint64
	octets  atomic.Uint64
}

// take asks for room for one packet of n octets. Full: there is none. TookLast: there is, and no more after it.
func (b *budget) take(n int) capture.Verdict {
	v := capture.Took
	if b.of.Packets > 0 {
		switch got := b.packets.Add(1); {
		case got > b.of.Packets:
			return capture.Full
		case got == b.of.Packets:
			v = capture.TookLast
		}
	}
	if b.of.Octets > 0 {
		switch got := b.octets.Add(uint64(n)); {
		case got > b.of.Octets:
			return capture.Full
		case got == b.of.Octets:
			v = capture.TookLast
		}
	}
	return v
}

// spent reports whether nothing is left.
func (b *budget) spent() bool {
	return b.of.Packets > 0 && b.packets.Load() >= b.of.Packets || b.of.Octets > 0 && b.octets.Load() >= b.of.Octets
}

// giveBack returns what a packet took that was not kept after all.
func (b *budget) giveBack(n int) {
	if b.of.Packets > 0 {
		b.packets.Add(^uint64(0))
	}
	if b.of.Octets > 0 {
		b.octets.Add(-uint64(n))
	}
}

func (p *packets) begin(m *memo, resumed bool) (err error) {
	spec := p.j.get()
	defer func() {
		if err != nil {
			err = errors.Join(err, p.abandon())
		}
	}()
	for _, s := range p.streams {
		cfg := p.j.a.cfg.Segment
		cfg.NoIndex = true // a capture is retrieved whole; recordings are what is searched
		if err := s.open(p.j.a, cfg, spec.Query, resumed); err != nil {
			return err
		}
	}
	if resumed {
		p.resume(&m.Status)
	}
	for _, s := range p.streams {
		if err = s.attach(p.j.a.engine, engineSpec(s.point, &spec, p.limit.spent())); err != nil {
			return err
		}
	}
	go p.watch()
	for _, s := range p.streams {
		s.late = awaitOpen(s.att)
	}
	return nil
}

// abandon gives back what a begin that failed had taken.
func (p *packets) abandon() (err error) {
	for _, s := range p.streams {
		if s.att != nil {
			err = errors.Join(err, s.att.Detach(context.Background()))
		}
		if s.w != nil {
			err = errors.Join(err, s.w.Close(s.base))
		}
	}
	return err
}

// resume makes the accounts go on from what is on disk. What had been counted and is not there is lost: the status is
// kept less often than packets are stored, so this is the least.
func (p *packets) resume(st *want.Status) {
	was, stored := st.Ledger, p.base()
	lost := was.Since(&stored)
	kept := stored.Captured + stored.Dropped[ledger.Corrupt]
	lost.Dropped[ledger.Corrupt] = max(was.Captured+was.Dropped[ledger.Corrupt], kept) - kept
	lost.Captured, lost.Octets, lost.StoredOctets = 0, 0, 0
	first := &p.streams[0].base // any of them: what was kept is the sum
	first.Add(&lost)
	first.Balance()
	st.Ledger = p.base()
	p.limit.packets.Add(st.Ledger.Captured)
	p.limit.octets.Add(st.Ledger.StoredOctets)
}

// engineSpec is what the engine has to do for one point of a capture. With spent the capture's limits were reached before
// opentapd ended: nothing more is taken.
func engineSpec(point string, c *want.Capture, spent bool) capture.Spec {
	q := &c.Query
	spec := capture.Spec{Point: point, Filter: q.Filter, Strict: q.Strict, Snap: q.Snap, From: packet.TimestampOf(q.From), Promiscuous: true}
	if to := c.End(); !to.IsZero() {
		spec.To = packet.TimestampOf(to)
	}
	if spent {
		spec.To = max(spec.From, 1)
	}
	return spec
}

// open makes the stream's writer, after what an earlier run left.
func (s *stream) open(a *Agent, cfg segment.Config, q filter.Query, resumed bool) error {
	if resumed {
		if err := s.recover(); err != nil {
			return fmt.Errorf("recover the recording: %w", err)
		}
	}
	link, err := ring.LinkTypeOf(s.point)
	if errors.Is(err, ring.ErrGone) {
		link = packet.LinkEthernet // the engine waits for the device; nearly all are Ethernet
	} else if err != nil {
		return err
	}
	cfg.Dir = s.dir
	cfg.Interface = a.describe(s.point, q, link)
	cfg.Section = pcap.Section{Application: "opentapd " + a.cfg.Version, Hardware: a.cfg.NodeName}
	if s.w, err = segment.Create(cfg); err != nil {
		return err
	}
	for i := range max(cfg.Lanes, 1) {
		s.lanes = append(s.lanes, &lane{s: s, w: s.w.Lane(i)})
	}
	return nil
}

// recover mends what an earlier run left and takes over its account. Nothing may be there yet.
func (s *stream) recover() error {
	if _, err := segment.Recover(s.dir); err != nil {
		return err
	}
	rec, err := segment.Open(s.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.base = storedAccount(rec)
	for _, info := range rec.Segments() {
		s.baseBytes += info.Bytes + info.IndexBytes
	}
	return rec.Close()
}

// storedAccount is the account of what really is on disk. The last account written may be a block older or newer than
// the last chunk: what is stored is what was captured.
func storedAccount(rec *segment.Recording) ledger.Account {
	return storedOnly(rec.Account(), rec)
}

// storedOnly has acc count as captured what the recording holds.
func storedOnly(acc ledger.Account, rec *segment.Recording) ledger.Account {
	acc.Captured, acc.Octets, acc.StoredOctets = 0, 0, 0
	for _, info := range rec.Segments() {
		acc.Captured += info.Packets
		acc.Octets += info.Octets
		acc.StoredOctets += info.StoredOctets
	}
	acc.Balance()
	return acc
}

// describe tells readers of the file about the point.
func (a *Agent) describe(name string, q filter.Query, link packet.LinkType) pcap.Interface {
	i := pcap.Interface{Name: name, Filter: q.Filter, Link: link, SnapLen: uint32(q.Snap)}
	for _, p := range *a.devices.Load() {
		if p.Name != name {
			continue
		}
		i.SpeedBPS = p.SpeedBPS
		if len(p.Aliases) > 0 {
			i.Description = p.Aliases[0]
		}
	}
	return i
}

// watch waits for all streams and ends them together.
func (p *packets) watch() {
	defer close(p.ended)
	atts := make([]attached, len(p.streams))
	for i, s := range p.streams {
		atts[i] = s.att
	}
	endTogether(atts, p.fail)
}

func (p *packets) done() <-chan struct{} { return p.ended }

func (p *packets) stop(ctx context.Context) {
	for _, s := range p.streams {
		if err := s.att.Detach(ctx); err != nil {
			p.j.log.Error("a point did not end in time", "point", s.point, "err", err)
		}
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
	}
}

func (p *packets) base() ledger.Account {
	var total ledger.Account
	for _, s := range p.streams {
		total.Add(&s.base)
	}
	return total
}

func (p *packets) look(m *memo) {
	st := &m.Status
	var total ledger.Account
	var gaps []want.Gap
	var bytes int64
	for _, s := range p.streams {
		pr := s.att.Progress()
		acc, stats := s.account(&pr), s.w.Stats()
		total.Add(&acc)
		gaps = append(append(gaps, lateGap(s.point, s.late, &pr)...), gapsOf(pr.Gaps, s.point)...)
		bytes += s.baseBytes + int64(stats.FileOctets)
	}
	st.Ledger = total
	st.Bytes = uint64(bytes)
	mergeGaps(st, gaps)
}

// account is the stream's, of all runs. When the disk refuses, what was taken and has not reached it is lost after all.
func (s *stream) account(pr *capture.Progress) ledger.Account {
	a := s.base
	a.Add(&pr.Account)
	if s.w.Err() == nil {
		return a
	}
	stats := s.w.Stats()
	lost := min(stats.Packets-stats.WrittenPackets, a.Captured)
	a.Captured -= lost
	a.Dropped[ledger.Disk] += lost
	a.Octets -= min(stats.Octets-stats.WrittenOctets, a.Octets)
	a.StoredOctets -= min(stats.Stored-stats.WrittenStored, a.StoredOctets)
	return a
}

// mergeGaps replaces the gaps of this run in the status; gaps from before stay. The state follows: a capture whose point
// cannot be seen is degraded.
func mergeGaps(st *want.Status, now []want.Gap) {
	keep := st.Gaps[:0:0]
	for _, g := range st.Gaps {
		known := false
		for _, n := range now {
			known = known || n.From.Equal(g.From)
		}
		if !known {
			keep = append(keep, g)
		}
	}
	st.Gaps = append(keep, now...)
	if st.State != want.Running && st.State != want.Degraded {
		return
	}
	st.State, st.Reason = want.Running, ""
	for _, g := range now {
		if g.To.IsZero() {
			st.State, st.Reason = want.Degraded, g.Reason
		}
	}
}

func (p *packets) end(m *memo) (want.State, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	state, reason := want.Done, ""
	for _, s := range p.streams {
		pr := s.att.Progress()
		total := s.base
		total.Add(&pr.Account)
		if err := s.w.Close(total); err != nil {
			state, reason = want.Failed, diskReason(err)
			continue
		}
		if state == want.Failed {
			continue
		}
		switch pr.End {
		case capture.EndLimit:
			reason = "its limit is reached"
		case capture.EndError:
			state, reason = want.Failed, pr.Err.Error()
		}
	}
	if reason == "" && p.limit.spent() {
		reason = "its limit is reached"
	}
	p.look(m) // now it is known what reached the disk
	return state, reason
}

// diskReason says in plain words why the disk refused.
func diskReason(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return "the disk is full; what was captured before is kept"
	case errors.Is(err, syscall.EDQUOT):
		return "the disk quota is used up; what was captured before is kept"
	}
	return "the disk refused the data: " + err.Error() + "; what was captured before is kept"
}
