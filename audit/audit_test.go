package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var quietLog = slog.New(slog.DiscardHandler)

func entry(action string) Entry {
	return Entry{Actor: Actor{Name: "ann", Role: "analyst", Via: "token", Remote: "192.0.2.7:4711"}, Action: action, Object: "cap-1", Project: "blue", Outcome: Allowed}
}

func open(t testing.TB, cfg Config) *Log {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	l, _, err := Open(cfg, quietLog)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func add(t testing.TB, l *Log, n int) {
	t.Helper()
	for i := range n {
		if err := l.Append(t.Context(), entry(fmt.Sprintf("capture.act%d", i))); err != nil {
			t.Fatal(err)
		}
	}
}

func verify(t testing.TB, l *Log) Report {
	t.Helper()
	r, err := Verify(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	if r.Head != l.Head() {
		t.Fatalf("verified up to %v, the log is at %v", r.Head, l.Head())
	}
	return r
}

func TestLine(t *testing.T) {
	e := entry("capture.retrieve")
	e.Time = time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)
	e.Details = map[string]string{"b": "2", "a": "1"}
	line, head := appendLine(nil, &e, Head{})
	want := `{"seq":1,"time":"2026-03-04T05:06:07.000000089Z","prev":"` + strings.Repeat("0", 64) + `",` +
		`"actor":{"name":"ann","role":"analyst","via":"token","remote":"192.0.2.7:4711"},"action":"capture.retrieve",` +
		`"object":"cap-1","project":"blue","outcome":"allowed","details":{"a":"1","b":"2"},` +
		`"hash":"c0ffee"}` + "\n"
	want = strings.Replace(want, "c0ffee", e.Hash, 1)
	if string(line) != want {
		t.Errorf("got  %swant %s", line, want)
	}
	back, h, err := parseLine(line[:len(line)-1])
	if err != nil || h != head || fmt.Sprint(back) != fmt.Sprint(e) {
		t.Errorf("%+v, %v, %v", back, h, err)
	}
}

// TestInjection: whatever is in a text, the line stays one line of printable ASCII and the text comes back.
func TestInjection(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
			"\n{\"seq\":2}", "\r", "\x1b[2J", "\u202e", "\u2028", "\x00", "\x7f", "\u0085", `","hash":"`, "\xff\xfe", "😀", strings.Repeat("é", MaxText),
		})).Draw(rt, "text")
		e := entry("x.y")
		e.Actor.Name, e.Object, e.Details = text, text, map[string]string{text: text}
		line, _ := appendLine(nil, &e, Head{})
		for i, c := range line[:len(line)-1] {
			if c < ' ' || c > '~' {
				rt.Fatalf("octet %#x at %d of %s", c, i, line)
			}
		}
		got, _, err := parseLine(line[:len(line)-1])
		if err != nil {
			rt.Fatal(err)
		}
		want := strings.ToValidUTF8(text, "\ufffd")
		if len(text) <= MaxText && strings.ToValidUTF8(text, "") == text && (got.Object != want || got.Actor.Name != want || got.Details[want] != want) {
			rt.Fatalf("%q came back as %q", text, got.Object)
		}
	})
}

