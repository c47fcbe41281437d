package agent

import (
	"testing"
	"time"

	"opentap/sensor/ifcount"
	"opentap/want"
)

func TestRatesAreToldWhenTheyChange(t *testing.T) {
	m := rateMeter{told: make(map[string]want.Rate)}
	now := time.Unix(1000, 0)
	names := map[int]string{1: "lo", 2: "eth0", 3: "eth1"}
	step := func(d time.Duration, all map[int]ifcount.Totals) map[string]want.Rate {
		now = now.Add(d)
		rates := m.step(now, all, names)
		if rates == nil {
			return nil
		}
		out := map[string]want.Rate{}
		for _, r := range rates {
			out[r.Point] = r
		}
		return out
	}
	all := func(lo, eth0 uint64) map[int]ifcount.Totals {
		return map[int]ifcount.Totals{1: {RxPackets: lo, TxPackets: lo}, 2: {RxPackets: eth0, RxOctets: 100 * eth0, Dropped: eth0 / 10}, 3: {}, 9: {RxPackets: lo}}
	}
	if got := step(0, all(5, 1000)); got != nil {
		t.Errorf("rates of one reading: %v", got)
	}
	got := step(2*time.Second, all(5, 1101))
	if len(got) != 1 || got["eth0"] != (want.Rate{Point: "eth0", RxPackets: 50.5, RxOctets: 5050, Dropped: 5}) {
		t.Errorf("got %v", got)
	}
	if got := step(2*time.Second, all(5, 1202)); len(got) != 0 || got == nil {
		t.Errorf("what did not change is told again: %v", got)
	}
	if got := step(time.Second, all(5, 1202)); len(got) != 1 || got["eth0"] != (want.Rate{Point: "eth0"}) {
		t.Errorf("silence is told once: %v", got)
	}
	if got := step(time.Second, all(5, 3)); len(got) != 0 {
		t.Errorf("a counter that began anew: %v", got)
	}
	delete(names, 2)
	names[4] = "eth0" // made anew
	if got := step(time.Second, map[int]ifcount.Totals{1: {RxPackets: 5, TxPackets: 5}, 4: {RxPackets: 1e9}}); len(got) != 0 {
		t.Errorf("a device without a reading before: %v", got)
	}
}
