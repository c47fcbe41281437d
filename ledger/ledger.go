// Package ledger keeps the packet accounts of a capture or a tap: every packet seen is in exactly one entry.
//
// Runs in: agent | controller | tools
package ledger

import (
	"encoding/json"
	"fmt"
)

// Reason says why a packet that was wanted was lost.
type Reason uint8

// Reasons. New ones are added before NumReasons; their names are part of the API, their numbers of the segment format.
const (
	Ring       Reason = iota // the kernel ring was full: the reader was late
	Disk                     // the disk was late or refused the write
	Memory                   // a memory budget was used up; nothing counts under it now
	Limit                    // the capture's own packet or byte limit was reached within the window; it ends there now, and nothing counts under it
	Corrupt                  // stored, and lost since: a chunk that no longer reads back (crash, bad disk)
	Other                    // for a reason that the reader of an account does not know: it comes from a newer version
	SlowReader               // the reader of a live stream was late: its buffer was full
	NumReasons = 7
)

var reasonNames = [NumReasons]string{"kernel_ring", "disk", "memory", "limit", "corrupt", "other", "slow_reader"}

// String returns the reason's name as the API spells it.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

// Account is the accounts of one capture, cumulative since its start. The identity is
//
//	Seen = Captured + Filtered + SampledOut + RateLimited + sum(Dropped)
//
// All fields but octets count packets. The zero Account is valid and empty. An Account is a plain value: copy it freely.
type Account struct {
	Seen        uint64
	Captured    uint64
	Filtered    uint64
	SampledOut  uint64
	RateLimited uint64
	Dropped     [NumReasons]uint64

	Octets       uint64 // octets of the captured packets as they were on the wire
	StoredOctets uint64 // octets of the captured packets that were kept (after the snap length)

	// FilterUncounted is set when the kernel filtered packets without counting them (no eBPF): Filtered and Seen are
	// then lower bounds that leave those packets out. Everything shown to a user must say so.
	FilterUncounted bool
}

// DroppedTotal is the sum over all reasons.
func (a *Account) DroppedTotal() uint64 {
	var n uint64
	for _, d := range a.Dropped {
		n += d
	}
	return n
}

// Add adds b to a, entry by entry.
func (a *Account) Add(b *Account) {
	a.Seen += b.Seen
	a.Captured += b.Captured
	a.Filtered += b.Filtered
	a.SampledOut += b.SampledOut
	a.RateLimited += b.RateLimited
	for i := range a.Dropped {
		a.Dropped[i] += b.Dropped[i]
	}
	a.Octets += b.Octets
	a.StoredOctets += b.StoredOctets
	a.FilterUncounted = a.FilterUncounted || b.FilterUncounted
}

// Since returns what a has more than b, which is the same account at an earlier time; an entry that has less counts as 0.
func (a *Account) Since(b *Account) Account {
	less := func(x, y uint64) uint64 { return x - min(x, y) }
	d := Account{
		Seen: less(a.Seen, b.Seen), Captured: less(a.Captured, b.Captured), Filtered: less(a.Filtered, b.Filtered),
		SampledOut: less(a.SampledOut, b.SampledOut), RateLimited: less(a.RateLimited, b.RateLimited),
		Octets: less(a.Octets, b.Octets), StoredOctets: less(a.StoredOctets, b.StoredOctets), FilterUncounted: a.FilterUncounted,
	}
	for i := range d.Dropped {
		d.Dropped[i] = less(a.Dropped[i], b.Dropped[i])
	}
	return d
}

// Balance makes Seen the sum of all other entries.
func (a *Account) Balance() {
	a.Seen = a.Captured + a.Filtered + a.SampledOut + a.RateLimited + a.DroppedTotal()
}

// Check returns an error that shows both sides when the identity does not hold.
func (a *Account) Check() error {
	sum := a.Captured + a.Filtered + a.SampledOut + a.RateLimited + a.DroppedTotal()
	if sum != a.Seen {
		return fmt.Errorf("ledger does not add up: seen %d, accounted for %d (captured %d, filtered %d, sampled out %d, rate-limited %d, dropped %d)",
			a.Seen, sum, a.Captured, a.Filtered, a.SampledOut, a.RateLimited, a.DroppedTotal())
	}
	return nil
}

type accountJSON struct {
	Seen            uint64            `json:"seen"`
	Captured        uint64            `json:"captured"`
	Filtered        uint64            `json:"filtered"`
	SampledOut      uint64            `json:"sampled_out"`
	RateLimited     uint64            `json:"rate_limited"`
	Dropped         map[string]uint64 `json:"dropped"`
	DroppedTotal    uint64            `json:"dropped_total"`
	Octets          uint64            `json:"octets"`
	StoredOctets    uint64            `json:"stored_octets"`
	FilterUncounted bool              `json:"filter_uncounted,omitempty"`
}

// MarshalJSON writes the account with every drop reason by name, zeros included.
func (a Account) MarshalJSON() ([]byte, error) {
	j := accountJSON{
		a.Seen, a.Captured, a.Filtered, a.SampledOut, a.RateLimited, make(map[string]uint64, NumReasons),
		a.DroppedTotal(), a.Octets, a.StoredOctets, a.FilterUncounted,
	}
	for r, n := range a.Dropped {
		j.Dropped[Reason(r).String()] = n
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote. Packets dropped for a reason it does not know are under Other: no count is lost.
func (a *Account) UnmarshalJSON(b []byte) error {
	var j accountJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*a = Account{
		Seen: j.Seen, Captured: j.Captured, Filtered: j.Filtered, SampledOut: j.SampledOut, RateLimited: j.RateLimited,
		Octets: j.Octets, StoredOctets: j.StoredOctets, FilterUncounted: j.FilterUncounted,
	}
next:
	for name, n := range j.Dropped {
		for r, known := range reasonNames {
			if name == known {
				a.Dropped[r] += n
				continue next
			}
		}
		a.Dropped[Other] += n
	}
	return nil
}
