package segment

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// TestMain also is the programs that the tests below kill or starve.
func TestMain(m *testing.M) {
	switch os.Getenv("SEGMENT_TEST_CHILD") {
	case "crash":
		crashChild(os.Getenv("SEGMENT_TEST_DIR"))
	case "full":
		fullChild(os.Getenv("SEGMENT_TEST_DIR"))
	default:
		os.Exit(m.Run())
	}
}

func child(t *testing.T, kind, dir string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), "SEGMENT_TEST_CHILD="+kind, "SEGMENT_TEST_DIR="+dir)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.Stderr = os.Stderr
	return c
}

// numbered packets: the run in the time, the count in the data.
func crashPacket(buf []byte, n uint64) []byte {
	size := 60 + int(n*7919%1400)
	for i := range buf[:size] {
		buf[i] = byte(n)
	}
	binary.BigEndian.PutUint64(buf, n)
	return buf[:size]
}

// crashChild recovers the directory, then appends packets and says how many are on the disk, until it is killed.
func crashChild(dir string) {
	fail := func(err error) {
		fmt.Println("error", err)
		os.Exit(1)
	}
	rep, err := Recover(dir)
	if err != nil {
		fail(err)
	}
	cfg := testConfig(dir)
	cfg.ChunkBytes, cfg.SegmentBytes, cfg.FlushEvery = 64<<10, 2<<20, time.Millisecond
	w, err := Create(cfg)
	if err != nil {
		fail(err)
	}
	run := packet.Timestamp(rep.Next)
	fmt.Println("begin", uint32(run))
	buf := make([]byte, 2048)
	for n := uint64(0); ; {
		for range 200 {
			p := crashPacket(buf, n)
			if w.Append(run<<40+packet.Timestamp(n), uint32(len(p)), p, pcap.DirectionIn) {
				n++
			}
		}
		w.Account(ledger.Account{Seen: n, Captured: n})
		if n%600 == 0 {
			if err := w.Flush(); err != nil {
				fail(err)
			}
			fmt.Println("flushed", n)
		}
		if err := w.Err(); err != nil {
			fail(err)
		}
	}
}

// TestKill kills a writing process at random moments. Whatever it said was flushed must be there, and after
// it a run of packets without a gap.
func TestKill(t *testing.T) {
	rounds := 6
	if os.Getenv("OPENTAP_LONG") != "" {
		rounds = 200
	}
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	flushed := map[uint64]uint64{} // by run
	cutOff := int64(0)
	for range rounds {
		c := child(t, "crash", dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		var run uint64
		lines := bufio.NewScanner(out)
		var timer *time.Timer
		for lines.Scan() {
			f := strings.Fields(lines.Text())
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				t.Fatal("the writer says: ", lines.Text())
			}
			if f[0] == "begin" {
				run = n
				timer = time.AfterFunc(time.Duration(rng.IntN(60_000))*time.Microsecond, func() { c.Process.Kill() })
			} else {
				flushed[run] = n
			}
		}
		c.Wait()
		if timer != nil {
			timer.Stop()
		}
	}
	rep, err := Recover(dir)
	if err != nil {
		t.Fatal(err)
	}
	cutOff += rep.Cut
	t.Logf("%d segments are known from the catalogue", agree(t, dir))
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := map[uint64]uint64{}
	want := make([]byte, 2048)
	for _, s := range readAll(t, r) {
		run, n := uint64(s.ts>>40), uint64(s.ts&(1<<40-1))
		if n != got[run] {
			t.Fatalf("run %d: packet %d follows %d", run, n, got[run])
		}
		if string(s.data) != string(crashPacket(want, n)) {
			t.Fatalf("run %d: packet %d has other content", run, n)
		}
		got[run]++
	}
	total := uint64(0)
	for run, n := range flushed {
		if got[run] < n {
			t.Errorf("run %d: %d packets were flushed, %d are there", run, n, got[run])
		}
		total += got[run]
	}
	if total == 0 {
		t.Fatal("nothing was written")
	}
	t.Logf("%d packets in %d segments after %d kills", total, len(r.Segments()), rounds)
}

// fullChild fills a file system of its own until the disk is full, and checks what is left.
func fullChild(dir string) {
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=3m"); err != nil {
		fmt.Println("skip", err)
		os.Exit(0)
	}
	check := func(ok bool, format string, args ...any) {
		if !ok {
			fmt.Printf("fail "+format+"\n", args...)
			os.Exit(0)
		}
	}
	cfg := testConfig(dir)
	cfg.ChunkBytes, cfg.SegmentBytes, cfg.NoSync = 64<<10, 1<<20, false
	w, err := Create(cfg)
	check(err == nil, "create: %v", err)
	buf := make([]byte, 2048)
	var kept, refused, n uint64
	for refused < 1000 && n < 1e6 {
		p := crashPacket(buf, kept)
		n++
		if w.Append(packet.Timestamp(kept), uint32(len(p)), p, 0) {
			kept++
		} else if refused++; w.Err() == nil {
			refused = 0
			w.Flush()
		}
	}
	s := w.Stats()
	check(w.Err() != nil && refused == 1000, "no error after %d packets", n)
	check(strings.Contains(w.Err().Error(), "no space left"), "error is %v", w.Err())
	check(s.Packets == kept && s.WrittenPackets < kept && s.WrittenPackets > 1000, "stats %+v, kept %d", s, kept)
	err = w.Close(ledger.Account{})
	check(err != nil, "close said nothing")
	check(w.Flush() != nil, "flush after an error said nothing")
	rep, err := Recover(dir)
	check(err == nil, "recover: %v", err)
	r, err := Open(dir)
	check(err == nil, "open: %v", err)
	var found uint64
	for _, in := range r.Segments() {
		found += in.Packets
	}
	check(found == s.WrittenPackets, "%d packets are there, %d were written; %+v", found, s.WrittenPackets, rep)
	fmt.Println("ok")
	os.Exit(0)
}

func TestDiskFull(t *testing.T) {
	c := child(t, "full", t.TempDir())
	c.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	out, err := c.Output()
	s := strings.TrimSpace(string(out))
	if err != nil && s == "" || strings.HasPrefix(s, "skip") {
		t.Skip("needs CAP_SYS_ADMIN (a small tmpfs in a mount namespace): ", err, s)
	}
	if s != "ok" {
		t.Fatal(s, err)
	}
}
