package agentapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"opentap/fault"
	"opentap/ledger"
	"opentap/point"
	"opentap/tap"
	"opentap/want"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fleet is a controller that remembers what it was told.
type fleet struct {
	mu        sync.Mutex
	changed   chan struct{}
	joined    int
	left      int
	points    []point.Point
	revision  int64
	statuses  map[string]want.Status
	desired   []want.Capture
	recorders []want.Recorder
	tapSet    tap.Set
	taps      []tap.Status
	rev       int64
	fail      error
}

func newFleet() *fleet {
	return &fleet{changed: make(chan struct{}), statuses: make(map[string]want.Status), rev: 1}
}

func (f *fleet) update(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fleet) Joined(Identity) { f.update(func() { f.joined++ }) }
func (f *fleet) Left(string)     { f.update(func() { f.left++ }) }
func (f *fleet) Inventory(_ string, p []point.Point, _ want.Node) {
	f.update(func() { f.points = p })
}

func (f *fleet) Actual(_ string, rev int64, st []want.Status, _ bool) {
	f.update(func() {
		f.revision = rev
		for _, s := range st {
			f.statuses[s.UID] = s
		}
	})
}

func (f *fleet) TapStates(_ string, st []tap.Status) { f.update(func() { f.taps = st }) }

func (f *fleet) Desired(context.Context, string) (Desired, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Desired{Revision: f.rev, Captures: f.desired, Recorders: f.recorders, Taps: f.tapSet}, f.fail
}

// await waits until ok holds, with f.mu held.
func (f *fleet) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		f.mu.Lock()
		done, changed := ok(), f.changed
		f.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// local is an agent without a host.
type local struct {
	mu        sync.Mutex
	revision  int64
	captures  []want.Capture
	recorders []want.Recorder
	taps      tap.Set
	refuse    int // so many desired sets fail
	data      []byte
	opened    int
	closed    int
	block     chan struct{} // reads wait for it
	failAt    int           // > 0: a read breaks there
}

func (l *local) Obey(d Desired) error {
	revision, captures := d.Revision, d.Captures
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse > 0 {
		l.refuse--
		return errors.New("the disk is not there yet")
	}
	if revision < l.revision {
		return fmt.Errorf("%w: %d", ErrStale, revision)
	}
	l.revision, l.captures, l.recorders, l.taps = revision, captures, d.Recorders, d.Taps
	return nil
}

func (l *local) Actual() (int64, []want.Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []want.Status
	for _, c := range l.captures {
		out = append(out, want.Status{UID: c.UID, State: want.Running})
	}
	return l.revision, out
}

func (l *local) TapStates() []tap.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []tap.Status
	for _, s := range l.taps.Sources {
		out = append(out, tap.Status{ID: s.ID, State: tap.Active})
	}
	return out
}

func (l *local) Inventory() ([]point.Point, want.Node) {
	return []point.Point{{Name: "eth0"}}, want.Node{}
}

