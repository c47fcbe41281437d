package main

import (
	"strings"
	"testing"

	"opentap/agent"
	"opentap/ledger"
	"opentap/want"
)

func TestTheDoctorTellsWhatTheGovernorGivesUp(t *testing.T) {
	b := agent.Budgets{CPU: 1.5, Memory: 1 << 30, Disk: 5e6}
	if f := governorFinding(agent.Budgets{}, 0, nil); f.Severity != want.Fine || !strings.Contains(f.Text, "no budgets") {
		t.Errorf("%+v", f)
	}
	if f := governorFinding(b, 0, nil); f.Severity != want.Fine || !strings.Contains(f.Text, "1.50 cores, 1024 MiB of memory, 5.0 MB/s") {
		t.Errorf("%+v", f)
	}
	for _, problems := range [][]string{nil, {"another", "the governor holds this: stage 2"}} {
		if f := governorFinding(b, 2, problems); f.Severity != want.Warn || f.Fix == "" || !strings.Contains(f.Text, "stage 2") {
			t.Errorf("%+v", f)
		}
	}
}

func TestTheDoctorAdvisesAFanout(t *testing.T) {
	lost := func(point string, origin want.Origin, fanout int, n uint64) want.RecorderView {
		v := want.RecorderView{Recorder: want.Recorder{Point: point, Fanout: fanout}, Origin: origin}
		v.Status.Ledger = ledger.Account{Seen: 100, Filtered: 40, Captured: 60 - n, Dropped: [ledger.NumReasons]uint64{ledger.Ring: n}}
		return v
	}
	dedicated := map[string]int{"mirror0": 0}
	if f := readerFinding([]want.RecorderView{lost("eth0", want.FromAPI, 0, 0)}, dedicated, 4); f.Severity != want.Fine || f.Fix != "" {
		t.Errorf("nothing lost: %+v", f)
	}
	for _, c := range []struct {
		name string
		view want.RecorderView
		cpus int
		fix  string
	}{
		{"of the API", lost("eth0", want.FromAPI, 0, 7), 4, "opentap recorders set eth0 --fanout 2"},
		{"of the configuration, with one already", lost("eth0", want.FromConfiguration, 2, 7), 8, "fanout: 4 for the recorder of eth0"},
		{"more readers than processors", lost("eth0", want.FromAPI, 4, 7), 4, "ring.blocks"},
		{"no processor for another", lost("eth0", want.FromAPI, 0, 7), 2, "ring.blocks"},
		{"a dedicated port", lost("mirror0", want.FromAPI, 0, 7), 4, "points.devices"},
	} {
		f := readerFinding([]want.RecorderView{c.view}, dedicated, c.cpus)
		if f.Severity != want.Warn || !strings.Contains(f.Text, "7 of 60") || !strings.Contains(f.Fix, c.fix) {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
}
