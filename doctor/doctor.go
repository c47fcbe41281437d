// Package doctor looks whether a host is fit for OpenTap: kernel, rights, clock, disks, memory and what was left behind.
//
// Runs in: agent | controller
package doctor

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"opentap/want"
)

// Config says what to look at.
type Config struct {
	DataDir, CaptureDir string // CaptureDir is "" where nothing is captured: then nothing that only capturing needs is looked at
	Quota, MinFree      int64  // octets; of CaptureDir
	Used                int64  // octets that captures hold now
	RingBytes           int64  // of memory for one source of packets
	// Known reports whether an entry of CaptureDir belongs to somebody.
	Known func(name string) bool
}

// Look does all checks, one after the other; it writes to both directories for a second or so. What it may not do is a
// finding, not an error.
func Look(ctx context.Context, cfg Config) []want.Finding {
	list := host(cfg)
	if cfg.CaptureDir != "" {
		list = append(list, space(cfg), leftovers(cfg))
	}
	list = append(list, private(cfg.DataDir))
	for _, d := range []struct{ check, dir string }{{"disk_data", cfg.DataDir}, {"disk_captures", cfg.CaptureDir}} {
		if ctx.Err() != nil || d.dir == "" {
			break
		}
		list = append(list, disk(ctx, d.check, d.dir))
	}
	return list
}

func fine(check, format string, args ...any) want.Finding {
	return want.Finding{Check: check, Severity: want.Fine, Text: fmt.Sprintf(format, args...)}
}

// found is a finding that is not fine.
func found(check string, s want.Severity, fix, format string, args ...any) want.Finding {
	return want.Finding{Check: check, Severity: s, Text: fmt.Sprintf(format, args...), Fix: fix}
}

const (
	syncRounds   = 15
	syncOctets   = 4 << 10
	streamOctets = 16 << 20
	slowSync     = 100 * time.Millisecond // of the median
	slowStream   = 30 << 20               // octets a second
)

// disk measures how long a small write takes to be safe, and how fast a long one is.
func disk(ctx context.Context, check, dir string) want.Finding {
	free, err := freeOctets(dir)
	if err != nil {
		return found(check, want.Bad, "make the directory, or mend its file system", "%s cannot be looked at: %v", dir, err)
	}
	if free < 8*streamOctets {
		return found(check, want.Bad, "make room", "%s has %s left; its speed is not measured", dir, octets(free))
	}
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return found(check, want.Bad, "give the user that opentapd runs as the right to write there", "%s cannot be written: %v", dir, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	fail := func(err error) want.Finding {
		return found(check, want.Bad, "look at the kernel's messages for errors of the disk", "%s cannot be written: %v", dir, err)
	}
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(i*7 + i>>8) // what a file system cannot make nothing of
	}
	var took []time.Duration
	for range syncRounds {
		if ctx.Err() != nil {
			break
		}
		start := time.Now()
		if _, err := f.Write(buf[:syncOctets]); err != nil {
			return fail(err)
		}
		if err := f.Sync(); err != nil {
			return fail(err)
		}
		took = append(took, time.Since(start))
	}
	start := time.Now()
	for n := 0; n < streamOctets && ctx.Err() == nil; n += len(buf) {
		if _, err := f.Write(buf); err != nil {
			return fail(err)
		}
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	rate := int64(streamOctets / max(time.Since(start).Seconds(), 1e-6))
	if ctx.Err() != nil || len(took) == 0 {
		return found(check, want.Warn, "ask again", "%s was not measured to the end", dir)
	}
	slices.Sort(took)
	median, worst := took[len(took)/2], took[len(took)-1]
	text := fmt.Sprintf("%s: a small write is safe after %s (median of %d; the longest %s), long ones go at %s/s", dir,
		median.Round(10*time.Microsecond), len(took), worst.Round(10*time.Microsecond), octets(rate))
	switch {
	case median > slowSync:
		return found(check, want.Warn, "put it on a faster disk: every act waits for the audit log, and every chunk for the disk", "%s", text)
	case rate < slowStream:
		return found(check, want.Warn, "put it on a faster disk, or capture with a filter or a snap length: packets that the disk cannot take are dropped and counted", "%s", text)
	}
	return fine(check, "%s", text)
}

// space compares what may be kept with what there is.
func space(cfg Config) want.Finding {
	const check = "space"
	free, err := freeOctets(cfg.CaptureDir)
	switch {
	case err != nil:
		return found(check, want.Bad, "make the directory, or mend its file system", "%s cannot be looked at: %v", cfg.CaptureDir, err)
	case free < cfg.MinFree:
		return found(check, want.Bad, "make room, delete captures, or lower retention.min_free",
			"%s has %s left, and %s are to stay free: nothing can be captured", cfg.CaptureDir, octets(free), octets(cfg.MinFree))
	case cfg.Quota > 0 && cfg.Used+free-cfg.MinFree < cfg.Quota:
		return found(check, want.Warn, "lower retention.quota, or make room", "%s has %s left: the quota of %s cannot be reached",
			cfg.CaptureDir, octets(free), octets(cfg.Quota))
	}
	return fine(check, "%s has %s left; captures hold %s of their quota of %s", cfg.CaptureDir, octets(free), octets(cfg.Used), octets(cfg.Quota))
}

// private looks whether others on this host can read what is secret.
func private(dir string) want.Finding {
	const check = "private"
	st, err := os.Stat(dir)
	if err != nil {
		return found(check, want.Bad, "make the directory", "%s cannot be looked at: %v", dir, err)
	}
	if mode := st.Mode().Perm(); mode&0o077 != 0 {
		return found(check, want.Warn, "chmod 700 "+dir, "%s has mode %04o: others on this host can look inside", dir, mode)
	}
	return fine(check, "%s is for its owner alone", dir)
}

// maxShown bounds how many names a finding tells.
const maxShown = 5

// leftovers looks for what belongs to nobody. Nothing is removed: it may be somebody's after all.
func leftovers(cfg Config) want.Finding {
	const check = "leftovers"
	entries, err := os.ReadDir(cfg.CaptureDir)
	if err != nil {
		return found(check, want.Bad, "make the directory, or mend its file system", "%s cannot be read: %v", cfg.CaptureDir, err)
	}
	var names []string
	for _, e := range entries {
		if cfg.Known == nil || !cfg.Known(e.Name()) && !strings.HasPrefix(e.Name(), ".doctor-") && e.Name() != "lost+found" {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return fine(check, "%s holds nothing that belongs to nobody", cfg.CaptureDir)
	}
	more := ""
	if len(names) > maxShown {
		more = fmt.Sprintf(" and %d more", len(names)-maxShown)
		names = names[:maxShown]
	}
	return found(check, want.Warn, "remove it if nobody needs it; opentapd leaves strangers' files alone", "%s holds what belongs to no capture: %q%s", cfg.CaptureDir, names, more)
}

// octets spells a size for people.
func octets(n int64) string {
	units := []string{"octets", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d %s", n, units[0])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