func (l *local) Open(_ context.Context, uid string, o want.OpenOptions) (*want.Retrieval, error) {
	if uid != "known" {
		return nil, &fault.Error{Kind: fault.NotFound, Msg: "no such capture", Hint: "look again", Field: "id", RetryAfter: time.Second}
	}
	l.mu.Lock()
	l.opened++
	l.mu.Unlock()
	return &want.Retrieval{
		Format: o.Format, FileName: "f", Size: int64(len(l.data)), ETag: "e", Final: true, Ledger: ledger.Account{Seen: 7, Captured: 7}, Records: 3,
		Write: func(ctx context.Context, w io.Writer, offset, length int64) error {
			if l.block != nil {
				select {
				case <-l.block:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			end := int64(len(l.data))
			if length >= 0 {
				end = min(end, offset+length)
			}
			if l.failAt > 0 {
				_, err := w.Write(l.data[offset:l.failAt])
				return errors.Join(err, fault.New(fault.Internal, "the disk broke"))
			}
			_, err := w.Write(l.data[offset:end])
			return err
		},
		Close: func() error { l.mu.Lock(); l.closed++; l.mu.Unlock(); return nil },
	}, nil
}

type pair struct {
	hub   *Hub
	link  *Link
	fleet *fleet
	local *local
	stop  func()
}

// join connects an agent and a controller in memory.
func join(t *testing.T, l *local) *pair {
	t.Helper()
	p := &pair{fleet: newFleet(), local: l}
	log := slog.New(slog.DiscardHandler)
	p.hub = NewHub(p.fleet, log)
	lis := bufconn.Listen(1 << 16)
	srv := grpc.NewServer(ServerOptions()...)
	p.hub.Register(srv)
	var running sync.WaitGroup
	running.Go(func() { _ = srv.Serve(lis) })
	cc, err := grpc.NewClient("passthrough:///test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	p.link = NewLink(Identity{NodeID: "n1", NodeName: "host1", Version: "test"}, l, log)
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() {
		if err := p.link.Run(ctx, cc); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	p.stop = sync.OnceFunc(func() {
		cancel()
		_ = cc.Close()
		srv.Stop()
		running.Wait()
	})
	t.Cleanup(p.stop)
	p.fleet.await(t, "the agent has joined", func() bool { return p.fleet.joined > 0 && len(p.fleet.points) == 1 })
	return p
}

func TestDesiredGoesDownAndActualComesUp(t *testing.T) {
	p := join(t, &local{})
	p.fleet.update(func() {
		p.fleet.rev, p.fleet.desired = 5, []want.Capture{{UID: "a", ID: "x"}}
		p.fleet.recorders = []want.Recorder{{Point: "eth1", Bytes: 1 << 30}}
		p.fleet.tapSet = tap.Set{Sources: []tap.Source{{ID: "f1", Direction: tap.Both}}}
	})
	p.hub.Kick("n1")
	p.fleet.await(t, "revision 5 is taken", func() bool { return p.fleet.revision == 5 && p.fleet.statuses["a"].State == want.Running })
	p.local.mu.Lock()
	if got := p.local.recorders; len(got) != 1 || got[0].Point != "eth1" || got[0].Bytes != 1<<30 {
		t.Errorf("recorders %+v", got)
	}
	if got := p.local.taps; len(got.Sources) != 1 || got.Sources[0].ID != "f1" {
		t.Errorf("taps %+v", got)
	}
	p.local.mu.Unlock()
	p.link.StatusChanged(want.Status{UID: "a", State: want.Done, Reason: "over"})
	p.fleet.await(t, "the change is known", func() bool { return p.fleet.statuses["a"].State == want.Done })
}

func TestADesiredSetThatFailsIsSentAgain(t *testing.T) {
	p := join(t, &local{refuse: 2})
	p.fleet.update(func() { p.fleet.rev, p.fleet.desired = 6, []want.Capture{{UID: "a"}} })
	p.hub.Kick("n1")
	p.fleet.await(t, "revision 6 is taken", func() bool { return p.fleet.revision == 6 })
}

func TestAStoreThatFailsIsAskedAgain(t *testing.T) {
	p := join(t, &local{})
	p.fleet.update(func() { p.fleet.fail = errors.New("no leader") })
	p.hub.Kick("n1")
	p.fleet.update(func() { p.fleet.fail, p.fleet.rev = nil, 9 })
	p.fleet.await(t, "revision 9 is taken", func() bool { return p.fleet.revision == 9 })
}

func TestAnOlderSetIsRefusedAndTheSessionLives(t *testing.T) {
	p := join(t, &local{})
	p.fleet.update(func() { p.fleet.rev = 8 })
	p.hub.Kick("n1")
	p.fleet.await(t, "revision 8 is taken", func() bool { return p.fleet.revision == 8 })
	p.fleet.update(func() { p.fleet.rev, p.fleet.revision = 3, 0 })
	p.hub.Kick("n1")
	p.fleet.await(t, "the agent says what it holds", func() bool { return p.fleet.revision == 8 })
	if p.fleet.joined != 1 {
		t.Errorf("joined %d times", p.fleet.joined)
	}
}

func TestRetrieval(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 100_000) // many chunks
	l := &local{data: data}
	p := join(t, l)
	r, err := p.hub.Open(t.Context(), "n1", "host1", "known", want.OpenOptions{Format: want.PcapNG})
	if err != nil {
		t.Fatal(err)
	}
	if r.Size != int64(len(data)) || r.Ledger.Seen != 7 || r.Records != 3 || !r.Final || r.ETag != "e" {
		t.Errorf("retrieval = %+v", r)
	}
	for _, part := range []struct{ offset, length int64 }{{0, -1}, {1_000_001, -1}, {5, 10}, {0, 0}} {
		var b bytes.Buffer
		if err := r.Write(t.Context(), &b, part.offset, part.length); err != nil {
			t.Fatal(err)
		}
		wantEnd := int64(len(data))
		if part.length >= 0 {
			wantEnd = part.offset + part.length
		}
		if !bytes.Equal(b.Bytes(), data[part.offset:wantEnd]) {
			t.Errorf("part %+v: %d octets, not the ones asked for", part, b.Len())
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	p.stop()
	if l.closed != 1 {
		t.Errorf("closed %d times", l.closed)
	}
}

func TestOpenFaultsKeepTheirMeaning(t *testing.T) {
	p := join(t, &local{})
	_, err := p.hub.Open(t.Context(), "n1", "host1", "unknown", want.OpenOptions{})
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.NotFound || f.Hint != "look again" || f.Field != "id" || f.RetryAfter != time.Second {
		t.Errorf("error = %#v", err)
	}
	if _, err := p.hub.Open(t.Context(), "n2", "host2", "known", want.OpenOptions{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("unknown node: %v", err)
	}
}

func TestABrokenReadIsNeverACleanEnd(t *testing.T) {
	p := join(t, &local{data: make([]byte, 1<<20), failAt: 1000})
	r, err := p.hub.Open(t.Context(), "n1", "host1", "known", want.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.Write(t.Context(), &b, 0, -1); err == nil || err.Error() != "the disk broke" {
		t.Errorf("error = %v after %d octets", err, b.Len())
	}
}

// brokenWriter is a client that goes away.
type brokenWriter struct{ after int }

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.after -= len(p); w.after < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestAReaderThatGoesAwayHoldsUpNobody(t *testing.T) {
	p := join(t, &local{data: make([]byte, 8<<20)})
	r, err := p.hub.Open(t.Context(), "n1", "host1", "known", want.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(t.Context(), &brokenWriter{after: 1 << 20}, 0, -1); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error = %v", err)
	}
	if err := r.Write(t.Context(), io.Discard, 0, -1); err != nil {
		t.Errorf("another read: %v", err)
	}
}

func TestACancelledReadEnds(t *testing.T) {
	p := join(t, &local{data: make([]byte, 10), block: make(chan struct{})})
	r, err := p.hub.Open(t.Context(), "n1", "host1", "known", want.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := r.Write(ctx, io.Discard, 0, -1); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
}

func TestAgentGoneDuringARead(t *testing.T) {
	p := join(t, &local{data: make([]byte, 10), block: make(chan struct{})})
	r, err := p.hub.Open(t.Context(), "n1", "host1", "known", want.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Write(context.Background(), io.Discard, 0, -1) }()
	p.stop()
	if err := <-done; !fault.Is(err, fault.Unavailable) {
		t.Errorf("error = %v, want unavailable", err)
	}
	if p.fleet.left == 0 {
		t.Error("the controller was not told")
	}
}
