package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	const in = `{"Action":"run","Package":"a","Test":"TestX"}
go: some complaint
{"Action":"output","Package":"a","Test":"TestX","Output":"    x_test.go:7: needs CAP_NET_RAW: x\n"}
{"Action":"skip","Package":"a","Test":"TestX"}
{"Action":"output","Package":"a","Test":"TestZ","Output":"    x_test.go:9: tshark is not installed\n"}
{"Action":"output","Package":"a","Test":"TestZ","Output":"--- SKIP: TestZ (0.00s)\n"}
{"Action":"skip","Package":"a","Test":"TestZ"}
{"Action":"pass","Package":"a","Test":"TestY"}
{"Action":"output","Package":"a","Output":"PASS\n"}
{"Action":"pass","Package":"a","Elapsed":1.5}
{"Action":"output","Package":"b","Test":"TestF","Output":"    b_test.go:3: it broke\n"}
{"Action":"fail","Package":"b","Test":"TestF"}
{"Action":"fail","Package":"b","Elapsed":0.1}
{"Action":"output","Package":"c","Test":"TestP","Output":"panic: dead\n"}
{"Action":"fail","Package":"c"}
{"ImportPath":"d","Action":"build-output","Output":"d.go:1: syntax error\n"}
{"ImportPath":"d","Action":"build-fail"}
{"Action":"fail","Package":"d"}
{"Action":"pass","Package":"a","Test":"TestX"}
`
	var b strings.Builder
	s := newSummary(&b)
	if err := s.read(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	if n := s.print(); n != 3 {
		t.Errorf("%d failed, want 3", n)
	}
	out := b.String()
	for _, want := range []string{
		"go: some complaint", "ok    a 1.5s", "it broke", "panic: dead", "d.go:1: syntax error",
		"1 × tshark is not installed\n      a.TestZ", "b TestF", "c (outside any test)", "d (outside any test)",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the summary lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "CAP_NET_RAW") {
		t.Error("a test that was run again and passed is told as skipped")
	}
	if !strings.HasSuffix(out, "\n2 passed, 3 failed, 1 skipped\n") {
		t.Errorf("the last line is wrong:\n%s", out)
	}
}
