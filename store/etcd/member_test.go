package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"opentap/store"
	"opentap/store/storetest"
)

// cluster starts a server of its own behind a unix socket.
func cluster(t *testing.T) (sock string, stop func()) {
	t.Helper()
	dir := t.TempDir()
	sock = fmt.Sprintf("unix://%s/c", dir)
	cfg := embed.NewConfig()
	cfg.Dir, cfg.Name, cfg.Metrics = dir+"/data", "cluster", "basic"
	client, _ := url.Parse(sock)
	peer, _ := url.Parse(fmt.Sprintf("unix://%s/p", dir))
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.EnableGRPCGateway = false
	cfg.TickMs, cfg.ElectionMs = 50, 250
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapTo(slog.New(slog.DiscardHandler), nil))
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(server.Close)
	t.Cleanup(stop)
	<-server.Server.ReadyNotify()
	return sock, stop
}

// TestClusterAway: while nobody answers, a request ends and says so.
func TestClusterAway(t *testing.T) {
	sock, stop := cluster(t)
	s := open(t, Config{Endpoints: []string{sock}, Patience: 500 * time.Millisecond})
	stop()
	if _, err := s.Txn(t.Context(), nil, []store.Op{store.Put("k", nil)}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a change: %v", err)
	}
	if _, err := s.Get(t.Context(), "k"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a read: %v", err)
	}
}

// TestCluster runs the suite over the network code.
func TestCluster(t *testing.T) {
	sock, _ := cluster(t)
	n := 0
	storetest.Run(t, func(t *testing.T) store.Store {
		n++
		return open(t, Config{Endpoints: []string{sock}, Prefix: fmt.Sprintf("test%d/", n)})
	})
	// Another's keys are not ours.
	a, b := open(t, Config{Endpoints: []string{sock}, Prefix: "a/"}), open(t, Config{Endpoints: []string{sock}, Prefix: "b/"})
	if _, err := a.Txn(t.Context(), nil, []store.Op{store.Put("k", nil)}); err != nil {
		t.Fatal(err)
	}
	if kvs, _, err := b.List(t.Context(), ""); err != nil || len(kvs) != 0 {
		t.Errorf("keys under another prefix are seen: %v, %v", kvs, err)
	}
}

func TestOpenRefusals(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	silent, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, c := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"nothing", Config{}, "neither"},
		{"both", Config{Dir: "x", Endpoints: []string{"y"}}, "choose one"},
		{"password in the clear", Config{Endpoints: []string{"192.0.2.1:2379"}, Username: "u"}, "without TLS"},
		{"no authorities", Config{Endpoints: []string{"192.0.2.1:2379"}, TLS: TLS{CAFile: "/nonexistent"}}, "/nonexistent"},
		{"certificate without key", Config{Endpoints: []string{"192.0.2.1:2379"}, TLS: TLS{CertFile: "x"}}, "both"},
		{"no answer", Config{Endpoints: []string{"unix://" + silent.Addr().String()}, StartTimeout: 200 * time.Millisecond}, "no answer within 200ms"},
		{"a file for a directory", Config{Dir: os.Args[0]}, "open store"},
	} {
		s, err := Open(t.Context(), c.cfg, log)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestNoListener: nothing of an open store can be connected to.
func TestNoListener(t *testing.T) {
	s := open(t, Config{})
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("needs /proc")
	}
	for _, fd := range fds {
		if target, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(target, "socket:") {
			t.Errorf("descriptor %s is %s", fd.Name(), target)
		}
	}
	info, _ := os.Stat(s.member.dir)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("directory mode %v", info.Mode())
	}
}

// TestRestart keeps values, revisions and the right to continue, over clean restarts and etcd's own snapshots.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	var rev int64
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 400 { // beyond a snapshot of the log
				if _, err := s.Txn(context.Background(), nil, []store.Op{store.Put(fmt.Sprintf("k%d", (i+w)%50), make([]byte, 100))}); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	before, rev, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.Close()
		began := time.Now()
		s = open(t, Config{Dir: dir})
		t.Logf("opened in %v", time.Since(began))
		after, rev2, err := s.List(t.Context(), "")
		if err != nil || rev2 != rev || len(after) != len(before) || after[0].ModRevision != before[0].ModRevision {
			t.Fatalf("%d keys at %d before, %d at %d after (%v)", len(before), rev, len(after), rev2, err)
		}
		if b := <-s.Watch(t.Context(), "", rev-3); b.Revision != rev-3 {
			t.Errorf("history is lost: %+v", b)
		}
	}
}

// TestQuota fills the store: puts are refused clearly, deletes are taken, and space that was freed is used again.
func TestQuota(t *testing.T) {
	s := open(t, Config{QuotaBytes: 8 << 20})
	ctx := t.Context()
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		_, err = s.Txn(ctx, nil, []store.Op{store.Put(fmt.Sprintf("k%d", n), make([]byte, 500_000))})
	}
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("after %d puts: %v", n, err)
	}
	kvs, _, err := s.List(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs {
		if _, err := s.Txn(ctx, nil, []store.Op{store.Delete(kv.Key)}); err != nil {
			t.Fatalf("delete while full: %v", err)
		}
	}
	if _, err := s.Txn(ctx, nil, []store.Op{store.Put("again", make([]byte, 500_000))}); err != nil {
		t.Errorf("after deleting: %v", err)
	}
}

// TestFailed lets etcd ask for the end of the process: the store fails instead, and every call and watch says so.
func TestFailed(t *testing.T) {
	s := open(t, Config{})
	_, rev, _ := s.List(t.Context(), "")
	watch := s.Watch(t.Context(), "", rev+1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.member.server.Logger().Fatal("no space left for the log")
	}()
	<-done
	<-s.Failed()
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("%v", err)
	}
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Txn(t.Context(), nil, []store.Op{store.Put("a", nil)}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("txn: %v", err)
	}
	s.Close()
	if b := <-watch; !errors.Is(b.Err, store.ErrClosed) {
		t.Errorf("watch: %+v", b)
	}
}

func BenchmarkPut(b *testing.B) {
	s := open(b, Config{})
	v := make([]byte, 512)
	for b.Loop() {
		if _, err := s.Txn(b.Context(), nil, []store.Op{store.Put("k", v)}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenFirst(b *testing.B) {
	for b.Loop() {
		open(b, Config{Dir: b.TempDir()}).Close()
	}
}

func BenchmarkGet(b *testing.B) {
	s := open(b, Config{})
	s.Txn(b.Context(), nil, []store.Op{store.Put("k", make([]byte, 512))})
	for b.Loop() {
		if _, err := s.Get(b.Context(), "k"); err != nil {
			b.Fatal(err)
		}
	}
}
