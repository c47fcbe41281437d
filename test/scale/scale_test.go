package scale

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"opentap/agentapi"
	"opentap/audit"
	"opentap/auth"
	"opentap/controller"
	"opentap/fleet"
	"opentap/store"
	"opentap/store/mem"
	"opentap/want"
)

// paper is an audit log that keeps nothing.
type paper struct{}

func (paper) Append(context.Context, audit.Entry) error { return nil }

var admin = auth.Identity{Name: "admin", Project: auth.DefaultProject, Role: "admin", Rights: auth.Everything}

// place is a controller with its doors for agents.
type place struct {
	*controller.Controller
	reg     *fleet.Registry
	hub     *agentapi.Hub
	address string
	stop    func()
}

// open starts a controller at an address; "127.0.0.1:0" = any.
func open(t *testing.T, st store.Store, id, address string) *place {
	t.Helper()
	var l net.Listener
	within(t, 10*time.Second, "the address is free", func() (ok bool) { var err error; l, err = net.Listen("tcp", address); return err == nil })
	log := slog.New(slog.DiscardHandler)
	p := &place{address: l.Addr().String()}
	var err error
	p.reg, err = fleet.Open(t.Context(), fleet.Config{ID: id, Name: id, Advertise: p.address}, st, paper{}, log)
	if err != nil {
		t.Fatal(err)
	}
	cfg := controller.DefaultConfig()
	cfg.CapturesMax, cfg.SettleWait = 0, 30*time.Second // what takes long is told, not failed
	cfg.Taps = controller.TapQuota{}
	p.Controller = controller.New(cfg, st, paper{}, log)
	board := agentapi.NewBoard(p.Controller, log)
	p.hub = agentapi.NewHub(board, log)
	board.SetHub(p.hub)
	p.SetHub(board)
	p.SetMembership(p.reg)
	srv := p.reg.Server()
	p.hub.Register(srv)
	board.Register(srv)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func() error{
		func() error { return p.Run(ctx) }, func() error { return p.reg.Run(ctx) },
		func() error { return board.Run(ctx, p.reg, func() {}) },
		func() error {
			if err := srv.Serve(l); err != grpc.ErrServerStopped {
				return err
			}
			return nil
		},
	} {
		running.Go(func() {
			if err := run(); err != nil {
				t.Errorf("controller %s: %v", id, err)
			}
		})
	}
	p.stop = sync.OnceFunc(func() {
		srv.Stop()
		cancel()
		running.Wait()
	})
	t.Cleanup(p.stop)
	return p
}

func within(t *testing.T, d time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		asked := time.Now()
		if ok() {
			return time.Since(began)
		}
		if time.Since(began) > d {
			t.Fatalf("after %s still not: %s", d, what)
		}
		time.Sleep(max(100*time.Millisecond, 10*time.Since(asked))) // asking costs too
	}
}

// connected counts the nodes, of the first so many, with a session of which a controller knows what they have.
func (p *place) connected(of int) int {
	n := 0
	for i := range of {
		if p.Reached(nodeID(i)) {
			n++
		}
	}
	return n
}

// behind counts the nodes that have not taken what is wanted.
func (p *place) behind() int {
	n := 0
	for _, k := range p.Tally().Nodes {
		if k.Behind || !k.Connected {
			n++
		}
	}
	return n
}

// memory is what the process holds, octets, once what is not needed was given back.
func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// joining is how many agents are let in before it is looked whether those before them have come.
const joining = 200

