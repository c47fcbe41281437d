package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"opentap/ledger"
	"opentap/want"
)

// When packets that do not come here are worth a word: so long, and so many packets at the interfaces.
const (
	emptyAfter   = 10 * time.Second // none at all came here
	emptyPackets = 20
	barrenAfter  = time.Minute // packets came, and the filter refused every one
	barrenMet    = 1000
)

// hunger watches what comes to a capture or a recorder beside the counters of its interfaces. It belongs to one goroutine.
type hunger struct {
	fed    bool      // a packet was taken once: a filter that refuses all is no news any more
	since  time.Time // the first look
	looked time.Time
	began  time.Time // when a packet came last; zero = nothing is known yet
	met    uint64    // packets that had come by then
	first  uint64    // of the interfaces' counters at that time
	reason string
}

// worry has a running capture of packets say what is wrong with it although it runs.
func (j *job) worry(st *want.Status) {
	c := j.get()
	if c.Past() || c.Kind != want.Packets && c.Kind != want.Flows {
		return
	}
	if st.State != want.Running { // a device that is down or gone is told already
		j.hunger.rest()
		return
	}
	if reason := j.a.restraint(); reason != "" {
		j.hunger.rest()
		st.State, st.Reason = want.Degraded, reason
		return
	}
	if reason := j.hunger.look(j.a, c.Query.Points, &st.Ledger, time.Now()); reason != "" {
		st.State, st.Reason = want.Degraded, reason
	}
}

// rest forgets what was counted: for a while nothing was to be expected.
func (h *hunger) rest() { h.began, h.reason = time.Time{}, "" }

// look returns why one that has the account should have got more; "" = nothing speaks for it.
func (h *hunger) look(a *Agent, points []string, acc *ledger.Account, now time.Time) string {
	h.fed = h.fed || acc.Seen > acc.Filtered
	if now.Sub(h.looked) < time.Second {
		return h.reason
	}
	if h.looked = now; h.since.IsZero() {
		h.since = now
	}
	n, ok := a.carried(points)
	if !ok {
		h.rest()
		return ""
	}
	if h.began.IsZero() || n < h.first || acc.Seen != h.met { // the first look, a device that is there again, or all is well
		h.began, h.first, h.met = now, n, acc.Seen
	}
	h.reason = ""
	switch quiet, watched := now.Sub(h.began), now.Sub(h.since); {
	case n-h.first >= emptyPackets && quiet >= emptyAfter:
		h.reason = fmt.Sprintf("its interfaces counted %d packets in %s, and none of them came here", n-h.first, quiet.Round(time.Second))
	case !h.fed && acc.Filtered >= barrenMet && watched >= barrenAfter:
		h.reason = fmt.Sprintf("%d packets came in %s, and none passed the filter", acc.Filtered, watched.Round(time.Second))
	}
	return h.reason
}

// carried is how many packets the interfaces have received, and sent unless they are dedicated, since they exist. false: it
// cannot be known.
func (a *Agent) carried(points []string) (uint64, bool) {
	sysfs := a.cfg.SysfsRoot
	if sysfs == "" {
		sysfs = "/sys"
	}
	var n uint64
	for _, p := range points {
		counters := []string{"rx_packets", "tx_packets"}
		if _, ok := a.cfg.Capture.Dedicated[p]; ok { // what the host sends is not seen there
			counters = counters[:1]
		}
		for _, counter := range counters {
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
