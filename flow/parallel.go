package flow

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"opentap/packet"
)

// Batches of Parallel: packets, and octets of their frames.
const (
	pieceLen    = 1024
	pieceOctets = 256 << 10
	chunkRecs   = 256 // records handed over at once
)

// piece is a run of frames, first as captured, then decoded.
type piece struct {
	n      int
	octets []byte
	ends   [pieceLen]uint32 // in octets
	orig   [pieceLen]uint32
	link   [pieceLen]packet.LinkType
	time   [pieceLen]packet.Timestamp
	job    [pieceLen]uint8 // whose packet it is
	parsed [pieceLen]packet.Parsed
	look   [pieceLen]look
}

// round is one piece for each job to decode; then each job meters its own flows' packets of all of them.
type round struct {
	pieces  []*piece
	decoded sync.WaitGroup
	left    atomic.Int32 // jobs that have not metered it
}

// place is a record's place in the order of all: the packet that made it come, why, and when it was due and had begun.
type place struct {
	seq   uint64
	due   int64
	born  uint64
	cause cause
}

func (p *place) less(o *place) bool {
	if p.seq != o.seq {
		return p.seq < o.seq
	}
	if p.cause != o.cause {
		return p.cause < o.cause
	}
	if p.due != o.due {
		return p.due < o.due
	}
	return p.born < o.born
}

// placed is a record in its place, or, with mark, the word that no more will come before that place.
type placed struct {
	place
	mark bool
	rec  Record
}

// job is a core's share of Parallel.
type job struct {
	n     uint8
	of    int
	inner bool
	table *Table
	in    chan *round
	out   chan []placed
	free  chan []placed
	buf   []placed
	tun   packet.Parsed
}

