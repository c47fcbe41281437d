package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"opentap/fault"
	"opentap/store"
	"opentap/store/mem"
)

var (
	root = Identity{Name: "root", Role: "admin", Rights: Everything}
	peer = netip.MustParseAddrPort("192.0.2.7:4711")
)

// clock is a settable time.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

type bench struct {
	*Authenticator
	store *mem.Store
	clock *clock
	log   *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *lockedBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func start(t testing.TB, s *mem.Store, grants ...Grant) *bench {
	t.Helper()
	b := &bench{store: s, clock: &clock{t: time.Unix(1_700_000_000, 0)}, log: &lockedBuffer{}}
	if s == nil {
		b.store = mem.New(mem.Config{})
	}
	var err error
	b.Authenticator, err = New(b.store, Config{Anonymous: grants, Now: b.clock.now}, slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-b.Ready()
	return b
}

// create makes a token, which is valid here at once.
func (b *bench) create(t testing.TB, s Spec) (string, Token) {
	t.Helper()
	text, tok, err := b.Create(t.Context(), root, s)
	if err != nil {
		t.Fatal(err)
	}
	return text, tok
}

func (b *bench) await(t testing.TB, id string, ok func(*entry) bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		b.mu.RLock()
		e := b.tokens[id]
		b.mu.RUnlock()
		if ok(e) {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the change does not arrive")
		}
		runtime.Gosched()
	}
}

func TestRoles(t *testing.T) {
	for role, want := range map[string]string{"viewer": "m", "operator": "ms", "analyst": "msr", "owner": "msrd", "admin": "msrda"} {
		r, err := RightsOf(role)
		got := ""
		for i, c := range "msrda" {
			if r&(1<<i) != 0 {
				got += string(c)
			}
		}
		if got != want || err != nil {
			t.Errorf("%s: %q, want %q (%v)", role, got, want, err)
		}
	}
	if r, err := RightsOf("root"); r != 0 || !fault.Is(err, fault.Invalid) {
		t.Errorf("unknown role: %v, %v", r, err)
	}
}

func TestAuthenticate(t *testing.T) {
	b := start(t, nil)
	text, tok := b.create(t, Spec{Name: "ann", Role: "analyst", Project: "blue", Life: time.Hour})
	other, _ := b.create(t, Spec{Name: "bob", Role: "viewer"})
	id, err := b.Authenticate(t.Context(), text, peer)
	want := Identity{Name: "ann", Project: "blue", Role: "analyst", Rights: SeeMetadata | Start | ReadPayload, Via: "token", Remote: "192.0.2.7:4711"}
	if err != nil || id != want {
		t.Fatalf("%+v, %v", id, err)
	}
	_, secret, _ := split(text)
	_, foreign, _ := split(other)
	var said string
	for _, wrong := range []string{
		"x", "ot_", "ot__", text + "a", text[:len(text)-1], strings.ToUpper(text), " " + text,
		"ot_" + tok.ID + "_" + foreign, "ot_aaaaaaaaaaaaaaaa_" + secret,
	} {
		_, err := b.Authenticate(t.Context(), wrong, peer)
		if !fault.Is(err, fault.Unauthenticated) || said != "" && err.Error() != said {
			t.Errorf("%q: %v", wrong, err)
		}
		said = err.Error()
	}
	b.clock.add(time.Hour)
	if _, err := b.Authenticate(t.Context(), text, peer); !fault.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: %v", err)
	}
	if _, err := b.Authenticate(t.Context(), "ot_"+tok.ID+"_"+foreign, netip.AddrPort{}); err == nil || err.Error() != said {
		t.Errorf("expired token with a wrong secret: %v", err)
	}
	if _, err := b.Authenticate(t.Context(), "", peer); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("nobody: %v", err)
	}
	early, _ := New(b.store, Config{}, slog.New(slog.DiscardHandler))
	if _, err := early.Authenticate(t.Context(), text, peer); !fault.Is(err, fault.Unavailable) {
		t.Errorf("before the tokens are known: %v", err)
	}
}

