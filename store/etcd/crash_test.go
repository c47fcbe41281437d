package etcd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"opentap/store"
)

const childDir = "OPENTAP_TEST_STORE_DIR"

// TestMain is the child of the crash tests when childDir is set: it opens the store, writes, and prints what was
// acknowledged, until it is killed.
func TestMain(m *testing.M) {
	dir := os.Getenv(childDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := Open(context.Background(), Config{Dir: dir}, slog.New(slog.DiscardHandler))
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("open")
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := 0; ; n++ {
				k := fmt.Sprintf("%d/%d/%d", os.Getpid(), w, n)
				rev, err := s.Txn(context.Background(), nil, []store.Op{store.Put("a/"+k, []byte(k)), store.Put("b/"+k, []byte(k))})
				if err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(k, rev)
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
}

func child(t *testing.T, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childDir+"="+dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "open" {
		t.Fatalf("child says %q", lines.Text())
	}
	return c, lines
}

// TestKilled kills the process again and again while it writes. Whatever was acknowledged must be there, at the
// revision that was told; a transaction is there whole or not at all.
func TestKilled(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	dir := t.TempDir()
	acked := map[string]int64{}
	for range rounds {
		c, lines := child(t, dir)
		for left := 20 + rand.IntN(300); left > 0 && lines.Scan(); left-- {
			note(t, acked, lines.Text())
		}
		c.Process.Kill() // SIGKILL
		for lines.Scan() {
			if lines.Text() != "" { // acknowledged before the signal came
				note(t, acked, lines.Text())
			}
		}
		c.Wait()
	}
	s := open(t, Config{Dir: dir})
	as, last, err := s.List(t.Context(), "a/")
	if err != nil {
		t.Fatal(err)
	}
	bs, _, _ := s.List(t.Context(), "b/")
	if len(as) != len(bs) {
		t.Errorf("a transaction was cut: %d and %d keys", len(as), len(bs))
	}
	have := map[string]int64{}
	for i, kv := range as {
		have[string(kv.Value)] = kv.ModRevision
		if bs[i].ModRevision != kv.ModRevision || kv.ModRevision > last {
			t.Fatalf("%+v beside %+v at %d", kv, bs[i], last)
		}
	}
	for k, rev := range acked {
		if have[k] != rev {
			t.Fatalf("acknowledged %s at %d, found at %d", k, rev, have[k])
		}
	}
	t.Logf("%d rounds, %d acknowledged, %d found", rounds, len(acked), len(have))
}

func note(t *testing.T, acked map[string]int64, line string) {
	t.Helper()
	k, rev, ok := strings.Cut(line, " ")
	n, err := strconv.ParseInt(rev, 10, 64)
	if !ok || err != nil || k == "error" {
		t.Fatalf("child says %q", line)
	}
	acked[k] = n
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	c, lines := child(t, dir)
	go func() {
		for lines.Scan() { // keep it writing
		}
	}()
	_, err := Open(t.Context(), Config{Dir: dir}, slog.New(slog.DiscardHandler))
	var in *InUseError
	if !errors.As(err, &in) || in.PID != strconv.Itoa(c.Process.Pid) {
		t.Errorf("open a directory in use: %v, want the process %d named", err, c.Process.Pid)
	}
	mine := open(t, Config{})
	if _, err := Open(t.Context(), Config{Dir: mine.member.dir}, slog.New(slog.DiscardHandler)); !errors.As(err, &in) {
		t.Errorf("open twice in one process: %v", err)
	}
}

// TestDamaged breaks each file; opening must name the directory and leave the process alive.
func TestDamaged(t *testing.T) {
	whole := t.TempDir()
	s := open(t, Config{Dir: whole})
	for i := range 200 {
		if _, err := s.Txn(t.Context(), nil, []store.Op{store.Put(fmt.Sprint("k", i), make([]byte, 2000))}); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	file := func(pattern string) func(t *testing.T, dir string) string {
		return func(t *testing.T, dir string) string {
			m, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil || len(m) == 0 {
				t.Fatalf("%s: %v", pattern, err)
			}
			return m[0]
		}
	}
	overwrite := func(at, n int64) func(string) error {
		return func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte(strings.Repeat("\xa5", int(n))), at)
			return err
		}
	}
	log, db := file("member/wal/0*.wal"), file("member/snap/db")
	for _, c := range []struct {
		name string
		path func(*testing.T, string) string
		harm func(string) error
	}{
		{"log overwritten at its start", log, overwrite(0, 4096)},
		{"log overwritten in the middle", log, overwrite(100_000, 5000)},
		{"log gone", log, os.Remove},
		{"database gone", db, os.Remove},
		{"database overwritten", db, overwrite(0, 16384)},
		{"database cut", db, func(p string) error { return os.Truncate(p, 9000) }},
		{"database empty", db, func(p string) error { return os.Truncate(p, 0) }},
		{"database pages overwritten", db, overwrite(8192, 65536)},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			if err := c.harm(c.path(t, dir)); err != nil {
				t.Fatal(err)
			}
			s, err := Open(t.Context(), Config{Dir: dir}, slog.New(slog.NewTextHandler(io.Discard, nil)))
			if err == nil {
				kvs, _, lerr := s.List(t.Context(), "k")
				s.Close()
				t.Fatalf("opened, with %d of 200 keys (%v)", len(kvs), lerr)
			}
			var d *DamagedError
			if !errors.As(err, &d) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%v is no DamagedError with the directory", err)
			}
			t.Log(err)
		})
	}
}

// TestFirstStartCutShort: pieces of a member that never served do not stand in the way.
func TestFirstStartCutShort(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "member", "snap", "db"), make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, Config{Dir: dir})
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("directory mode %v", info.Mode())
	}
}
