package query

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"opentap/capture/segment"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// TestConcurrentRanges fetches ranges of one plan at the same time.
func TestConcurrentRanges(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	record(t, dir, 0, 1000, 3)
	for _, w := range []Window{{}, {Match: func(b []byte, _ uint32) bool { return len(b) > 300 }}} {
		p, err := New([]Source{{Interface: iface(0), Dir: dir}}, w, PcapNG, Meta{})
		if err != nil {
			t.Fatal(err)
		}
		whole := output(t, p)
		again, err := New([]Source{{Interface: iface(0), Dir: dir}}, w, PcapNG, Meta{})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		const n = 8
		for i := range n {
			wg.Go(func() {
				from, to := len(whole)*i/n, len(whole)*(i+1)/n
				var b bytes.Buffer
				if err := again.WriteTo(context.Background(), &b, int64(from), int64(to-from)); err != nil {
					t.Error(err)
				}
				if !bytes.Equal(b.Bytes(), whole[from:to]) {
					t.Errorf("range %d to %d differs", from, to)
				}
			})
		}
		wg.Wait()
		for _, bad := range [][2]int64{{-1, 1}, {0, int64(len(whole)) + 1}, {int64(len(whole)) + 1, 0}, {1, 1<<63 - 1}} {
			if err := again.WriteTo(context.Background(), io.Discard, bad[0], bad[1]); err == nil {
				t.Errorf("range %v was written", bad)
			}
		}
	}
}

// TestExpired deletes a segment after the size was told: the output keeps its size and says what is missing.
func TestExpired(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	all := record(t, dir, 0, 2500, 4)
	p, err := New([]Source{{Interface: iface(0), Dir: dir}}, Window{}, PcapNG, Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Size(context.Background()); err != nil {
		t.Fatal(err)
	}
	r, err := segment.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	gone, err := r.DropOldest()
	if err != nil {
		t.Fatal(err)
	}
	out := output(t, p)
	check(t, out, PcapNG, all[gone.Packets:])
	if res := p.Result(); res.CorruptPackets != gone.Packets {
		t.Fatalf("result %+v, %d packets are gone", res, gone.Packets)
	}
	tools(t, out, 2500-int(gone.Packets))
}

func TestCancel(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	record(t, dir, 0, 500, 5)
	record(t, dir+"2", 1, 500, 5)
	for _, sources := range [][]Source{{{Interface: iface(0), Dir: dir}}, {{Interface: iface(0), Dir: dir}, {Interface: iface(1), Dir: dir + "2"}}} {
		p, err := New(sources, Window{}, PcapNG, Meta{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := p.WriteTo(ctx, io.Discard, 0, -1); !errors.Is(err, context.Canceled) {
			t.Fatalf("canceled: %v", err)
		}
		output(t, p) // and it is as good as new
		broken := errors.New("the client went away")
		if err := p.WriteTo(context.Background(), writerFunc(func([]byte) (int, error) { return 0, broken }), 0, -1); !errors.Is(err, broken) {
			t.Fatalf("broken writer: %v", err)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestNewRefuses(t *testing.T) {
	raw := pcap.Interface{Link: packet.LinkRaw}
	dir := t.TempDir()
	for name, bad := range map[string]func() (*Plan, error){
		"no source": func() (*Plan, error) { return New(nil, Window{}, PcapNG, Meta{}) },
		"no format": func() (*Plan, error) { return New([]Source{{Dir: dir}}, Window{}, 0, Meta{}) },
		"two link types": func() (*Plan, error) {
			return New([]Source{{Dir: dir}, {Dir: dir, Interface: raw}}, Window{}, Pcap, Meta{})
		},
		"no directory": func() (*Plan, error) { return New([]Source{{Dir: dir + "/none"}}, Window{}, Pcap, Meta{}) },
	} {
		if _, err := bad(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// An empty directory is a recording without packets.
	p, err := New([]Source{{Dir: dir, Interface: iface(0)}}, Window{}, PcapNG, Meta{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, output(t, p), PcapNG, nil)
}

// TestLive plans up to a position while the recording goes on: the output stays what it was.
func TestLive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	cfg := segment.DefaultConfig(dir)
	cfg.ChunkBytes, cfg.SegmentBytes, cfg.FlushEvery, cfg.NoSync, cfg.Interface = 4*segment.Page, 256<<10, 0, true, iface(0)
	w, err := segment.Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var all []sample
	add := func(n int) {
		for range n {
			s := sample{ts: epoch + packet.Timestamp(len(all)), orig: 500, data: bytes.Repeat([]byte{byte(len(all))}, 500)}
			for !w.Append(s.ts, s.orig, s.data, 0) {
				w.Flush()
			}
			all = append(all, s)
		}
	}
	add(700)
	w.Flush()
	p, err := New([]Source{{Interface: iface(0), Dir: dir, Upto: w.Durable()}}, Window{}, PcapNG, Meta{})
	if err != nil {
		t.Fatal(err)
	}
	first := output(t, p)
	check(t, first, PcapNG, all)
	before := len(all)
	pos := w.Durable()
	add(1500)
	if err := w.Close(ledger.Account{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(output(t, p), first) {
		t.Fatal("the same plan gave other octets")
	}
	again, err := New([]Source{{Interface: iface(0), Dir: dir, Upto: pos}}, Window{}, PcapNG, Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(output(t, again), first) {
		t.Fatalf("the same position gave other octets than the first %d packets", before)
	}
	if _, err := os.Stat(filepath.Join(dir, "00000001.chunks")); err != nil {
		t.Fatal(err)
	}
}