func TestFleetOfThousands(t *testing.T) {
	size := 1000
	switch {
	case testing.Short():
		size = 100
	case os.Getenv("OPENTAP_LONG") == "1":
		size = 10_000
	}
	if n, err := strconv.Atoi(os.Getenv("OPENTAP_SCALE")); err == nil {
		size = n
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if int(files.Cur) < size+1000 {
		t.Skipf("needs %d open files, and %d are allowed (ulimit -n)", size+1000, files.Cur)
	}
	patience := 60*time.Second + time.Duration(size)*100*time.Millisecond
	st := mem.New(mem.Config{})
	t.Cleanup(func() { _ = st.Close() }) // after the controllers
	a, b := open(t, st, "aaaaaaaaaaaaaaaa", "127.0.0.1:0"), open(t, st, "bbbbbbbbbbbbbbbb", "127.0.0.1:0")
	empty := memory()

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GOGC=400", fmt.Sprintf("%s=%s,%s|%s", agentsEnv, a.address, b.address, t.TempDir())) // their memory is not what is measured
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe() // they end when it does
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	began := time.Now()
	for i := range size { // hosts are installed one after the other; that they all come at once is tried below
		j, err := a.CreateJoinToken(t.Context(), admin, want.JoinTokenRequest{})
		if err == nil {
			_, err = io.WriteString(in, j.Token+"\n")
		}
		if err != nil {
			t.Fatal(err)
		}
		if i%joining == joining-1 {
			within(t, patience, "those that were let in have joined", func() bool { return a.connected(size) > i-joining })
		}
	}
	all := func() bool { return a.connected(size) == size && b.connected(size) == size }
	within(t, patience, "all agents are there", all)
	t.Logf("%d agents joined, up to %d at a time, and were known to both controllers after %s", size, 2*joining, time.Since(began).Round(time.Millisecond))
	each := (memory() - empty) / int64(size)
	t.Logf("an agent takes %d KiB of two controllers in one process, half of that where it is connected to", each>>10)
	if limit := int64(400 << 10); each > limit {
		t.Errorf("an agent takes %d octets, more than %d", each, limit)
	}

	// Two captures for each agent, half of them asked of the controller that it is not connected to.
	var mu sync.Mutex
	var took []time.Duration
	var load sync.WaitGroup
	work := make(chan int)
	began = time.Now()
	for range 16 {
		load.Go(func() {
			for i := range work {
				c := []*place{a, b}[i%2]
				one := time.Now()
				v, _, err := c.CreateCapture(t.Context(), admin, want.Request{Kind: want.Packets, Points: []string{fmt.Sprintf("host%05d/eth%d", i/2, i%2)}})
				if err != nil || v.Status.State != want.Running {
					t.Errorf("capture %d: %s (%s), %v", i, v.Status.State, v.Status.Reason, err)
				}
				mu.Lock()
				took = append(took, time.Since(one))
				mu.Unlock()
			}
		})
	}
	for i := range 2 * size {
		if t.Failed() {
			break
		}
		work <- i
	}
	close(work)
	load.Wait()
	if t.Failed() {
		return
	}
	slices.Sort(took)
	t.Logf("%d captures in %s, 16 at a time: from POST to running %s median, %s at 99 %%", 2*size, time.Since(began).Round(time.Millisecond),
		took[len(took)/2].Round(time.Microsecond), took[len(took)*99/100].Round(time.Microsecond))
	within(t, patience, "no agent is behind", func() bool { return a.behind() == 0 && b.behind() == 0 })
	tapThem(t, a, b, size, patience)

	// A controller is lost: its agents come to the other, which goes on serving.
	a.stop()
	lost := size - b.connected(size)
	d := within(t, patience, "all agents are at the controller that is left", func() bool { return b.connected(size) == size })
	t.Logf("a controller with %d agents or more was lost: all were at the other after %s", lost, d.Round(time.Millisecond))
	one := time.Now()
	if _, _, err := b.CreateCapture(t.Context(), admin, want.Request{Kind: want.Packets, Points: []string{"host00000/lo"}}); err != nil {
		t.Fatal(err)
	}
	t.Logf("a capture then took %s", time.Since(one).Round(time.Microsecond))

	// Both are lost and come back: all agents come at once.
	b.stop()
	a, b = open(t, st, "aaaaaaaaaaaaaaaa", a.address), open(t, st, "bbbbbbbbbbbbbbbb", b.address)
	d = within(t, patience, "all agents are back", all)
	t.Logf("both were lost: all agents were back, and known to both, after %s; %d were asked to come later", d.Round(time.Millisecond), a.hub.TurnedAway()+b.hub.TurnedAway())
	within(t, patience, "no agent is behind", func() bool { return a.behind() == 0 && b.behind() == 0 })
	d = within(t, patience, "both know that all flows are at work", func() bool { return flowsUp(t, a) == size*flowsEach && flowsUp(t, b) == size*flowsEach })
	t.Logf("that all flows are at work was known to both %s later", d.Round(time.Millisecond))
	t.Logf("the controllers hold %d MiB at the end", memory()>>20)
}
