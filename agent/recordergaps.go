package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"opentap/capture/segment"
	"opentap/packet"
	"opentap/want"
)

const (
	// gapsFile is where a recording keeps its gaps, beside its segments.
	gapsFile = "gaps.json"
	// maxRecorderGaps bounds them; the oldest go first.
	maxRecorderGaps = 1000
)

// loadGaps reads the gaps of earlier runs. A file that does not read back is one without gaps: it is told, and no reason not to record.
func (r *recording) loadGaps() {
	b, err := os.ReadFile(filepath.Join(r.dir, gapsFile))
	if err != nil {
		return
	}
	var gaps []want.Gap
	if err := json.Unmarshal(b, &gaps); err != nil {
		r.a.log.Warn("the gaps of a recorder are not known", "point", r.cfg.Point, "err", err)
		return
	}
	r.mu.Lock()
	r.gaps = gaps
	r.mu.Unlock()
}

// keepGaps writes gaps that are over, with those of earlier runs, where the next run finds them.
func (r *recording) keepGaps(more []want.Gap) {
	r.mu.Lock()
	for _, g := range more {
		if !g.To.IsZero() {
			r.gaps = append(r.gaps, g)
		}
	}
	oldest := time.Time{}
	if r.cfg.Age > 0 {
		oldest = time.Now().Add(-r.cfg.Age - time.Hour)
	}
	r.gaps = slices.DeleteFunc(r.gaps, func(g want.Gap) bool { return g.To.Before(oldest) })
	if n := len(r.gaps); n > maxRecorderGaps {
		r.gaps = slices.Clone(r.gaps[n-maxRecorderGaps:])
	}
	b, err := json.Marshal(r.gaps)
	r.mu.Unlock()
	path := filepath.Join(r.dir, gapsFile)
	if err == nil {
		err = os.WriteFile(path+".part", b, 0o640)
	}
	if err == nil {
		err = os.Rename(path+".part", path)
	}
	if err != nil {
		r.a.log.Warn("the gaps of a recorder are not kept", "point", r.cfg.Point, "err", err)
	}
}

// lastWritten is when the recording's files were last written to: until about then it was recorded. Zero: it has none.
func (r *recording) lastWritten() (last time.Time) {
	segments, err := filepath.Glob(filepath.Join(r.dir, "*.pcapng*"))
	if err != nil {
		return last
	}
	for _, path := range segments {
		if st, err := os.Stat(path); err == nil && st.ModTime().After(last) {
			last = st.ModTime()
		}
	}
	return last.UTC()
}

// missed returns the gaps of the recording that are in the window; to is zero without an end.
func (r *recording) missed(from, to time.Time) []want.Gap {
	r.mu.Lock()
	gaps := slices.Clone(r.gaps)
	s := r.s
	r.mu.Unlock()
	if s != nil {
		gaps = append(gaps, gapsOf(s.att.Progress().Gaps, r.cfg.Point)...)
	}
	return slices.DeleteFunc(gaps, func(g want.Gap) bool {
		return !g.To.IsZero() && !g.To.After(from) || !to.IsZero() && !g.From.Before(to)
	})
}

// terms says what a recording kept of what it met in the window, as its segments tell; "" = everything, whole.
func (r *recording) terms(upto segment.Position, from, to packet.Timestamp) (string, error) {
	rec, err := segment.OpenUpto(r.dir, upto)
	if err != nil {
		return "", err
	}
	defer rec.Close()
	var filters, snaps []string
	for _, in := range rec.Segments() {
		if in.Packets == 0 || in.Latest < from || to != 0 && in.Earliest >= to || in.Damaged != "" {
			continue
		}
		face, err := rec.InterfaceOf(in.Number)
		if err != nil {
			continue // what does not read back is told where its packets are missing
		}
		if f := fmt.Sprintf("the filter %q", face.Filter); face.Filter != "" && !slices.Contains(filters, f) {
			filters = append(filters, f)
		}
		if s := fmt.Sprintf("%d octets of each packet", face.SnapLen); face.SnapLen != 0 && !slices.Contains(snaps, s) {
			snaps = append(snaps, s)
		}
	}
	if len(filters)+len(snaps) == 0 {
		return "", nil
	}
	return r.cfg.Point + " was recorded with " + strings.Join(append(filters, snaps...), ", ") + ": nothing else is in it", nil
}

// bounds tells in the status what the recordings did not see, or did not keep, of the capture's window.
func (r *recorded) bounds(m *want.Status) {
	c := r.j.get()
	to := c.End()
	if to.IsZero() {
		to = m.Ended
	}
	var gaps []want.Gap
	r.each(func(rec *recording) { gaps = append(gaps, rec.missed(c.Query.From, to)...) })
	m.Gaps = gaps
}

// terms says what the recordings kept of the window, as far as e; "" = everything.
func (r *recorded) terms(e extent) (string, error) {
	q := r.j.get().Query
	var all []string
	for i, name := range q.Points {
		rec := r.j.a.recorder(name)
		if rec == nil {
			continue // who reads the packets is told
		}
		text, err := rec.terms(e.upto[i], packet.TimestampOf(q.From), e.to)
		if err != nil {
			return "", err
		}
		if text != "" {
			all = append(all, text)
		}
	}
	return strings.Join(all, "; "), nil
}