// TestSecretsStayHere: a secret is in no stored value, log line or error.
func TestSecretsStayHere(t *testing.T) {
	b := start(t, nil)
	text, tok := b.create(t, Spec{Name: "ann", Role: "admin"})
	_, secret, _ := split(text)
	_, err := b.Authenticate(t.Context(), text+"x", peer)
	b.create(t, Spec{Name: "bob", Role: "admin"})
	if _, err := b.Revoke(t.Context(), root, tok.ID); err != nil {
		t.Fatal(err)
	}
	kvs, _, _ := b.store.List(t.Context(), "")
	var values []string
	for _, kv := range kvs {
		values = append(values, kv.Key, string(kv.Value))
	}
	for _, where := range []string{fmt.Sprintf("%q", values), b.log.String(), err.Error(), fmt.Sprintf("%+v", tok)} {
		if strings.Contains(where, secret) {
			t.Errorf("secret in %s", where)
		}
	}
}

func TestRevoke(t *testing.T) {
	b := start(t, nil)
	beside := start(t, b.store) // another controller
	text, tok := b.create(t, Spec{Name: "ann", Role: "admin"})
	beside.await(t, tok.ID, func(e *entry) bool { return e != nil })
	if _, _, err := b.Create(t.Context(), root, Spec{Name: "ann", Role: "viewer"}); !fault.Is(err, fault.Conflict) {
		t.Errorf("a name twice: %v", err)
	}
	if _, err := b.Revoke(t.Context(), root, "ann"); !fault.Is(err, fault.Conflict) {
		t.Errorf("the last administrator: %v", err)
	}
	b.create(t, Spec{Name: "bob", Role: "admin"})
	if _, err := b.Authenticate(t.Context(), text, peer); err != nil {
		t.Fatal(err)
	}
	got, err := b.Revoke(t.Context(), root, "ann")
	if err != nil || got.ID != tok.ID || got.Revoked.IsZero() {
		t.Fatalf("%+v, %v", got, err)
	}
	beside.await(t, tok.ID, func(e *entry) bool { return !e.token.Revoked.IsZero() })
	if _, err := beside.Authenticate(t.Context(), text, peer); !fault.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("revoked: %v", err)
	}
	if again, err := b.Revoke(t.Context(), root, tok.ID); err != nil || again != got {
		t.Errorf("revoke again: %+v, %v", again, err)
	}
	b.create(t, Spec{Name: "ann", Role: "viewer"}) // the name is free
	list, err := b.Tokens(t.Context(), root)
	if err != nil || len(list) != 3 || list[0].Name != "ann" || list[2].Name != "bob" {
		t.Errorf("%+v, %v", list, err)
	}
	used := 0
	for _, l := range list {
		if !l.LastUsed.IsZero() {
			used++
		}
	}
	if used != 1 {
		t.Errorf("%d tokens used, want 1: %+v", used, list)
	}
	if _, err := b.Revoke(t.Context(), root, "nobody"); !fault.Is(err, fault.NotFound) {
		t.Errorf("unknown: %v", err)
	}
}