func TestAppend(t *testing.T) {
	l := open(t, Config{MaxBytes: 2000})
	add(t, l, 30)
	r := verify(t, l)
	if r.First != 1 || r.Head.Seq != 30 || r.Files < 4 || r.Torn != 0 {
		t.Errorf("%+v", r)
	}
	dir, head := l.dir, l.Head()
	if _, _, err := Open(Config{Dir: dir}, quietLog); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second writer: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), entry("x.y")); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
	l = open(t, Config{Dir: dir})
	if l.Head() != head {
		t.Errorf("opened at %v, closed at %v", l.Head(), head)
	}
	add(t, l, 1)
	verify(t, l)
	if ok, err := Contains(dir, head); !ok || err != nil {
		t.Errorf("a noted head is not found: %v", err)
	}
	files, _ := files(dir)
	for _, f := range files {
		if info, _ := os.Stat(f); info.Mode() != 0o600 {
			t.Errorf("%s: mode %v", f, info.Mode())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, e := range []Entry{{}, {Action: "x"}, {Action: "x", Actor: system}, {Action: "x", Actor: system, Outcome: "maybe"}} {
		if err := l.Append(t.Context(), e); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", e, err)
		}
	}
	if err := l.Append(ctx, entry("x.y")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestTamper does to a log of three files what a tamperer can do, and expects the line named.
func TestTamper(t *testing.T) {
	whole := t.TempDir()
	l := open(t, Config{Dir: whole, MaxBytes: 1700}) // 5 lines a file
	add(t, l, 13)
	l.Close()
	paths, _ := files(whole)
	if len(paths) != 3 {
		t.Fatalf("%d files", len(paths))
	}
	names := []string{}
	for _, p := range paths {
		names = append(names, filepath.Base(p))
	}
	lines := func(fn func(l []string) []string) func([]byte) []byte {
		return func(b []byte) []byte {
			return []byte(strings.Join(fn(strings.SplitAfter(string(b), "\n")), ""))
		}
	}
	for _, c := range []struct {
		name  string
		file  int
		harm  func([]byte) []byte // nil result: remove the file
		file2 int                 // expected file and line; line 0 = only the head shows it
		line  int
	}{
		{"a text edited", 1, func(b []byte) []byte { return bytes.Replace(b, []byte("cap-1"), []byte("cap-2"), 1) }, 1, 1},
		{"an octet of a hash", 1, func(b []byte) []byte { b[len(b)-4] ^= 1; return b }, 1, 5},
		{"hash in upper case", 0, func(b []byte) []byte {
			i := bytes.Index(b, []byte(hashMark))
			copy(b[i+9:i+9+64], bytes.ToUpper(b[i+9:i+9+64]))
			return b
		}, 0, 1},
		{"a line deleted", 1, lines(func(l []string) []string { return append(l[:2], l[3:]...) }), 1, 3},
		{"first line of a file deleted", 1, lines(func(l []string) []string { return l[1:] }), 1, 1},
		{"last line of a file deleted", 0, lines(func(l []string) []string { return l[:4] }), 1, 1},
		{"very first line deleted", 0, lines(func(l []string) []string { return l[1:] }), 0, 1},
		{"two lines exchanged", 2, lines(func(l []string) []string { l[0], l[1] = l[1], l[0]; return l }), 2, 1},
		{"a line doubled", 2, lines(func(l []string) []string { return append(l[:1], l...) }), 2, 2},
		{"a line added", 0, lines(func(l []string) []string { return append(l[:3], append([]string{"{}\n"}, l[3:]...)...) }), 0, 4},
		{"a file removed", 1, nil, 2, 1},
		{"a file cut in a line", 1, func(b []byte) []byte { return b[:len(b)-10] }, 1, 5},
		{"a file emptied", 1, func(b []byte) []byte { return b[:0] }, 2, 1},
		{"a line too long", 1, func(b []byte) []byte { return append(bytes.Repeat([]byte("x"), maxLine+1), b...) }, 1, 1},
		{"the end cut off", 2, lines(func(l []string) []string { return l[:2] }), 0, 0},
		{"oldest file removed", 0, nil, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "audit")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, names[c.file])
			if c.harm == nil {
				os.Remove(path)
			} else {
				b, _ := os.ReadFile(path)
				was := string(b)
				b = c.harm(b)
				if string(b) == was {
					t.Fatal("nothing was harmed")
				}
				os.WriteFile(path, b, 0o600)
			}
			r, err := Verify(dir)
			if c.line == 0 {
				if err != nil || r.Head == l.Head() && r.First == 1 {
					t.Errorf("%+v, %v", r, err)
				}
				return
			}
			var chain *ChainError
			if !errors.As(err, &chain) || filepath.Base(chain.Path) != names[c.file2] || chain.Line != c.line {
				t.Errorf("%v; want line %d of %s", err, c.line, names[c.file2])
			}
		})
	}
}

