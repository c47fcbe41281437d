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
	got := o.picture(100, 40, look{}, time.Unix(0, 0))
	for _, want := range []string{"10k bit/s", "virgo: connected", "packets/s are dropped", "eth0", "going"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "gone ") || strings.Contains(got, "\x1b") || strings.Index(got, "going") > strings.Index(got, "done ") {
		t.Errorf("%s", got)
	}
	for w := 1; w < 130; w++ {
		p := o.picture(w, 9, look{}, time.Now())
		for _, line := range strings.Split(p, "\n") {
			if utf8.RuneCountInString(line) > w {
				t.Errorf("%d wide: %q", w, line)
			}
		}
		if w >= leastName+11 && !strings.Contains(p, "10k") { // what comes in is the last that goes
			t.Errorf("%d wide, and the rate is not there:\n%s", w, p)
		}
	}
	if p := o.picture(60, 40, look{screen: true}, time.Now()); strings.Contains(p, bold) || strings.Contains(p, red) || !strings.Contains(p, "\x1b[K") {
		t.Errorf("without colours: %q", p)
	}
	if p := o.picture(60, 40, look{screen: true, colour: true}, time.Now()); !strings.Contains(p, bold) || !strings.Contains(p, red) {
		t.Errorf("with colours: %q", p)
	}
	o.lost = "the connection is lost"
	if p := o.picture(100, 40, look{}, time.Now()); strings.Contains(p, "10k") || !strings.Contains(p, "eth0") || !strings.Contains(p, o.lost) {
		t.Errorf("rates that nobody told:\n%s", p)
	}
	o.lost = ""
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