func TestManageRefusals(t *testing.T) {
	b := start(t, nil)
	owner := Identity{Rights: Everything &^ Administer}
	if _, _, err := b.Create(t.Context(), owner, Spec{Name: "x", Role: "viewer"}); !fault.Is(err, fault.Forbidden) {
		t.Error(err)
	}
	if _, err := b.Tokens(t.Context(), owner); !fault.Is(err, fault.Forbidden) {
		t.Error(err)
	}
	if _, err := b.Revoke(t.Context(), owner, "x"); !fault.Is(err, fault.Forbidden) {
		t.Error(err)
	}
	for _, s := range []Spec{
		{},
		{Name: "x"},
		{Name: "x", Role: "root"},
		{Name: "a\nb", Role: "viewer"},
		{Name: "a\x1b[2Jb", Role: "viewer"},
		{Name: "a/b", Role: "viewer"},
		{Name: "x", Role: "viewer", Project: "\u202e"},
		{Name: "x", Role: "viewer", Life: -1},
		{Name: "anonymous", Role: "viewer"},
		{Name: strings.Repeat("x", 65), Role: "viewer"},
		{Name: " x", Role: "viewer"},
		{Name: "\xff", Role: "viewer"},
	} {
		if _, _, err := b.Create(t.Context(), root, s); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if _, err := b.store.Txn(t.Context(), nil, []store.Op{store.Put(tokenKeys+"broken", []byte("{"))}); err != nil {
		t.Fatal(err)
	}
	if later := start(t, b.store); !strings.Contains(later.log.String(), "broken") {
		t.Error("a token that cannot be read is not mentioned")
	}
}

func TestAnonymous(t *testing.T) {
	b := start(t, nil,
		Grant{Role: "analyst", Ranges: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}},
		Grant{Role: "viewer", Project: "lab", Ranges: []netip.Prefix{netip.MustParsePrefix("::ffff:10.1.0.0/112"), netip.MustParsePrefix("fe80::/10")}})
	for addr, role := range map[string]string{
		"127.0.0.1:1": "analyst", "[::1]:1": "analyst", "[::ffff:127.0.0.1]:1": "analyst", "10.1.2.3:1": "viewer",
		"[fe80::1%eth0]:1": "viewer", "10.2.0.1:1": "", "192.0.2.1:1": "", "[2001:db8::1]:1": "",
	} {
		id, err := b.Authenticate(t.Context(), "", netip.MustParseAddrPort(addr))
		if id.Role != role || (err == nil) != (role != "") || role != "" && (id.Via != "anonymous" || id.Name != "anonymous" || id.Project == "" || id.Rights == 0) {
			t.Errorf("%s: %+v, %v; want %q", addr, id, err, role)
		}
	}
	if _, err := b.Authenticate(t.Context(), "wrong", netip.MustParseAddrPort("127.0.0.1:1")); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a wrong token falls back to anonymous: %v", err)
	}
	if _, err := b.Authenticate(t.Context(), "", netip.AddrPort{}); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("no address: %v", err)
	}
	any := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	for _, g := range []Grant{{Role: "admin", Ranges: any}, {Role: "", Ranges: any}, {Role: "viewer"}, {Role: "viewer", Ranges: make([]netip.Prefix, 1)}} {
		if _, err := New(b.store, Config{Anonymous: []Grant{g}}, nil); err == nil {
			t.Errorf("accepted %+v", g)
		}
	}
}

func TestThrottle(t *testing.T) {
	b := start(t, nil)
	text, _ := b.create(t, Spec{Name: "ann", Role: "viewer"})
	kinds := map[fault.Kind]int{}
	var last error
	for range 30 {
		_, last = b.Authenticate(t.Context(), "ot_wrong", peer)
		kinds[fault.KindOf(last)]++
	}
	var f *fault.Error
	if kinds[fault.Unauthenticated] != wrongBurst || kinds[fault.Exhausted] != 30-wrongBurst || !errors.As(last, &f) || f.RetryAfter != wrongInterval {
		t.Errorf("%v, then %+v", kinds, last)
	}
	if _, err := b.Authenticate(t.Context(), text, peer); err != nil {
		t.Errorf("the right token from a throttled address: %v", err)
	}
	b.clock.add(wrongInterval)
	if _, err := b.Authenticate(t.Context(), "ot_wrong", peer); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("after waiting: %v", err)
	}
	if _, err := b.Authenticate(t.Context(), "ot_wrong", peer); !fault.Is(err, fault.Exhausted) {
		t.Errorf("and again: %v", err)
	}
	th := newThrottle()
	for i := range 3 * wrongMemory {
		th.failed(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), b.clock.now())
	}
	if len(th.full) > wrongMemory {
		t.Errorf("%d addresses remembered", len(th.full))
	}
	for i := range 100 { // one subscriber's /64
		var a [16]byte
		a[0], a[15] = 0x20, byte(i)
		th.failed(netip.AddrFrom16(a), b.clock.now())
	}
	if th.failed(netip.MustParseAddr("2000::ffff"), b.clock.now()) == 0 {
		t.Error("addresses of one /64 are counted apart")
	}
}

