package netdev

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"opentap/point"
)

// Run calls fn with all network devices, once at the start and again whenever something about them, or the default
// route, has changed: created, deleted, renamed, up, down, alias. Changes that come together are told together. fn is
// called from Run's goroutine and owns the slice; an index that lives on keeps its Since through renames.
//
// Notifications are only a hint to list again, so one that is lost (the socket overruns) loses nothing; and everything is
// listed once a minute anyway, since the kernel does not tell of an alias given to a device that is down. Run returns nil
// when ctx ends.
func (w *Watcher) Run(ctx context.Context, fn func([]point.Point)) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("subscribe to network device changes: %w", err)
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)() // Close wakes Receive

	f := follower{since: make(map[int]time.Time)}
	for {
		points, err := List()
		switch {
		case err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			// The kernel is short of something. What was told stays true until it is heard of again.
			w.log.Warn("network devices cannot be listed; trying again", "err", err)
		case f.changed(points):
			fn(points)
		}
		if err := w.wait(ctx, s, err != nil); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// wait blocks until something has changed and is quiet again, or it is time to resync. retry asks for it soon.
func (w *Watcher) wait(ctx context.Context, s *nl.NetlinkSocket, retry bool) error {
	timeout := resync
	if retry {
		timeout = time.Second
	}
	var dirty time.Time // when the first change was heard; zero = none yet
	start := time.Now()
	for {
		left := timeout - time.Since(start)
		if !dirty.IsZero() {
			left = min(quiet, window-time.Since(dirty))
		}
		if left <= 0 {
			return nil
		}
		tv := unix.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
		if err := s.SetReceiveTimeout(&tv); err != nil {
			return fmt.Errorf("wait for network device changes: %w", err)
		}
		msgs, from, err := s.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.EAGAIN): // quiet, or time to resync
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			w.log.Debug("network device notifications overran; listing all")
			if dirty.IsZero() {
				dirty = time.Now()
			}
			continue
		case err != nil:
			return fmt.Errorf("receive network device changes: %w", err)
		case from.Pid != nl.PidKernel: // another process can write to the group, and is not believed
			continue
		}
		for _, m := range msgs {
			if dirty.IsZero() && relevant(m.Header.Type, m.Data) {
				dirty = time.Now()
			}
		}
	}
}

// relevant reports whether a notification can change the list: of routes only default ones do (destination length 0, the
// second octet of struct rtmsg, rtnetlink(7)), which spares a router with a full table.
func relevant(typ uint16, data []byte) bool {
	switch typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return true
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return len(data) >= unix.SizeofRtMsg && data[1] == 0
	}
	return false
}

// follower remembers what was told last.
type follower struct {
	told  []point.Point
	any   bool
	since map[int]time.Time // interface index → when it was first found
}

// changed fills Since and reports whether points differ from what was told last.
func (f *follower) changed(points []point.Point) bool {
	present := make(map[int]time.Time, len(points))
	for i := range points {
		t, ok := f.since[points[i].IfIndex]
		if !ok {
			t = points[i].Since
		}
		points[i].Since, present[points[i].IfIndex] = t, t
	}
	f.since = present
	if f.any && reflect.DeepEqual(f.told, points) {
		return false
	}
	f.any = true
	f.told = make([]point.Point, len(points)) // fn owns points
	for i, p := range points {
		p.Aliases = append([]string(nil), p.Aliases...)
		f.told[i] = p
	}
	return true
}
