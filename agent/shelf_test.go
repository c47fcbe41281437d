package agent

import (
	"fmt"
	"testing"

	"opentap/want"
)

func TestShelf(t *testing.T) {
	var s shelf
	gaps := []want.Gap{{Reason: "away"}}
	s.put(&shelved{uid: "a", etag: "a-pcapng-1", format: want.PcapNG})
	s.put(&shelved{uid: "a", etag: "a-pcap-1", format: want.Pcap})
	s.put(&shelved{uid: "b", etag: "b-pcapng-g1", format: want.PcapNG, gaps: gaps})
	for _, c := range []struct {
		uid, etag string
		format    want.Format
		gaps      []want.Gap
		found     string
	}{
		{"a", "", want.PcapNG, nil, "a-pcapng-1"},
		{"a", "a-pcapng-1", want.PcapNG, nil, "a-pcapng-1"},
		{"a", "a-pcapng-0", want.PcapNG, nil, ""},
		{"a", "", want.Pcap, []want.Gap{}, "a-pcap-1"},
		{"a", "", want.PcapNG, gaps, ""}, // its comment would not tell them
		{"b", "", want.PcapNG, []want.Gap{{Reason: "away"}}, "b-pcapng-g1"},
		{"b", "", want.PcapNG, nil, ""},
		{"c", "", want.PcapNG, nil, ""},
	} {
		x := s.find(c.uid, c.etag, c.format, c.gaps)
		if (x == nil) != (c.found == "") || x != nil && x.etag != c.found {
			t.Errorf("%+v: %+v", c, x)
		}
	}
	s.find("a", "", want.PcapNG, nil)
	for i := range shelfMax - 1 {
		s.put(&shelved{uid: fmt.Sprint(i), format: want.PcapNG})
	}
	if s.find("b", "", want.PcapNG, gaps) != nil || s.find("a", "", want.PcapNG, nil) == nil || len(s.plans) != shelfMax {
		t.Errorf("%d plans; the one that was used last is not the last to go", len(s.plans))
	}
	s.forget("a")
	if s.find("a", "", want.PcapNG, nil) != nil || len(s.plans) != shelfMax-1 {
		t.Error("a capture that is gone keeps its plan")
	}
}
