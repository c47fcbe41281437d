package pcap

import (
	"encoding/json"
	"fmt"
	"strings"

	"opentap/ledger"
	"opentap/packet"
)

// optionAccount is the kind of the custom option that holds an account.
const optionAccount = 16

// AccountStats is an account of a live stream as a statistics block, from start to now: the counters that pcapng knows, a
// comment for people, and all of it in an option of our own (docs/format/pcapng.md). note is what else there is to say.
func AccountStats(iface int, start, now packet.Timestamp, a *ledger.Account, note string) *Stats {
	var b strings.Builder
	fmt.Fprintf(&b, "ledger: seen %d = captured %d + filtered %d + sampled out %d + rate-limited %d + dropped %d",
		a.Seen, a.Captured, a.Filtered, a.SampledOut, a.RateLimited, a.DroppedTotal())
	sep := " ("
	for r, n := range a.Dropped {
		if n > 0 {
			fmt.Fprintf(&b, "%s%s %d", sep, ledger.Reason(r), n)
			sep = ", "
		}
	}
	if sep != " (" {
		b.WriteByte(')')
	}
	fmt.Fprintf(&b, "; octets %d, stored %d", a.Octets, a.StoredOctets)
	if a.FilterUncounted {
		b.WriteString("; the kernel did not count what its filter left out: seen and filtered are without it")
	}
	if note != "" {
		b.WriteString("; " + note)
	}
	s := &Stats{
		Interface: iface, Time: now, Start: start, End: now, Received: a.Seen, Dropped: a.DroppedTotal(),
		FilterAccepted: a.Seen - min(a.Seen, a.Filtered), Delivered: a.Captured,
		Has: HasStart | HasEnd | HasReceived | HasDropped | HasFilterAccepted | HasDelivered, Comment: b.String(),
	}
	if j, err := json.Marshal(a); err == nil { // it always can be
		s.Custom = []CustomOption{{PEN: PEN, Code: OptionCustomBinaryDrop, Data: append([]byte{optionAccount, 0}, j...)}}
	}
	return s
}

// Account returns the account that AccountStats put into the block.
func (s *Stats) Account() (a ledger.Account, ok bool) {
	for _, c := range s.Custom {
		if c.PEN == PEN && len(c.Data) > 2 && c.Data[0] == optionAccount && c.Data[1] == 0 {
			return a, json.Unmarshal(c.Data[2:], &a) == nil
		}
	}
	return a, false
}
