package agent

import (
	"context"
	"fmt"
	"time"

	"opentap/want"
)

const (
	recordersEvery = 5 * time.Second // how often it is told how recorders fare
	guardEvery     = time.Second
	sensorEvery    = 30 * time.Second
)

// guard holds the disk inside its bounds and the inventory true, until ctx ends.
func (a *Agent) guard(ctx context.Context) {
	t := time.NewTicker(guardEvery)
	defer t.Stop()
	looked, told, beaten := time.Now(), time.Now(), time.Time{}
	for {
		if time.Since(beaten) >= rememberEvery && a.busy() {
			beaten = time.Now()
			problem := ""
			if err := a.keep.beat(beaten); err != nil {
				problem = "the agent's state cannot be written: " + err.Error()
			}
			a.trouble("alive", problem)
		}
		a.expire(time.Now())
		a.guardDisk()
		a.bury()
		if time.Since(told) >= recordersEvery && len(a.allRecorders())+len(a.collectors)+len(a.meterings) > 0 {
			told = time.Now()
			a.link.InventoryChanged()
		}
		if time.Since(looked) >= sensorEvery {
			looked = time.Now()
			a.lookSensors(ctx)
			a.probe()
			a.link.InventoryChanged() // also for what is used and free on the disk
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// expire removes the data of captures whose retention has passed, also when no controller says so.
func (a *Agent) expire(now time.Time) {
	for _, j := range a.all() {
		if err := j.expire(now); err != nil {
			a.log.Error("cannot remove expired data; it is tried again", "uid", j.uid, "err", err)
		}
	}
}

// all returns the jobs there are now.
func (a *Agent) all() []*job {
	a.mu.Lock()
	defer a.mu.Unlock()
	jobs := make([]*job, 0, len(a.jobs))
	for _, j := range a.jobs {
		jobs = append(jobs, j)
	}
	return jobs
}

// busy reports whether a capture is under way, so that a crash would leave a gap.
func (a *Agent) busy() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, j := range a.jobs {
		if st := j.snapshot().State; st == want.Running || st == want.Degraded {
			return true
		}
	}
	return false
}

// guardDisk lets recordings give up their oldest data, and when only promised data is left ends what still grows, before
// the disk ends it for us.
func (a *Agent) guardDisk() {
	jobs := a.all()
	var promised, spare int64
	for _, j := range jobs {
		promised += int64(j.snapshot().Bytes)
	}
	recorders := a.allRecorders()
	held := make(map[*recording]int64, len(recorders))
	shrink := func(r *recording, most int64) {
		now, err := r.shrink(most)
		problem := ""
		if err != nil {
			problem = fmt.Sprintf("the recording of %s cannot be cut: %v", r.cfg.Point, err)
		}
		a.trouble("shrink "+r.cfg.Point, problem)
		spare += now - held[r]
		held[r] = now
		r.mu.Lock()
		r.held = now
		r.mu.Unlock()
	}
	for _, r := range recorders {
		if r.wish != nil && r.wish.Retired {
			shrink(r, 0)
			continue
		}
		shrink(r, r.cfg.Bytes)
	}
	spare += a.flows.guard(0, time.Now())
	free, err := FreeOctets(a.cfg.CaptureDir)
	for _, r := range recorders {
		over := a.overQuota(promised+spare, free)
		if err == nil && over > 0 {
			shrink(r, max(held[r]-over, 0))
			free, err = FreeOctets(a.cfg.CaptureDir)
		}
	}
	if over := a.overQuota(promised+spare, free); err == nil && over > 0 {
		before := a.flows.guard(0, time.Now())
		spare += a.flows.guard(over, time.Now()) - before
		free, err = FreeOctets(a.cfg.CaptureDir)
	}
	problem := ""
	if err != nil {
		problem = "free space cannot be read: " + err.Error()
	}
	a.trouble("disk", problem)
	if err != nil {
		return
	}
	a.mu.Lock()
	a.used, a.free = promised+spare, free
	a.mu.Unlock()
	reason := a.cfg.Quota.exceeded(promised+spare, free, a.cfg.CaptureDir)
	a.trouble("room", reason)
	for _, r := range recorders {
		r.halt(reason)
	}
	for _, l := range a.flows.all() {
		l.halt(reason)
	}
	if reason == "" {
		return
	}
	for _, j := range jobs {
		if st := j.snapshot().State; st == want.Running || st == want.Degraded {
			j.halt(reason)
		}
	}
}

// overQuota is how many octets are to go; what is not above 0 is room.
func (a *Agent) overQuota(used, free int64) int64 {
	over := a.cfg.Quota.MinFree - free
	if a.cfg.Quota.Bytes > 0 {
		over = max(over, used-a.cfg.Quota.Bytes)
	}
	return over
}

// exceeded says why nothing may grow any more; "" = it may.
func (q Quota) exceeded(used, free int64, dir string) string {
	switch {
	case q.Bytes > 0 && used > q.Bytes:
		return fmt.Sprintf("the quota of %d octets for captures is used up, and all of it is promised to captures that have not expired", q.Bytes)
	case free < q.MinFree:
		return fmt.Sprintf("less than the %d octets that are to stay free are free on the disk of %s", q.MinFree, dir)
	}
	return ""
}
