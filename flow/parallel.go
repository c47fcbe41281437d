package flow

import (
	"errors"
	"io"
	"math/rand/v2"
	"sync"

	"opentap/packet"
)

// Frame is a frame as captured.
type Frame struct {
	Time    packet.Timestamp
	Data    []byte
	OrigLen uint32 // octets on the wire
	Link    packet.LinkType
}

// Frames are frames that follow one another, and the memory that their Data lie in: Octets is for whoever fills List to use
// as they like, and is left alone until they fill it again.
type Frames struct {
	List   []Frame
	Octets []byte
}

// maxJobs bounds Parallel.
const maxJobs = 16

// Parallel meters with several goroutines what Meter meters with one, and gives the same records in the same order. It is
// only with a full table that records differ, since each job has a table of its own for its share of MaxFlows; the same
// jobs still give the same.
//
// next adds frames to an empty list, up to a thousand or so: as many as fit in the caches of a core are best. io.EOF ends
// them, as any other error does, which Parallel then returns; frames that come with it still count. It is called by one
// goroutine at a time, and so is sink. Parallel returns when everything that next gave is metered and given to sink.
// jobs is 1 to 16.
func Parallel(cfg Config, jobs int, next func(*Frames) error, sink func(*Record)) (Stats, error) {
	if err := cfg.check(); err != nil {
		return Stats{}, err
	}
	if jobs < 1 || jobs > maxJobs || next == nil || sink == nil {
		return Stats{}, errors.New("flow: jobs are 1 to 16, and there must be frames and a sink")
	}
	cfg.MaxFlows = (cfg.MaxFlows + jobs - 1) / jobs
	c := newCrew(cfg, jobs, next)
	var running sync.WaitGroup
	for _, j := range c.jobs {
		running.Go(j.run)
	}
	running.Go(func() { c.merge(sink) })
	running.Wait()
	var s Stats
	for n, j := range c.jobs {
		s.add(j.table.Stats(), n == 0)
	}
	if c.err == io.EOF { //nolint:errorlint // the one that says that there is no more, not one that wraps it
		c.err = nil
	}
	return s, c.err
}

// add adds the accounts of one of several tables. All of them see every packet's time, so that is counted once.
func (s *Stats) add(o Stats, first bool) {
	if first {
		s.Late, s.ClockSteps = o.Late, o.ClockSteps
	}
	s.Packets += o.Packets
	s.Metered += o.Metered
	s.Octets += o.Octets
	s.NonIP += o.NonIP
	s.Truncated += o.Truncated
	s.Malformed += o.Malformed
	s.Fragments += o.Fragments
	s.PortsUnknown += o.PortsUnknown
	s.Flows += o.Flows
	s.FlowsBegun += o.FlowsBegun
	s.RecordsGiven += o.RecordsGiven
	s.FlowsEvicted += o.FlowsEvicted
}

// crew is a run of Parallel. Frames travel in pieces, each of which one job reads and decodes, whichever has the time, and
// then every job meters the packets of its own flows in it, piece by piece. A job meters while there is anything for it
// to meter, so that it is who is ahead of the others that reads, and it waits only while another one reads.
//
// What one core wrote is dear for another to read, up to hundreds of nanoseconds a line where they share no cache: a job
// gets of the others' pieces no more than the digests of its own packets, one after the other.
type crew struct {
	jobs []*job
	next func(*Frames) error

	mu      sync.Mutex
	changed *sync.Cond // something below did
	waiting int        // for that
	reading bool       // a job does
	read    int        // pieces read
	ring    []*piece   // piece n is ring[n%len(ring)]
	err     error      // why there are no more frames
	ripe    *sync.Cond // there may be enough for the merge
	idle    bool       // the merge waits for that

	// Of the one who reads.
	latest packet.Timestamp // newest time so far
	frames uint64
}

func newCrew(cfg Config, jobs int, next func(*Frames) error) *crew {
	c := &crew{next: next, latest: minTime}
	c.changed, c.ripe = sync.NewCond(&c.mu), sync.NewCond(&c.mu)
	hash := secret{rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64()}
	for n := range jobs {
		j := &job{crew: c, n: n, given: make([]placed, 0, outLen/8), out: make([]placed, 0, outLen)}
		j.table = newTable(cfg, j.sink, hash)
		c.jobs = append(c.jobs, j)
	}
	for range 4 + 2*jobs {
		c.ring = append(c.ring, new(piece))
	}
	return c
}

func (c *crew) piece(n int) *piece { return c.ring[n%len(c.ring)] }

// room says whether there is a piece that all jobs have done with.
func (c *crew) room() bool {
	for _, j := range c.jobs {
		if c.read-j.metered == len(c.ring) {
			return false
		}
	}
	return true
}

// wait is for a change. c.mu is held.
func (c *crew) wait() {
	c.waiting++
	c.changed.Wait()
	c.waiting--
}

// tell wakes those who wait. c.mu is held.
func (c *crew) tell() {
	if c.waiting > 0 {
		c.changed.Broadcast()
	}
	if !c.idle {
		return
	}
	for _, j := range c.jobs {
		if j.done || len(j.out) >= outLen/2 {
			c.ripe.Signal()
			return
		}
	}
}

// job is a core's share of Parallel.
type job struct {
	crew   *crew
	n      int
	table  *Table
	parsed packet.Parsed
	tun    packet.Parsed
	got    digest
	given  []placed // records not yet handed over
	_      apart

	// Under crew.mu.
	metered int    // pieces
	upTo    uint64 // records for packets up to this one are handed over
	done    bool
	out     []placed // records handed over and not yet taken
	_       apart
}

// run works until all is metered, then flushes.
func (j *job) run() {
	c := j.crew
	c.mu.Lock()
	for {
		switch {
		case j.metered < c.read && c.piece(j.metered).decoded:
			p := c.piece(j.metered)
			c.mu.Unlock()
			j.meter(p)
			j.hand()
			c.mu.Lock()
			j.metered++
			j.upTo = p.first + uint64(len(p.List)) - 1
			c.tell()
		case !c.reading && c.err == nil && c.room():
			p := c.piece(c.read)
			c.reading, p.decoded = true, false
			c.mu.Unlock()
			err := c.fill(p)
			c.mu.Lock()
			c.reading, c.err = false, err
			c.read++
			c.tell()
			c.mu.Unlock()
			j.decode(p)
			c.mu.Lock()
			p.decoded = true
			c.tell()
		case c.err != nil && !c.reading && j.metered == c.read:
			c.mu.Unlock()
			j.table.seq++
			j.table.Flush(EndForced)
			j.hand()
			c.mu.Lock()
			j.done = true
			c.tell()
			c.mu.Unlock()
			return
		default:
			c.wait()
		}
	}
}

// meter adds the job's own packets of a piece, and lets the time of all pass.
func (j *job) meter(p *piece) {
	t, s := j.table, &p.shares[j.n]
	passed := 0 // frames of the piece whose time has passed
	pass := func(to int, at packet.Timestamp) {
		if p.inOrder && int64(at) < t.wake { // nothing on the way ends a flow
			t.now, t.seq = int64(at), p.first+uint64(to-1)
			passed = to
			return
		}
		for ; passed < to; passed++ {
			t.pass(int64(p.List[passed].Time))
		}
	}
	for from := 0; from < len(s.of); from += batchLen {
		some, at := s.of[from:min(from+batchLen, len(s.of))], s.at[from:]
		t.warm(some)
		for i := range some {
			pass(int(at[i])+1, some[i].time)
			t.meter(&some[i])
		}
	}
	if n := len(p.List); passed < n {
		pass(n, p.List[n-1].Time)
	}
}
