package flow

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

// placed is a record in its place.
type placed struct {
	place
	rec Record
}

// outLen bounds the records that a job has handed over and the merge not yet taken. The merge is woken for half of them.
const outLen = 2048

// sink takes a record of the job's table.
func (j *job) sink(r *Record) {
	t := j.table
	j.given = append(j.given, placed{place{t.seq, t.due, t.born, t.cause}, *r})
	if len(j.given) == cap(j.given) {
		j.hand()
	}
}

// hand gives the job's records to the merge, when that has room for them.
func (j *job) hand() {
	if len(j.given) == 0 {
		return
	}
	c := j.crew
	c.mu.Lock()
	for len(j.out)+len(j.given) > outLen {
		c.wait()
	}
	j.out = append(j.out, j.given...)
	c.tell()
	c.mu.Unlock()
	j.given = j.given[:0]
}

// head is what the merge has of a job: records in their order, and, when they are used up, how far it got.
type head struct {
	list []placed
	upTo uint64 // it gives no more records for packets up to this one
	done bool   // it gives no more at all
	was  []placed
}

// merge gives the records of all jobs to sink in their order.
func (c *crew) merge(sink func(*Record)) {
	heads := make([]head, len(c.jobs))
	for c.take(heads) {
		for h := first(heads); h != nil; h = first(heads) {
			sink(&h.list[0].rec)
			h.list = h.list[1:]
		}
	}
}

// first returns the head whose record is the next of all, or nil if there is none, or one may come before it.
func first(heads []head) *head {
	var best *head
	for i := range heads {
		if h := &heads[i]; len(h.list) > 0 && (best == nil || h.list[0].less(&best.list[0].place)) {
			best = h
		}
	}
	if best != nil {
		for i := range heads {
			if h := &heads[i]; len(h.list) == 0 && !h.done && h.upTo < best.list[0].seq {
				return nil
			}
		}
	}
	return best
}

// take waits until the heads have a first record. It returns false when there will be none.
func (c *crew) take(heads []head) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		over := true
		for i, j := range c.jobs {
			h := &heads[i]
			if len(h.list) > 0 {
				over = false
				continue
			}
			h.upTo, h.done = j.upTo, j.done
			if len(j.out) > 0 {
				h.list, j.out = j.out, h.was[:0]
				h.was = h.list
			}
			over = over && h.done && len(h.list) == 0
		}
		if over {
			return false
		}
		if first(heads) != nil {
			c.tell()
			return true
		}
		c.idle = true
		c.ripe.Wait()
		c.idle = false
	}
}
