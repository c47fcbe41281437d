package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"opentap/ledger"
	"opentap/want"
)

// Octets writes a count of octets for people, in powers of 1000.
func Octets[T ~int64 | ~uint64 | ~int](n T) string {
	f, i := float64(n), 0
	names := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	for f >= 999.95 && i < len(names)-1 {
		f, i = f/1000, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, names[i])
}

// Bits writes a rate for people. Bits per second.
func Bits(n uint64) string {
	switch {
	case n >= 1e9:
		return strconv.FormatFloat(float64(n)/1e9, 'g', 4, 64) + " Gbit/s"
	case n >= 1e6:
		return strconv.FormatFloat(float64(n)/1e6, 'g', 4, 64) + " Mbit/s"
	}
	return strconv.FormatUint(n, 10) + " bit/s"
}

// Limit writes a bound of time; 0 is none.
func Limit(d want.Duration) string {
	if d == 0 {
		return "no limit"
	}
	return time.Duration(d).String()
}

// Formats lists formats.
func Formats(list []want.Format) string {
	s := make([]string, len(list))
	for i, f := range list {
		s[i] = string(f)
	}
	return strings.Join(s, ", ")
}

// Accounts tells what became of packets in one line; entries of 0 are left out, but never the drops.
func Accounts(l *ledger.Account) string {
	at := ""
	if l.FilterUncounted {
		at = "at least "
	}
	s := fmt.Sprintf("%s%d seen, %d captured (%s)", at, l.Seen, l.Captured, Octets(l.StoredOctets))
	for _, e := range []struct {
		n    uint64
		name string
	}{{l.Filtered, "filtered"}, {l.SampledOut, "sampled out"}, {l.RateLimited, "rate-limited"}} {
		if e.n > 0 {
			s += fmt.Sprintf(", %s%d %s", at, e.n, e.name)
		}
	}
	return s + fmt.Sprintf(", %d dropped%s", l.DroppedTotal(), Reasons(l))
}

// Reasons names why packets were dropped, in brackets; "" = none was.
func Reasons(l *ledger.Account) string {
	var r []string
	for i, n := range l.Dropped {
		if n > 0 {
			r = append(r, fmt.Sprintf("%s %d", strings.ReplaceAll(ledger.Reason(i).String(), "_", " "), n))
		}
	}
	if len(r) == 0 {
		return ""
	}
	return " (" + strings.Join(r, ", ") + ")"
}
