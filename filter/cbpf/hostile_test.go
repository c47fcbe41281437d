package cbpf

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"opentap/filter"
	"opentap/packet"
)

// TestHostileFilters: the longest texts compile or are refused in bounded time.
func TestHostileFilters(t *testing.T) {
	texts := map[string]func(i int) string{
		"octets":     func(i int) string { return fmt.Sprintf("ip[%d]=%d", i, i&255) },
		"tcp octets": func(i int) string { return fmt.Sprintf("tcp[%d]>%d", i, i&255) },
		"ports":      func(i int) string { return fmt.Sprintf("port %d", i) },
		"hosts":      func(i int) string { return fmt.Sprintf("host 10.1.%d.%d", i>>8, i&255) },
		"hosts6":     func(i int) string { return fmt.Sprintf("host 2001:db8::%x", i) },
		"mixed":      func(i int) string { return fmt.Sprintf("(port %d and not net 10.%d.%d)", i, i>>8, i&255) },
		"computed":   func(i int) string { return fmt.Sprintf("ip[ip[%d]]=%d", i, i) },
	}
	for name, term := range texts {
		for _, op := range []string{" or ", " and "} {
			var b strings.Builder
			for i := 0; b.Len() < filter.MaxText-40; i++ {
				if i > 0 {
					b.WriteString(op)
				}
				b.WriteString(term(i))
			}
			e, err := filter.Parse(b.String())
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			p, err := Compile(e, Options{Link: packet.LinkEthernet, Target: Kernel})
			d := time.Since(start)
			t.Logf("%s%s: %d instructions in %v, %v", name, op, len(p), d, err)
			if d > 5*time.Minute { // under a second on an idle machine; the race detector on a busy one is slow
				t.Errorf("%s%s: took %v", name, op, d)
			}
		}
	}
}
