package controller

import (
	"log/slog"
	"testing"
	"time"

	"opentap/store/mem"
)

// A store may take its time to answer for the first time; what looks at taps meanwhile finds none.
func TestNoTapsBeforeTheStoreIsKnown(t *testing.T) {
	c := New(DefaultConfig(), mem.New(mem.Config{}), nil, slog.New(slog.DiscardHandler))
	if over := c.overTaps(time.Now()); len(over) != 0 {
		t.Errorf("taps are over that nobody knows: %v", over)
	}
}