// TestCrash cuts the newest file at every octet: the log opens, keeps every whole line, and says what it cut.
func TestCrash(t *testing.T) {
	whole := t.TempDir()
	l := open(t, Config{Dir: whole, MaxBytes: 700})
	add(t, l, 5)
	l.Close()
	paths, _ := files(whole)
	last := paths[len(paths)-1]
	b, _ := os.ReadFile(last)
	firstLine := bytes.IndexByte(b, '\n') + 1
	for _, zeros := range []int{0, 4096} {
		for cut := 0; cut <= len(b); cut += 1 + len(b)/97 {
			dir := filepath.Join(t.TempDir(), "audit")
			os.CopyFS(dir, os.DirFS(whole))
			os.WriteFile(filepath.Join(dir, filepath.Base(last)), append(append([]byte(nil), b[:cut]...), make([]byte, zeros)...), 0o600)
			l, rec, err := Open(Config{Dir: dir}, quietLog)
			if err != nil {
				t.Fatalf("cut at %d, %d zeros: %v", cut, zeros, err)
			}
			kept := fileSeq(filepath.Base(last)) - 1 + uint64(bytes.Count(b[:cut], []byte("\n")))
			torn := cut + zeros
			if kept >= fileSeq(filepath.Base(last)) {
				torn -= bytes.LastIndexByte(b[:cut], '\n') + 1
			}
			if rec.Entries != kept || rec.CutBytes != int64(torn) {
				t.Errorf("cut at %d of %d (first line %d), %d zeros: %+v, want %d entries, %d cut", cut, len(b), firstLine, zeros, rec, kept, torn)
			}
			add(t, l, 2)
			verify(t, l)
			said := false
			Each(dir, func(e Entry) error {
				said = said || e.Action == "audit.recovered" && e.Details["cut_bytes"] == fmt.Sprint(torn)
				return nil
			})
			if said != (torn > 0) {
				t.Errorf("cut at %d: said %v", cut, said)
			}
			l.Close()
		}
	}
}

func TestOpenRefusesTampered(t *testing.T) {
	l := open(t, Config{})
	add(t, l, 5)
	l.Close()
	b, _ := os.ReadFile(l.path)
	os.WriteFile(l.path, bytes.Replace(b, []byte("act2"), []byte("act9"), 1), 0o600)
	_, _, err := Open(Config{Dir: l.dir}, quietLog)
	var chain *ChainError
	if !errors.As(err, &chain) || chain.Line != 3 {
		t.Fatalf("%v", err)
	}
	after, _ := os.ReadFile(l.path)
	if len(after) != len(b) {
		t.Error("the evidence was changed")
	}
}

// failing is a disk that fails when told to.
type failing struct {
	file
	write, sync, truncate atomic.Bool
	syncs                 atomic.Int64
	slow                  chan struct{} // when not nil, Sync waits for it
}

func (f *failing) Write(p []byte) (int, error) {
	if f.write.Load() {
		n, _ := f.file.Write(p[:len(p)/2])
		return n, syscall.ENOSPC
	}
	return f.file.Write(p)
}

func (f *failing) Sync() error {
	f.syncs.Add(1)
	if f.slow != nil {
		<-f.slow
	}
	if f.sync.Load() {
		return syscall.EIO
	}
	return f.file.Sync()
}

func (f *failing) Truncate(n int64) error {
	if f.truncate.Load() {
		return syscall.EIO
	}
	return f.file.Truncate(n)
}

