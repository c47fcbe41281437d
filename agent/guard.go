package agent

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"opentap/want"
)

const (
	guardEvery  = time.Second
	sensorEvery = 30 * time.Second
)

// guard holds the disk inside its bounds and the inventory true, until ctx ends.
func (a *Agent) guard(ctx context.Context) {
	t := time.NewTicker(guardEvery)
	defer t.Stop()
	looked := time.Now()
	for {
		a.guardDisk()
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

// guardDisk lets recordings give up their oldest data, and when only promised data is left ends what still grows, before
// the disk ends it for us.
func (a *Agent) guardDisk() {
	a.mu.Lock()
	jobs := make([]*job, 0, len(a.jobs))
	for _, j := range a.jobs {
		jobs = append(jobs, j)
	}
	recorders := make([]*recording, 0, len(a.recorders))
	for _, r := range a.recorders {
		recorders = append(recorders, r)
	}
	a.mu.Unlock()

	var promised, spare int64
	for _, j := range jobs {
		promised += int64(j.snapshot().Bytes)
	}
	for _, r := range recorders {
		held, err := r.shrink(r.cfg.Bytes)
		if err != nil {
			a.trouble("shrink "+r.cfg.Point, fmt.Sprintf("the recording of %s cannot be cut: %v", r.cfg.Point, err))
		}
		spare += held
	}
	if over := promised + spare - a.cfg.Quota.Bytes; a.cfg.Quota.Bytes > 0 && over > 0 {
		for _, r := range recorders {
			was := used(r.dir)
			if held, err := r.shrink(max(was-over, 0)); err == nil {
				spare -= was - held
				over -= was - held
			}
		}
	}
	free, err := freeOctets(a.cfg.CaptureDir)
	if err != nil {
		a.trouble("disk", "free space cannot be read: "+err.Error())
		return
	}
	a.mu.Lock()
	a.used, a.free = promised+spare, free
	a.mu.Unlock()
	reason := ""
	switch q := a.cfg.Quota; {
	case q.Bytes > 0 && promised+spare > q.Bytes:
		reason = fmt.Sprintf("the quota of %d octets for captures is used up, and all of it is promised to captures that have not expired", q.Bytes)
	case free < q.MinFree:
		reason = fmt.Sprintf("only %d octets are free on the disk of %s; %d are to stay free", free, a.cfg.CaptureDir, q.MinFree)
	}
	a.trouble("room", reason)
	if reason == "" {
		return
	}
	for _, j := range jobs {
		if st := j.snapshot().State; st == want.Running || st == want.Degraded {
			j.halt(reason)
		}
	}
}

// used is what a directory holds, in octets of its files.
func used(dir string) int64 {
	var n int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error { // what vanishes meanwhile takes no room
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}
