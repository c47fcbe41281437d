package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// parseTime reads a time as people write it, relative to now: RFC 3339, Unix seconds, "now", "-10m", "+5m", or a time of
// the present day in the local zone, "15:04" or "15:04:05".
func parseTime(s string, now time.Time) (time.Time, error) {
	switch {
	case s == "":
		return time.Time{}, nil
	case s == "now":
		return now, nil
	case s[0] == '-' || s[0] == '+':
		d, err := time.ParseDuration(s)
		if err != nil {
			return time.Time{}, fmt.Errorf("%q is not a distance from now such as -10m or +1h30m", s)
		}
		return now.Add(d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			y, m, d := now.Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, now.Location()), nil
		}
	}
	whole, frac, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err == nil && sec >= 0 && sec <= 253402300799 && len(frac) <= 9 {
		var ns uint64
		if frac != "" {
			ns, err = strconv.ParseUint((frac + "000000000")[:9], 10, 64)
		}
		if err == nil {
			return time.Unix(sec, int64(ns)), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 2026-01-02T15:04:05Z, 15:04, 1767366245, now, -10m or +5m", s)
}

var units = map[string]uint64{
	"": 1, "b": 1, "k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9, "t": 1e12, "tb": 1e12,
	"ki": 1 << 10, "kib": 1 << 10, "mi": 1 << 20, "mib": 1 << 20, "gi": 1 << 30, "gib": 1 << 30, "ti": 1 << 40, "tib": 1 << 40,
}

// parseOctets reads a count of octets with an optional unit: 1500, 10MB (10,000,000), 10MiB (10,485,760).
func parseOctets(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if i < 0 {
		i = len(s)
	}
	n, err := strconv.ParseUint(s[:i], 10, 64)
	unit, ok := units[strings.ToLower(strings.TrimSpace(s[i:]))]
	if err != nil || !ok || n != 0 && n*unit/n != unit {
		return 0, fmt.Errorf("%q is not a size such as 1500, 10MB or 1GiB", s)
	}
	return n * unit, nil
}

// short writes a duration for people.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// when writes a time for people; zero is "-".
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}
