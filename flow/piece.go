package flow

import (
	"fmt"
	"math"

	"opentap/packet"
)

const minTime = packet.Timestamp(math.MinInt64)

// piece is a run of frames, and what the tables need of them.
type piece struct {
	Frames
	first   uint64 // number of the first packet; that of a table's first is 1
	inOrder bool   // no packet is older than one before it, of any piece
	shares  [maxJobs]share
	decoded bool // under crew.mu
	_       apart
}

// share is what one job has to meter of a piece.
type share struct {
	of []digest
	at []uint16 // which packets of the piece they are
}

// apart keeps what one core writes all the time from lying in a line of memory with what another uses: that would cost
// each of them hundreds of nanoseconds every time.
type apart [128]byte

// fill reads frames into p.
func (c *crew) fill(p *piece) error {
	p.List, p.inOrder, p.first = p.List[:0], true, c.frames+1
	err := c.next(&p.Frames)
	if len(p.List) > math.MaxUint16 {
		p.List, err = p.List[:0], fmt.Errorf("flow: %d frames at once are more than %d", len(p.List), math.MaxUint16)
	}
	c.frames += uint64(len(p.List))
	for i := range p.List {
		if t := p.List[i].Time; t < c.latest {
			p.inOrder = false
		} else {
			c.latest = t
		}
	}
	return err
}

// decode digests the packets of p and shares them out.
func (j *job) decode(p *piece) {
	shares := p.shares[:len(j.crew.jobs)]
	for n := range shares {
		shares[n].of, shares[n].at = shares[n].of[:0], shares[n].at[:0]
	}
	d, g := &j.parsed, &j.got
	for i := range p.List {
		f := &p.List[i]
		d.Decode(f.Link, f.Data, f.OrigLen)
		d.Time = f.Time
		if j.table.cfg.Inner {
			innermost(d, &j.tun, f.Data)
		}
		j.table.stats.arrived(d)
		if j.table.digest(g, d); g.has(digestFlow) {
			s := &shares[g.k.job(len(shares))]
			s.of, s.at = append(s.of, *g), append(s.at, uint16(i))
		}
	}
}

// job says which of several jobs has the flow. It is not the table's hash that says so: that has a secret, and who gets
// which flow must be the same in every run.
func (k *key) job(of int) int {
	h := (k.src[0] ^ k.src[1]*0x9e3779b97f4a7c15 ^ k.dst[0]*0xc2b2ae3d27d4eb4f ^ k.dst[1]*0x165667b19e3779f9 ^ k.mid) * 0xd6e8feb86659fd93
	return int((h >> 32) * uint64(of) >> 32)
}