func TestFirstStart(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.token")
	outside := filepath.Join(dir, "outside")
	if err := os.Symlink(outside, path+".new"); err != nil {
		t.Fatal(err)
	}
	b := start(t, nil)
	text, err := b.FirstStart(t.Context(), path)
	if err != nil || text == "" {
		t.Fatal(text, err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(outside); err == nil {
		t.Error("wrote through a link")
	}
	kept, _ := os.ReadFile(path)
	if string(kept) != text+"\n" {
		t.Errorf("file: %q", kept)
	}
	idText, _, _ := split(text)
	b.await(t, idText, func(e *entry) bool { return e != nil })
	id, err := b.Authenticate(t.Context(), text, peer)
	if err != nil || !id.May(Everything) || id.Name != "admin" {
		t.Errorf("%+v, %v", id, err)
	}
	os.Remove(path)
	if again, err := b.FirstStart(t.Context(), path); again != "" || err != nil {
		t.Errorf("second start: %q, %v", again, err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a second start made a file")
	}
	fresh, err := b.ResetAdmin(t.Context(), path)
	if err != nil || fresh == "" || fresh == text {
		t.Fatal(fresh, err)
	}
	b.await(t, idText, func(e *entry) bool { return !e.token.Revoked.IsZero() })
	if _, err := b.Authenticate(t.Context(), text, peer); err == nil {
		t.Error("the old token works after a reset")
	}
	if _, err := b.Authenticate(t.Context(), fresh, peer); err != nil {
		t.Errorf("the new one does not: %v", err)
	}
}

// TestFirstStartCutShort stops between the steps and starts again.
func TestFirstStartCutShort(t *testing.T) {
	for _, valid := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "admin.token")
		s := mem.New(mem.Config{})
		a, _ := New(s, Config{}, slog.New(slog.DiscardHandler))
		r, text := a.draft(adminSpec, "first start")
		if err := writeSecret(path+".new", text); err != nil {
			t.Fatal(err)
		}
		if valid {
			if _, err := s.Txn(t.Context(), nil, append(r.puts(), store.Put(adminKey, []byte(r.ID)))); err != nil {
				t.Fatal(err)
			}
		}
		got, err := a.FirstStart(t.Context(), path)
		kept, rerr := os.ReadFile(path)
		if err != nil || rerr != nil || valid == (got != "") {
			t.Fatalf("valid %v: %q, %v, %v", valid, got, err, rerr)
		}
		if got == "" {
			got = text
		}
		if string(kept) != got+"\n" {
			t.Errorf("valid %v: file %q, want %q", valid, kept, got)
		}
	}
}

func TestFirstStartByMany(t *testing.T) {
	s := mem.New(mem.Config{})
	var wg sync.WaitGroup
	made := make(chan string, 8)
	for range 8 {
		path := filepath.Join(t.TempDir(), "admin.token")
		wg.Add(1)
		go func() {
			defer wg.Done()
			a, _ := New(s, Config{}, slog.New(slog.DiscardHandler))
			text, err := a.FirstStart(t.Context(), path)
			if err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(path); (err == nil) != (text != "") {
				t.Errorf("token %q, file: %v", text, err)
			}
			if text != "" {
				made <- text
			}
		}()
	}
	wg.Wait()
	if len(made) != 1 {
		t.Errorf("%d controllers made a token", len(made))
	}
}

func TestAuthenticateIsCheap(t *testing.T) {
	b := start(t, nil)
	text, _ := b.create(t, Spec{Name: "ann", Role: "viewer"})
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { b.Authenticate(ctx, text, peer) }); n > 2 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("ot_aaaaaaaaaaaaaaaa_" + strings.Repeat("b", 52))
	f.Add("ot__")
	f.Add("")
	b := start(f, nil)
	f.Fuzz(func(t *testing.T, text string) {
		if id, secret, ok := split(text); ok && "ot_"+id+"_"+secret != text {
			t.Errorf("%q is not %q and %q", text, id, secret)
		}
		if text != "" {
			if id, err := b.Authenticate(t.Context(), text, peer); err == nil || id != (Identity{}) {
				t.Errorf("%q let in %+v", text, id)
			}
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	s := start(b, nil)
	text, _ := s.create(b, Spec{Name: "ann", Role: "viewer"})
	b.ReportAllocs()
	for b.Loop() {
		s.Authenticate(b.Context(), text, peer)
	}
}
