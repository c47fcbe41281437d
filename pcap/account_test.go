package pcap

import (
	"bytes"
	"strings"
	"testing"

	"opentap/ledger"
	"opentap/packet"
)

func TestAccountStatsComeBack(t *testing.T) {
	a := ledger.Account{Seen: 10, Captured: 5, Filtered: 2, Octets: 500, StoredOctets: 400, FilterUncounted: true}
	a.Dropped[ledger.SlowReader], a.Dropped[ledger.Ring] = 2, 1
	b := AppendSectionHeader(nil, Section{})
	b = AppendInterface(b, Interface{Name: "eth0", Link: packet.LinkEthernet})
	b = AppendStats(b, AccountStats(0, 1, 2, &a, "eth0 is down"))
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var p Packet
	for r.Next(&p) == nil {
	}
	if len(r.Stats()) != 1 {
		t.Fatalf("%d statistics", len(r.Stats()))
	}
	s := r.Stats()[0]
	if got, ok := s.Account(); !ok || got != a {
		t.Errorf("%+v", got)
	}
	if s.Received != 10 || s.Dropped != 3 || s.FilterAccepted != 8 || s.Delivered != 5 || s.Start != 1 || s.End != 2 {
		t.Errorf("%+v", s)
	}
	for _, w := range []string{"seen 10 =", "(kernel_ring 1, slow_reader 2)", "did not count", "eth0 is down"} {
		if !strings.Contains(s.Comment, w) {
			t.Errorf("%q is not in %q", w, s.Comment)
		}
	}
	if _, ok := (&Stats{Custom: []CustomOption{{PEN: PEN, Data: []byte{1, 0, 3}}}}).Account(); ok {
		t.Error("another option was taken for an account")
	}
}
