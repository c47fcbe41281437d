package main

import (
	"bytes"
	"strings"
	"testing"

	"opentap/api/doortest"
	"opentap/report"
)

func TestDoctor(t *testing.T) {
	ctl, srv := newServer(doortest.Users())
	defer srv.Close()
	call := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		code := run(append([]string{"doctor", "--url", srv.URL, "--token", "admin"}, args...), strings.NewReader(""), &out, &errs)
		return code, out.String(), errs.String()
	}
	code, out, errs := call()
	if code != report.ExitOK || !strings.Contains(out, "ok    here   kernel ") || !strings.Contains(out, "\nwarn  there  clock ") || !strings.Contains(out, "→ run chrony") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	if code, out, _ = call("--settings", "-o", "csv"); code != report.ExitOK || out != "key,value,origin\nlisten,127.0.0.1:2020,default\n" {
		t.Errorf("%d\n%s", code, out)
	}
	if code, out, _ = call("--node", "here", "-o", "csv"); code != report.ExitOK || out != "severity,check,text,fix,node\nok,kernel,Linux 6.12,,here\n" {
		t.Errorf("%d\n%s", code, out)
	}
	if code, _, errs = call("--node", "nowhere"); code != report.ExitNotFound || !strings.Contains(errs, "no such node") {
		t.Errorf("%d %s", code, errs)
	}
	ctl.Change(func() { ctl.Sick = true })
	if code, out, errs = call("-o", "json"); code != report.ExitError || !strings.Contains(out, `"severity": "bad"`) || !strings.Contains(errs, "something is bad") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	if code, out, _ = call("-o", "csv"); code != report.ExitError || !strings.Contains(out, "bad,space,the disk is full,make room,there\n") {
		t.Errorf("%d\n%s", code, out)
	}
	if code, _, errs = call("--token", "viewer"); code != report.ExitRefused {
		t.Errorf("a viewer: %d %s", code, errs)
	}
}
