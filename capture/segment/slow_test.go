package segment

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// TestSlowDisk has a disk that does not move: Append must refuse, not wait, and all that it took must be written later.
func TestSlowDisk(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Buffers = 4
	w, err := prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.sink.begin(); err != nil {
		t.Fatal(err)
	}
	var kept []sample
	refused := uint64(0)
	for _, s := range samples(rand.New(rand.NewPCG(1, 9)), 1000) {
		if w.Append(s.ts, s.orig, s.data, s.dir) {
			kept = append(kept, s)
		} else {
			refused++
		}
	}
	if s := w.Stats(); refused < 500 || s.Refused != refused || s.Packets != uint64(len(kept)) || s.FreeBuffers != 0 {
		t.Fatalf("%d refused, stats %+v", refused, s)
	}
	go w.run() // the disk moves again
	if err := w.Close(ledger.Account{}); err != nil {
		t.Fatal(err)
	}
	r, err := Open(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sameSamples(t, readAll(t, r), kept)
}

// TestRoomIsKept appends as much as there is said to be room for, to a disk that does not move: nothing may be refused.
func TestRoomIsKept(t *testing.T) {
	for _, chunk := range []int{MinChunkBytes, 64 << 10, 1 << 20} {
		cfg := testConfig(t.TempDir())
		cfg.Buffers, cfg.ChunkBytes = 4, chunk
		cfg.SegmentBytes = 4 << 20
		w, err := prepare(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.sink.begin(); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(3, 9))
		data := make([]byte, 9000)
		most := min(len(data), chunk/4)
		n := 0
		for used, room := 0, w.Room(); ; {
			d := data[:rng.IntN(most)]
			size := pcap.PacketSize(len(d), pcap.DirectionIn)
			if used+size > room {
				if used, room = 0, w.Room(); room < size {
					break
				}
			}
			if !w.Append(1, uint32(len(d)), d, pcap.DirectionIn) {
				t.Fatalf("chunk %d: packet %d refused with room for %d, %d of them used", chunk, n, room, used)
			}
			used += size
			n++
		}
		if n*most/2 < chunk {
			t.Errorf("chunk %d: no more room after %d packets: the test proves little", chunk, n)
		}
		go w.run()
		if err := w.Close(ledger.Account{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStallGivesBack: what a stall of the disk took of memory is given back, and the buffers hold packets afterwards.
func TestStallGivesBack(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Buffers, cfg.ChunkBytes = 16, 64<<10
	w, err := prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.sink.begin(); err != nil {
		t.Fatal(err)
	}
	var kept []sample
	fill := func(n int) {
		for _, s := range samples(rand.New(rand.NewPCG(1, uint64(n))), n) {
			if w.Append(s.ts, s.orig, s.data, s.dir) {
				kept = append(kept, s)
			}
		}
	}
	fill(2000) // all buffers, while the disk stands still
	if w.least != 0 || len(w.free) != 0 {
		t.Fatalf("%d buffers free, %d at least", len(w.free), w.least)
	}
	go w.run()
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.relax()
	dirty := 0
	for _, c := range w.free[:len(w.free)-ready] {
		for _, o := range c.b[:cap(c.b)] {
			if o != 0 {
				dirty++
				break
			}
		}
	}
	w.mu.Unlock()
	if dirty > 0 && runtime.GOOS == "linux" {
		t.Errorf("%d buffers keep their memory", dirty)
	}
	fill(1000)
	if err := w.Close(ledger.Account{}); err != nil {
		t.Fatal(err)
	}
	r, err := Open(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sameSamples(t, readAll(t, r), kept)
}

// TestSyncStalls has a disk that takes what is written and is never done with syncing: segments are sealed and begun all the
// same, and readable, and Close waits for it.
func TestSyncStalls(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.NoSync, cfg.SegmentBytes = false, 512<<10
	w, err := prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.sink.begin(); err != nil {
		t.Fatal(err)
	}
	moves := make(chan struct{})
	var synced atomic.Int64
	w.sink.dataSync = func(f *os.File) error {
		<-moves
		synced.Add(1)
		return dataSync(f)
	}
	go w.run()
	all := samples(rand.New(rand.NewPCG(5, 9)), 2500)
	appendAll(t, w, all)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if s := w.Stats(); s.Segments < 3 || synced.Load() != 0 {
		t.Fatalf("%d segments, %d syncs done", s.Segments, synced.Load())
	}
	r, err := OpenUpto(cfg.Dir, w.Durable())
	if err != nil {
		t.Fatal(err)
	}
	sameSamples(t, readAll(t, r), all)
	for _, in := range r.Segments()[:len(r.Segments())-1] {
		if !in.Sealed {
			t.Errorf("segment %08d is not sealed", in.Number)
		}
	}
	r.Close()
	closed := make(chan error)
	go func() { closed <- w.Close(ledger.Account{}) }()
	select {
	case err := <-closed:
		t.Fatalf("closed without a sync: %v", err)
	case moves <- struct{}{}: // the first one begins
	}
	close(moves)
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	if n := synced.Load(); n < 5 {
		t.Errorf("%d syncs", n)
	}
	if left, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.new")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestSyncFails: a disk that cannot sync ends the recording, though nobody waited for it.
func TestSyncFails(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.NoSync, cfg.SegmentBytes = false, 200<<10
	w, err := prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.sink.begin(); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("input/output error")
	w.sink.dataSync = func(*os.File) error { return broken }
	go w.run()
	for i, s := range samples(rand.New(rand.NewPCG(5, 9)), 20000) {
		if !w.Append(s.ts, s.orig, s.data, s.dir) && w.Err() != nil {
			break
		}
		if i%100 == 0 {
			w.Flush()
		}
	}
	if err := w.Err(); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if err := w.Close(ledger.Account{}); !errors.Is(err, broken) {
		t.Errorf("close: %v", err)
	}
	if _, err := Recover(cfg.Dir); err != nil {
		t.Error(err)
	}
}

// TestReadBeside reads while another goroutine writes: every position that Durable told is readable, with all before it.
func TestReadBeside(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SegmentBytes = 300 << 10
	w, err := Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	all := samples(rand.New(rand.NewPCG(2, 9)), 6000)
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		appendAll(t, w, all)
		w.Flush()
	})
	var last Position
	read := 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		pos := w.Durable()
		if pos.Before(last) {
			t.Fatalf("position went back from %+v to %+v", last, pos)
		}
		r, err := OpenUpto(cfg.Dir, pos)
		if err != nil {
			t.Fatal(err)
		}
		if r.Position().Segment != pos.Segment || r.Position().Offset != pos.Offset || r.Position().Chunk != pos.Chunk {
			t.Fatalf("opened up to %+v, want %+v", r.Position(), pos)
		}
		got := readAll(t, r)
		sameSamples(t, got, all[:len(got)])
		if len(got) < read {
			t.Fatalf("read %d packets, before %d", len(got), read)
		}
		read, last = len(got), pos
		r.Close()
		// Without a position as well: whatever is whole.
		if r, err = Open(cfg.Dir); err != nil {
			t.Fatal(err)
		}
		sameSamples(t, readAll(t, r), all[:len(readAll(t, r))])
		r.Close()
	}
	wg.Wait()
	if read != len(all) {
		t.Fatalf("read %d of %d packets after Flush", read, len(all))
	}
	if err := w.Close(ledger.Account{}); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); !errors.Is(err, ErrClosed) {
		t.Fatalf("flush after close: %v", err)
	}
}

// TestFlushEvery checks that a chunk reaches the disk by its age alone.
func TestFlushEvery(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.FlushEvery = 10 * time.Millisecond
	w, err := Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close(ledger.Account{})
	w.Append(1, 1, []byte{1}, 0)
	w.mu.Lock()
	for w.written == 0 {
		w.moved.Wait()
	}
	w.mu.Unlock()
	if p := w.Durable(); p.Chunk != 1 {
		t.Fatalf("position %+v", p)
	}
}

func TestRetention(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SegmentBytes = 200 << 10
	cfg.SegmentSpan = 100 * time.Microsecond
	w, err := Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		appendAll(t, w, []sample{{ts: packet.Timestamp(i) * 1000, orig: 60, data: make([]byte, 60)}})
		if i%50 == 49 {
			w.Flush()
		}
	}
	r, err := Open(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n := len(r.Segments()); n != 10 {
		t.Fatalf("%d segments, want one for each 100 us", n)
	}
	gone, err := r.ExpireBefore(350_000)
	if err != nil || len(gone) != 3 || gone[2].Number != 3 || r.Segments()[0].Number != 4 {
		t.Fatalf("expired %+v, %v", gone, err)
	}
	if in, err := r.DropOldest(); err != nil || in.Number != 4 {
		t.Fatalf("dropped %+v, %v", in, err)
	}
	if gone, err = r.ExpireBefore(1 << 60); err != nil || len(gone) != 5 {
		t.Fatalf("expired %d, %v: the segment being written must stay", len(gone), err)
	}
	if err := w.Close(ledger.Account{}); err != nil {
		t.Fatal(err)
	}
	if r, err = Open(cfg.Dir); err != nil || len(r.Segments()) != 1 || r.Segments()[0].Packets != 100 {
		t.Fatalf("left %+v, %v", r.Segments(), err)
	}
	r.Close()
}
