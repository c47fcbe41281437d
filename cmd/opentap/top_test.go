package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"opentap/want"
)

func TestTopPicture(t *testing.T) {
	var o overview
	for _, e := range []want.Event{
		{Name: want.EventBegin, Data: []byte(`{"name":"lab","version":"1.2.3"}`)},
		{Name: want.EventNodes, Data: []byte(`{"nodes":[{"name":"virgo","connected":true,"disk_free":5000000000}]}`)},
		{Name: want.EventPoints, Data: []byte(`{"points":[{"name":"eth0","node":"virgo","kind":"netdev","present":true},{"name":"ev\u001b[2Jil","node":"virgo","kind":"netdev","present":true},{"name":"t","node":"virgo","kind":"sensor","present":true}]}`)},
		{Name: want.EventRates, Data: []byte(`{"rates":[{"node":"virgo","point":"eth0","rx_octets":1250,"rx_packets":10,"dropped":3}]}`)},
		{Name: want.EventCaptures, Data: []byte(`{"captures":[{"uid":"a","id":"done","kind":"pcap","status":{"state":"done","ledger":{}}},{"uid":"b","id":"going","kind":"pcap","status":{"state":"running","ledger":{"captured":7}}},{"uid":"c","id":"gone","kind":"pcap","status":{}}],"gone":["c"]}`)},
		{Name: "of a later version", Data: []byte(`7`)},
	} {
		if err := o.take(e); err != nil {
			t.Fatal(err)
		}
	}
	got := o.picture(100, 40, false, time.Unix(0, 0))
	for _, want := range []string{"10k bit/s", "virgo: connected", "packets/s are dropped", "eth0", "going"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "gone ") || strings.Contains(got, "\x1b") || strings.Index(got, "going") > strings.Index(got, "done ") {
		t.Errorf("%s", got)
	}
	for w := 20; w < 120; w += 7 {
		for _, line := range strings.Split(o.picture(w, 9, false, time.Now()), "\n") {
			if utf8.RuneCountInString(line) > w {
				t.Errorf("%d wide: %q", w, line)
			}
		}
	}
	o.sort = 3
	if l := o.busiest(); len(l) != 2 || l[0].name != "eth0" || strings.Contains(l[1].name, "\x1b") {
		t.Errorf("%+v", l)
	}
	for v, want := range map[float64]string{0: "0", 7: "7", 12.34: "12.3", 999.4: "999", 999.6: "1.0k", 1234567: "1.2M"} {
		if got := si(v); got != want {
			t.Errorf("si(%v) = %s, want %s", v, got, want)
		}
	}
}
