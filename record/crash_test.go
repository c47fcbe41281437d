package record

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const childEnv = "OPENTAP_RECORD_CRASH_DIR"

// TestCrashChild is the process that TestCrash kills: it appends rows, and after each Sync says how many are safe.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		t.Skip("runs as the child of TestCrash")
	}
	l, rep, err := Open(Config{Dir: dir, FrameBytes: 4096, MaxFileBytes: 40000, SyncEvery: time.Millisecond}, rowCodec{})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("open %d %d\n", rep.Rows, rep.RowsMissing)
	for n := l.Len(); ; n++ {
		if err := l.Append(rowOf(n)); err != nil {
			t.Fatal(err)
		}
		if n%500 == 499 {
			if err := l.Sync(); err != nil {
				t.Fatal(err)
			}
			fmt.Printf("safe %d\n", n+1)
		}
	}
}

// TestCrash kills a writing process with SIGKILL, again and again on the same directory: what it said to be safe is there.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	safe := uint64(0)
	for round := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, seen := bufio.NewScanner(out), 0
		for lines.Scan() {
			what, number, _ := strings.Cut(lines.Text(), " ")
			switch what {
			case "open":
				rows, missing, _ := strings.Cut(number, " ")
				if n, err := strconv.ParseUint(rows, 10, 64); err != nil || n < safe || missing != "0" {
					t.Errorf("round %d: child found %s, %d were safe", round, number, safe)
				}
			case "safe":
				n, err := strconv.ParseUint(number, 10, 64)
				if err != nil || n < safe {
					t.Errorf("round %d: child says %q after %d", round, lines.Text(), safe)
				}
				safe = n
				if seen++; seen == 10+round*3 {
					if err := cmd.Process.Kill(); err != nil {
						t.Fatal(err)
					}
				}
			default:
				t.Errorf("child says %q", lines.Text())
			}
		}
		_ = cmd.Wait() // killed
		if seen < 10+round*3 {
			t.Fatalf("round %d: the child ended by itself", round)
		}
	}
	l, rep := mustOpen(t, Config{Dir: dir})
	if rep.Rows < safe || rep.RowsMissing != 0 {
		t.Errorf("report %+v, but %d rows were safe", rep, safe)
	}
	check(t, l, 0, l.Len())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// FuzzRecover opens a directory with any octets for its newest file: no panic, bounded memory, and after recovery the
// log takes rows, gives them back, and is clean when opened again.
func FuzzRecover(f *testing.F) {
	dir := f.TempDir()
	l, _, err := Open(Config{Dir: dir, FrameBytes: 100}, rowCodec{})
	if err != nil {
		f.Fatal(err)
	}
	for n := range uint64(20) {
		if err := l.Append(rowOf(n)); err != nil {
			f.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, "000001.rows"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, uint16(0))
	f.Add(whole[:len(whole)-10], uint16(200))
	f.Add(whole[:fileHeaderLen], uint16(5))
	f.Add([]byte{}, uint16(0))
	f.Add(bytes.Repeat([]byte{0}, 500), uint16(70))
	f.Fuzz(func(t *testing.T, b []byte, flip uint16) {
		dir := t.TempDir()
		b = bytes.Clone(b)
		if len(b) >= fileHeaderLen { // let the fuzzer get past the header
			h := fileHeader{number: 1, schema: "test", schemaVersion: 7}
			copy(b, h.append(nil))
		}
		if int(flip) < len(b) {
			b[flip] ^= 0x55
		}
		if err := os.WriteFile(filepath.Join(dir, "000001.rows"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := Config{Dir: dir, SyncEvery: -1}
		l, rep, err := Open(cfg, rowCodec{})
		if err != nil {
			return // another schema
		}
		defer l.Close()
		first := l.Len()
		read := 0
		readErr := l.Each(first, func(uint64, *row) error { read++; return nil })
		if uint64(read) > rep.Rows || readErr == nil && uint64(read) != rep.Rows {
			t.Fatalf("%d rows read (%v), report %+v", read, readErr, rep)
		}
		if err := l.Append(rowOf(first)); err != nil {
			t.Fatal(err)
		}
		got := 0
		if err := l.Range(first, first+1, func(i uint64, v *row) error {
			got++
			if *v != *rowOf(first) {
				t.Fatalf("row came back as %+v", *v)
			}
			return nil
		}); err != nil && readErr == nil {
			t.Fatal(err)
		}
		if got != 1 && readErr == nil {
			t.Fatal("row did not come back")
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		_, again, err := Open(cfg, rowCodec{})
		if err != nil || again.BytesLost != 0 || again.Rows != rep.Rows+1 {
			t.Fatalf("opened again: %+v, %v; before %+v", again, err, rep)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	l, _, err := Open(Config{Dir: b.TempDir()}, rowCodec{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	r := row{text: "a row of sixty octets, as a flow record of IPv4 has."}
	b.ReportAllocs()
	for b.Loop() {
		r.n++
		if err := l.Append(&r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEach(b *testing.B) {
	l, _, err := Open(Config{Dir: b.TempDir()}, numberCodec{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	const rows = 1_000_000
	for n := range uint64(rows) {
		if err := l.Append(&n); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Each(rows, func(uint64, *uint64) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
}
