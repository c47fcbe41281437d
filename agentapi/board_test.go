package agentapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"opentap/fault"
	"opentap/want"
)

// house is a controller with a board, reached in memory.
type house struct {
	t     *testing.T
	id    string
	fleet *fleet
	board *Board
	lis   *bufconn.Listener
	srv   *grpc.Server
	stop  func()

	mu      sync.Mutex
	others  []Peer
	changed chan struct{}
	all     map[string]*house // by id: the way to the others
}

func newHouse(t *testing.T, id string, all map[string]*house) *house {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	h := &house{t: t, id: id, fleet: newFleet(), lis: bufconn.Listen(1 << 16), changed: make(chan struct{}), all: all}
	h.board = NewBoard(h.fleet, log)
	hub := NewHub(h.board, log)
	h.board.SetHub(hub)
	h.srv = grpc.NewServer(ServerOptions()...)
	hub.Register(h.srv)
	h.board.Register(h.srv)
	all[id] = h
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() { _ = h.srv.Serve(h.lis) })
	running.Go(func() { _ = h.board.Run(ctx, h, func() {}) })
	h.stop = sync.OnceFunc(func() { h.srv.Stop(); cancel(); running.Wait() })
	t.Cleanup(h.stop)
	return h
}

func (h *house) meet(other *house) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.others = append(h.others, Peer{ID: other.id, Name: other.id, Address: other.id})
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *house) Others() []Peer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Peer(nil), h.others...)
}

func (h *house) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

func (h *house) Dial(p Peer) (*grpc.ClientConn, error)        { return h.all[p.ID].dial() }
func (h *house) DropController(context.Context, string) error { return nil }

func (h *house) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+h.id, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return h.lis.DialContext(ctx) }))
}

// agentAt keeps an agent's sessions with the house that to names.
func agentAt(t *testing.T, l *local, to func() *house) *Link {
	t.Helper()
	link := NewLink(Identity{NodeID: "n1", NodeName: "host1", Version: "test"}, l, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = link.RunDialing(ctx, func(context.Context) (*grpc.ClientConn, error) { return to().dial() })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return link
}

func TestAnAgentIsServedByEveryController(t *testing.T) {
	all := make(map[string]*house)
	a, b := newHouse(t, "a", all), newHouse(t, "b", all)
	a.meet(b)
	b.meet(a)
	data := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	link := agentAt(t, &local{data: data}, func() *house { return a })
	b.fleet.await(t, "the other controller knows its points", func() bool { return b.fleet.joined == 1 && len(b.fleet.points) == 1 })

	// What is so, and what changes.
	a.fleet.update(func() { a.fleet.rev, a.fleet.desired = 5, []want.Capture{{UID: "u", ID: "x"}} })
	a.board.Kick("n1")
	b.fleet.await(t, "the other one knows its state", func() bool { return b.fleet.revision == 5 && b.fleet.statuses["u"].State == want.Running })
	link.StatusChanged(want.Status{UID: "u", State: want.Done, Reason: "over"})
	b.fleet.await(t, "the other one knows the change", func() bool { return b.fleet.statuses["u"].State == want.Done })

	// Data, whole and in part; faults keep their meaning.
	r, err := b.board.Open(t.Context(), "n1", "host1", "known", want.OpenOptions{Format: want.PcapNG})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct{ offset, length int64 }{{0, -1}, {1_000_001, -1}, {5, 10}, {0, 0}} {
		var got bytes.Buffer
		end := int64(len(data))
		if part.length >= 0 {
			end = part.offset + part.length
		}
		if err := r.Write(t.Context(), &got, part.offset, part.length); err != nil || !bytes.Equal(got.Bytes(), data[part.offset:end]) {
			t.Errorf("part %+v: %d octets, %v", part, got.Len(), err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	var f *fault.Error
	if _, err := b.board.Open(t.Context(), "n1", "host1", "unknown", want.OpenOptions{}); !errors.As(err, &f) || f.Kind != fault.NotFound || f.Hint != "look again" {
		t.Errorf("a fault of the agent: %v", err)
	}
	if _, err := b.board.Open(t.Context(), "n9", "host9", "known", want.OpenOptions{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a node that nobody has: %v", err)
	}

	// Live, with a good end, a refusal, and a reader that goes away.
	end := make(chan struct{})
	w := &signalling{first: make(chan struct{})}
	go func() { <-w.first; close(end) }()
	if err := b.board.Stream(t.Context(), end, "n1", "host1", spec(""), w); err != nil || w.String() != "head host1/eth0 tail" {
		t.Errorf("live: %q, %v", w.String(), err)
	}
	if err := b.board.Stream(t.Context(), nil, "n1", "host1", spec("refuse"), &bytes.Buffer{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("live that is refused: %v", err)
	}
	if err := b.board.Stream(t.Context(), nil, "n1", "host1", spec("flood"), &brokenWriter{after: 1 << 20}); err == nil {
		t.Error("live for a reader that goes away ends well")
	}
	a.stop()
	b.fleet.await(t, "its agent is gone", func() bool { return b.fleet.left == 1 })
	if _, err := b.board.Open(t.Context(), "n1", "host1", "known", want.OpenOptions{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after that: %v", err)
	}
}

func TestASessionElsewhereEndsTheOneHere(t *testing.T) {
	all := make(map[string]*house)
	a, b := newHouse(t, "a", all), newHouse(t, "b", all)
	a.meet(b)
	b.meet(a)
	agentAt(t, &local{}, func() *house { return a })
	b.fleet.await(t, "it is known at both", func() bool { return len(b.fleet.points) == 1 })
	// The agent comes to b while a still believes to have it, as when a's network is cut.
	second := agentAt(t, &local{}, func() *house { return b })
	_ = second
	deadline := time.Now().Add(20 * time.Second)
	for {
		p := b.board.place("n1")
		p.mu.Lock()
		here := p.peer == nil && !p.gone
		newest := p.id.Session
		p.mu.Unlock()
		q := a.board.place("n1")
		q.mu.Lock()
		there := q.id.Session == newest
		q.mu.Unlock()
		if here && there {
			return // both know the same session
		}
		if time.Now().After(deadline) {
			t.Fatal("the two controllers never agree where the agent is")
		}
		time.Sleep(time.Millisecond)
	}
}

// More sessions than may begin at a time: those that wait in vain are asked to come later.
func TestFewBeginAtATime(t *testing.T) {
	h := NewHub(newFleet(), slog.New(slog.DiscardHandler))
	var dones []func()
	for i := range beginners {
		done, later, err := h.turn(t.Context(), fmt.Sprint(i))
		if err != nil || later != 0 {
			t.Fatal(later, err)
		}
		dones = append(dones, done)
	}
	waited := make(chan time.Duration, 1)
	go func() {
		done, later, _ := h.turn(context.Background(), "one too many")
		if done != nil {
			done()
		}
		waited <- later
	}()
	if later := <-waited; later < comeLater/2 || later > 2*comeLater || h.TurnedAway() != 1 {
		t.Errorf("asked to come after %s, %d turned away", later, h.TurnedAway())
	}
	for _, done := range dones {
		done()
		done() // once counts
	}
	if len(h.begin) != 0 {
		t.Errorf("%d places are still taken", len(h.begin))
	}
	if got := asked(&laterError{time.Second}); got != time.Second {
		t.Errorf("the agent waits %s", got)
	}
	if got := asked(errors.New("x")); got != 0 {
		t.Errorf("unasked it waits %s", got)
	}
}
