package controller

import (
	"testing"

	"opentap/ledger"
	"opentap/want"
)

// Sums grow by what each report adds, also when a crash took something back, and when captures go.
func TestTallyOnlyGrows(t *testing.T) {
	c := New(DefaultConfig(), nil, nil, nil)
	report := func(before, now uint64) {
		b := want.Status{Ledger: ledger.Account{Seen: before, Captured: before}, Records: before}
		n := want.Status{Ledger: ledger.Account{Seen: now, Captured: now, Dropped: [ledger.NumReasons]uint64{ledger.Disk: 1}}, Records: now}
		c.count(want.Flows, &b, &n)
	}
	report(0, 10)
	report(10, 25)
	report(25, 5)
	report(5, 7)
	got := c.Tally()
	if got.Packets.Seen != 27 || got.Packets.Captured != 27 || got.Records[want.Flows] != 27 || got.Packets.Dropped[ledger.Disk] != 4 {
		t.Errorf("%+v", got)
	}
}
