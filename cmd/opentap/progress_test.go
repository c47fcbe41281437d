package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"opentap/client"
	"opentap/want"
)

func TestProgressOnATerminal(t *testing.T) {
	var b bytes.Buffer
	now := time.Unix(1800000000, 0)
	p := &progress{w: &b, tty: true, last: now}
	v := want.View{}
	v.Kind, v.Status.State, v.Query.To = want.Packets, want.Running, now.Add(time.Minute)
	v.Status.Ledger.Captured, v.Status.Reason = 10, "evil\x1b[2J"
	p.capture(&v, now.Add(100*time.Millisecond)) // too soon
	if b.Len() != 0 {
		t.Errorf("%q", b.String())
	}
	p.capture(&v, now.Add(time.Second))
	v.Status.Ledger.Captured = 110
	p.capture(&v, now.Add(2*time.Second))
	p.done()
	p.done()
	if got, want := b.String(), "\r\x1b[Krunning  10 packets  0 B  dropped 0  ends in 59s  evil\\u001b[2J\r\x1b[Krunning  110 packets  0 B  100/s  dropped 0  ends in 58s  evil\\u001b[2J\n"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestProgressElsewhere(t *testing.T) {
	var b bytes.Buffer
	now := time.Unix(1800000000, 0)
	p := &progress{w: &b, last: now}
	for i := range 25 {
		p.download(client.Part{Offset: int64(i) * 1e6, Size: 50e6}, now.Add(time.Duration(i)*time.Second))
	}
	p.done()
	if got, want := b.String(), "retrieving  10.0 MB of 50.0 MB  20%  1.0 MB/s  40s left\nretrieving  20.0 MB of 50.0 MB  40%  1.0 MB/s  30s left\n"; got != want {
		t.Errorf("%q", got)
	}
	b.Reset()
	(&progress{w: &b, off: true}).download(client.Part{}, now.Add(time.Hour))
	if b.Len() != 0 {
		t.Error("quiet is not quiet")
	}
	v := want.View{}
	v.Query.From = now.Add(time.Hour)
	v.Status.State = want.Scheduled
	p.last = now.Add(-time.Hour)
	p.capture(&v, now)
	if !strings.Contains(b.String(), "scheduled  begins in 1h0m0s") {
		t.Error(b.String())
	}
}