func TestDiskFails(t *testing.T) {
	l := open(t, Config{})
	disk := &failing{file: l.file}
	l.file = disk
	add(t, l, 2)
	for _, c := range []struct {
		flags []*atomic.Bool
		want  error
	}{{[]*atomic.Bool{&disk.write}, syscall.ENOSPC}, {[]*atomic.Bool{&disk.sync}, syscall.EIO}, {[]*atomic.Bool{&disk.write, &disk.truncate}, syscall.EIO}} {
		before := l.Head()
		for _, f := range c.flags {
			f.Store(true)
		}
		l.Append(t.Context(), entry("x.y"))
		if err := l.Append(t.Context(), entry("x.y")); !errors.Is(err, c.want) {
			t.Errorf("%v, want %v", err, c.want)
		}
		if l.Head() != before {
			t.Error("a failed entry counts")
		}
		for _, f := range c.flags {
			f.Store(false)
		}
		add(t, l, 1)
		if r := verify(t, l); r.Head.Seq != before.Seq+1 {
			t.Errorf("%+v", r)
		}
	}
	l.maxBytes, l.create = 1, func(string) (file, error) { return nil, syscall.ENOSPC }
	if err := l.Append(t.Context(), entry("x.y")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("rotation: %v", err)
	}
	l.create = createFile
	add(t, l, 3)
	verify(t, l)
}

// TestGroupCommit: entries that come while one is synced share the next sync.
func TestGroupCommit(t *testing.T) {
	l := open(t, Config{})
	disk := &failing{file: l.file, slow: make(chan struct{})}
	l.file = disk
	const n = 50
	var wg sync.WaitGroup
	for range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := l.Append(t.Context(), entry("x.y")); err != nil {
				t.Error(err)
			}
		}()
	}
	for { // until all but the writer wait
		l.mu.Lock()
		waiting := len(l.waiting)
		l.mu.Unlock()
		if waiting == n-1 {
			break
		}
	}
	close(disk.slow)
	wg.Wait()
	if s := disk.syncs.Load(); s != 2 {
		t.Errorf("%d syncs for %d entries, want 2", s, n)
	}
	if r := verify(t, l); r.Head.Seq != n {
		t.Errorf("%+v", r)
	}
}

func TestConcurrent(t *testing.T) {
	l := open(t, Config{MaxBytes: 5000})
	var wg sync.WaitGroup
	for range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 20 {
				if err := l.Append(t.Context(), entry("x.y")); err != nil {
					t.Error(err)
				}
				if _, err := Verify(l.dir); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	l.Close()
	if r := verify(t, l); r.Head.Seq != 320 {
		t.Errorf("%+v", r)
	}
}

const childDir = "OPENTAP_TEST_AUDIT_DIR"

// TestMain is the child of TestKilled when childDir is set: it appends and prints what was acknowledged.
func TestMain(m *testing.M) {
	dir := os.Getenv(childDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	l, _, err := Open(Config{Dir: dir, MaxBytes: 20000}, quietLog)
	for err == nil {
		if err = l.Append(context.Background(), entry("x.y")); err == nil {
			fmt.Println(l.Head().Seq)
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

func TestKilled(t *testing.T) {
	dir := t.TempDir()
	var acked uint64
	for range 6 {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), childDir+"="+dir)
		out, _ := c.StdoutPipe()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			if _, err := fmt.Fscanln(out, &acked); err != nil {
				t.Error(err)
				break
			}
		}
		c.Process.Kill()
		c.Wait()
	}
	l := open(t, Config{Dir: dir})
	if r := verify(t, l); r.Head.Seq < acked {
		t.Errorf("acknowledged %d, found %d", acked, r.Head.Seq)
	}
}

func FuzzScan(f *testing.F) {
	e := entry("x.y")
	line, head := appendLine(nil, &e, Head{})
	f.Add(line)
	line, _ = appendLine(line, &e, head)
	f.Add(line)
	f.Add(line[:len(line)-5])
	f.Add([]byte("{}\n\x00\n"))
	f.Add([]byte(`{"seq":1,"hash":""}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := scan{path: "fuzz"}
		n := 0
		err := s.run(bytes.NewReader(b), func(Entry) error { n++; return nil })
		if n != s.line || s.good > int64(len(b)) || err == nil && s.good+s.torn != int64(len(b)) {
			t.Fatalf("%d lines, %+v of %d octets, %v", n, s, len(b), err)
		}
		tornTail(bytes.NewReader(b), &s, err)
	})
}

func BenchmarkAppend(b *testing.B) {
	l := open(b, Config{})
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Append(context.Background(), entry("x.y")); err != nil {
				b.Fatal(err)
			}
		}
	})
}
