package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"opentap/want"
)

// When a capture that has taken nothing is worth a word: so long, and so many packets at its interfaces.
const (
	emptyAfter   = 10 * time.Second // nothing at all came here
	emptyPackets = 20
	barrenAfter  = time.Minute // packets came, and the filter refused every one
	barrenMet    = 1000
)

// hunger watches a capture that has taken no packet yet. It belongs to the job's goroutine.
type hunger struct {
	fed    bool // it has: there is no more to watch
	began  time.Time
	looked time.Time
	first  uint64 // of the interfaces' counters
	reason string
}

// worry has a running capture of packets say what is wrong with it although it runs.
func (j *job) worry(st *want.Status) {
	c := j.get()
	if st.State != want.Running || c.Past() || c.Kind != want.Packets && c.Kind != want.Flows {
		return
	}
	if reason := j.a.restraint(); reason != "" {
		st.State, st.Reason = want.Degraded, reason
		return
	}
	if reason := j.hunger.look(j.a.cfg.SysfsRoot, c.Query.Points, st, time.Now()); reason != "" {
		st.State, st.Reason = want.Degraded, reason
	}
}

// look returns why a capture that has taken nothing should have; "" = it has, or nothing speaks for it.
func (h *hunger) look(sysfs string, points []string, st *want.Status, now time.Time) string {
	if h.fed || st.Ledger.Captured+st.Ledger.DroppedTotal()+st.Ledger.SampledOut+st.Ledger.RateLimited > 0 {
		h.fed, h.reason = true, ""
		return ""
	}
	if now.Sub(h.looked) < time.Second {
		return h.reason
	}
	h.looked = now
	n, ok := carried(sysfs, points)
	if !ok {
		h.began, h.reason = time.Time{}, ""
		return ""
	}
	if h.began.IsZero() || n < h.first { // the first look, or a device that is there again
		h.began, h.first = now, n
	}
	h.reason = hungry(st.Ledger.Filtered, n-h.first, now.Sub(h.began))
	return h.reason
}

// hungry puts it in words.
func hungry(refused, carried uint64, d time.Duration) string {
	switch {
	case refused == 0 && carried >= emptyPackets && d >= emptyAfter:
		return fmt.Sprintf("its interfaces counted %d packets in %s, and none reached this capture", carried, d.Round(time.Second))
	case refused >= barrenMet && d >= barrenAfter:
		return fmt.Sprintf("%d packets came in %s, and none passed the filter", refused, d.Round(time.Second))
	}
	return ""
}

// carried is how many packets the interfaces have received and sent since they exist. false: it cannot be known.
func carried(sysfs string, points []string) (uint64, bool) {
	if sysfs == "" {
		sysfs = "/sys"
	}
	var n uint64
	for _, p := range points {
		for _, counter := range []string{"rx_packets", "tx_packets"} {
			b, err := os.ReadFile(filepath.Join(sysfs, "class/net", filepath.Base(p), "statistics", counter))
			if err != nil {
				return 0, false
			}
			v, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
			if err != nil {
				return 0, false
			}
			n += v
		}
	}
	return n, true
}
