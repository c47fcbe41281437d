// Package await lets tests wait for a condition instead of for a time.
//
// Runs in: tools
package await

import (
	"testing"
	"time"
)

// Patience is how long a condition may take to come true: long, for a machine that does many other things; a test that passes does
// not wait for it.
const Patience = time.Minute

// Until returns when ok does so for the first time, and ends the test, naming what it waited for, when that takes longer than Patience.
func Until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	Within(tb, Patience, what, ok)
}

// Within is Until with a patience of its own.
func Within(tb testing.TB, patience time.Duration, what string, ok func() bool) {
	tb.Helper()
	const most = 20 * time.Millisecond
	pause := time.Millisecond
	for deadline := time.Now().Add(patience); !ok(); pause = min(2*pause, most) {
		if time.Now().After(deadline) {
			tb.Fatalf("after %v still not: %s", patience, what)
		}
		time.Sleep(pause)
	}
}
