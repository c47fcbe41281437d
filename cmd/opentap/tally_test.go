package main

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/iotest"

	"opentap/api/doortest"
	"opentap/ledger"
	"opentap/point"
)

func TestTallyCopiesWholeBlocks(t *testing.T) {
	stream := doortest.LivePackets(10, 3)
	for name, r := range map[string]io.Reader{"at once": bytes.NewReader(stream), "by octets": iotest.OneByteReader(bytes.NewReader(stream))} {
		var out bytes.Buffer
		var k tally
		if err := k.copy(&out, r, func() {}); err != nil || !bytes.Equal(out.Bytes(), stream) {
			t.Errorf("%s: %v, %d octets", name, err, out.Len())
		}
		if a := k.account(); k.packets != 10 || k.octets != 600 || a.Captured != 10 || a.Dropped[ledger.SlowReader] != 3 {
			t.Errorf("%s: %d packets, %+v", name, k.packets, a)
		}
	}
	var out bytes.Buffer
	var k tally
	if err := k.copy(&out, bytes.NewReader(stream[:len(stream)-5]), func() {}); !errors.Is(err, io.ErrUnexpectedEOF) || k.packets != 10 {
		t.Errorf("cut off: %v", err)
	}
	if n := out.Len(); !bytes.HasPrefix(stream, out.Bytes()) || n%4 != 0 {
		t.Errorf("half a block was written: %d", n)
	}
	if err := new(tally).copy(failing{syscall.EPIPE}, bytes.NewReader(stream), nil); !errors.Is(err, errReader) {
		t.Errorf("closed pipe: %v", err)
	}
	if err := new(tally).copy(failing{syscall.ENOSPC}, bytes.NewReader(stream), nil); err == nil || errors.Is(err, errReader) {
		t.Errorf("full disk: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestSplitArgs(t *testing.T) {
	list := []point.Point{{Name: "eth0", Node: "a", Aliases: []string{"uplink"}}, {Name: "eth0", Node: "b"}, {Name: "tcp", Node: "b"}}
	for _, c := range []struct {
		args   []string
		points int
		filter string
	}{
		{[]string{"a/eth0"}, 1, ""},
		{[]string{"eth0", "b/eth0", "port", "53"}, 2, "port 53"}, // the ambiguous one is the server's to tell
		{[]string{"uplink", "tcp port 80"}, 1, "tcp port 80"},
		{[]string{"port 53"}, 0, "port 53"},
		{[]string{"eth9", "port", "53"}, 1, "port 53"}, // misspelt
		{[]string{"a/eth0", "udp", "and", "host", "eth0"}, 1, "udp and host eth0"},
	} {
		points, filter := splitArgs(list, c.args)
		if len(points) != c.points || filter != c.filter {
			t.Errorf("%q: %q and %q", c.args, points, filter)
		}
	}
}

func TestArguments(t *testing.T) {
	for _, argv0 := range []string{"/x/opentap-extcap", "opentap-extcap.exe", "Opentap-Extcap"} {
		if a := arguments([]string{argv0, "--extcap-interfaces"}); len(a) != 2 || a[0] != "extcap" {
			t.Errorf("%s: %q", argv0, a)
		}
	}
	if a := arguments([]string{"opentap", "points"}); len(a) != 1 || a[0] != "points" {
		t.Errorf("%q", a)
	}
	if a := arguments(nil); len(a) != 0 {
		t.Errorf("%q", a)
	}
}

func FuzzTally(f *testing.F) {
	f.Add(doortest.LivePackets(3, 1))
	f.Add([]byte("<html>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		var k tally
		_ = k.copy(&out, bytes.NewReader(b), func() {})
		if !bytes.HasPrefix(b, out.Bytes()) {
			t.Error("it wrote what was not there")
		}
		_, _ = (&printer{w: io.Discard}).Write(b)
	})
}