// Parallel meters with several goroutines what Meter meters with one, and gives the same records in the same order: packets
// are shared out by flow, and the jobs' records are merged by the packet that made them come. It is only with a full table
// that records differ, since each job has a table of its own for its share of MaxFlows; the same jobs still give the same.
//
// feed runs on the caller's goroutine and calls add for each frame; frame is copied. sink is called on one other goroutine.
// Parallel returns when everything that feed gave before it returned is metered and given to sink, with feed's error. jobs
// is 1 to 16.
func Parallel(cfg Config, jobs int, feed func(add func(ts packet.Timestamp, link packet.LinkType, frame []byte, origLen uint32)) error, sink func(*Record)) (Stats, error) {
	if err := cfg.check(); err != nil {
		return Stats{}, err
	}
	if jobs < 1 || jobs > 16 || sink == nil {
		return Stats{}, errors.New("flow: jobs are 1 to 16, and there must be a sink")
	}
	cfg.MaxFlows = (cfg.MaxFlows + jobs - 1) / jobs
	key := secret{rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64()}
	all := make([]*job, jobs)
	for n := range all {
		j := &job{n: uint8(n), of: jobs, inner: cfg.Inner, in: make(chan *round, 2), out: make(chan []placed, 4), free: make(chan []placed, 6)}
		j.table = newTable(cfg, j.sink, key)
		all[n] = j
	}
	var running sync.WaitGroup
	const inFlight = 3
	spare := make(chan *round, inFlight)
	for range inFlight {
		r := &round{pieces: make([]*piece, jobs)}
		for i := range r.pieces {
			r.pieces[i] = new(piece)
		}
		spare <- r
	}
	for _, j := range all {
		running.Go(func() { j.run(spare) })
	}
	running.Go(func() { merge(all, sink) })

	cur, at := <-spare, 0
	send := func() {
		cur.decoded.Add(jobs)
		cur.left.Store(int32(jobs))
		for _, j := range all {
			j.in <- cur
		}
	}
	err := feed(func(ts packet.Timestamp, link packet.LinkType, frame []byte, origLen uint32) {
		p := cur.pieces[at]
		if p.n == pieceLen || p.n > 0 && len(p.octets)+len(frame) > pieceOctets {
			if at++; at == jobs {
				send()
				cur, at = <-spare, 0
				for _, p := range cur.pieces {
					p.n, p.octets = 0, p.octets[:0]
				}
			}
			p = cur.pieces[at]
		}
		p.octets = append(p.octets, frame...)
		p.ends[p.n], p.orig[p.n], p.link[p.n], p.time[p.n] = uint32(len(p.octets)), origLen, link, ts
		p.n++
	})
	send()
	for _, j := range all {
		close(j.in)
	}
	running.Wait()
	var s Stats
	for n, j := range all {
		s.add(j.table.Stats(), n == 0)
	}
	return s, err
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

// run works until in is closed, then flushes.
func (j *job) run(spare chan<- *round) {
	for r := range j.in {
		j.decode(r.pieces[j.n])
		r.decoded.Done()
		r.decoded.Wait()
		for _, p := range r.pieces {
			j.meter(p)
		}
		if r.left.Add(-1) == 0 {
			spare <- r
		}
		j.buf = append(j.buf, placed{place: place{seq: j.table.seq, cause: causePacket + 1}, mark: true})
		j.hand()
	}
	j.table.seq++
	j.table.Flush(EndForced)
	j.hand()
	close(j.out)
}

// decode fills the second half of a piece.
func (j *job) decode(p *piece) {
	from := uint32(0)
	for i := range p.n {
		frame := p.octets[from:p.ends[i]]
		from = p.ends[i]
		d := &p.parsed[i]
		d.Decode(p.link[i], frame, p.orig[i])
		d.Time = p.time[i]
		if j.inner {
			innermost(d, &j.tun, frame)
		}
		p.job[i] = 0
		if !d.IsIP() {
			continue
		}
		j.table.prepare(&p.look[i], d)
		k := &p.look[i].k
		// Not the table's hash: that has a secret, and who gets which flow must be the same in every run.
		h := (k.src[0] ^ k.src[1]*0x9e3779b97f4a7c15 ^ k.dst[0]*0xc2b2ae3d27d4eb4f ^ k.dst[1]*0x165667b19e3779f9 ^ k.mid) * 0xd6e8feb86659fd93
		p.job[i] = uint8((h >> 32) * uint64(j.of) >> 32)
	}
}

// meter adds the job's own packets of a piece, and lets the time of all pass.
func (j *job) meter(p *piece) {
	t := j.table
	for from := 0; from < p.n; from += 2 * batchLen {
		to := min(from+2*batchLen, p.n)
		n := 0
		for i := from; i < to && n < batchLen; i++ {
			if p.job[i] == j.n && p.parsed[i].IsIP() {
				t.batch[n] = p.look[i]
				n++
			}
		}
		t.warm(t.batch[:n])
		for i := from; i < to; i++ {
			if p.job[i] != j.n {
				t.pass(int64(p.time[i]))
			} else if t.arrive(&p.parsed[i]) {
				t.meter(&p.parsed[i], &p.look[i])
			}
		}
	}
}

// sink takes a record of the table.
func (j *job) sink(r *Record) {
	t := j.table
	j.buf = append(j.buf, placed{place: place{t.seq, t.due, t.born, t.cause}, rec: *r})
	if len(j.buf) >= chunkRecs {
		j.hand()
	}
}

func (j *job) hand() {
	if len(j.buf) == 0 {
		return
	}
	j.out <- j.buf
	select {
	case j.buf = <-j.free:
		j.buf = j.buf[:0]
	default:
		j.buf = make([]placed, 0, chunkRecs+1)
	}
}

// merge gives the records of all jobs to sink in their order. A job's records are in order already.
func merge(all []*job, sink func(*Record)) {
	type head struct {
		j    *job
		list []placed
		at   int
	}
	var heads []*head
	for _, j := range all {
		heads = append(heads, &head{j: j})
	}
	for {
		var best *head
		for i := 0; i < len(heads); i++ {
			h := heads[i]
			if h.at == len(h.list) {
				if h.list != nil {
					select {
					case h.j.free <- h.list:
					default:
					}
				}
				list, ok := <-h.j.out
				if !ok {
					heads = append(heads[:i], heads[i+1:]...)
					i--
					continue
				}
				h.list, h.at = list, 0
			}
			if best == nil || h.list[h.at].less(&best.list[best.at].place) {
				best = h
			}
		}
		if best == nil {
			return
		}
		if r := &best.list[best.at]; !r.mark {
			sink(&r.rec)
		}
		best.at++
	}
}
