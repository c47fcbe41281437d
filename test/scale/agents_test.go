package scale

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"opentap/agentapi"
	"opentap/fault"
	"opentap/member"
	"opentap/point"
	"opentap/tap"
	"opentap/want"
)

// agentsEnv has this program be the agents: the controllers' addresses and a directory.
const agentsEnv = "OPENTAP_SCALE_AGENTS"

func TestMain(m *testing.M) {
	if spec := os.Getenv(agentsEnv); spec != "" {
		if err := agents(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// agents runs as many agents as it reads join tokens from standard input, until that ends: with the test, however it ends. Whatever they are told to
// capture they say is running.
func agents(spec string) error {
	part := strings.Split(spec, "|")
	controllers, dir := strings.Split(part[0], ","), part[1]
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	log := slog.New(slog.DiscardHandler)
	var running sync.WaitGroup
	in := bufio.NewScanner(os.Stdin)
	failed := make(chan error, 1)
	for i := 0; in.Scan(); i++ {
		token := in.Text()
		running.Go(func() {
			if err := one(ctx, i, token, controllers, dir, log); err != nil && ctx.Err() == nil {
				select {
				case failed <- err:
					fmt.Fprintln(os.Stderr, err)
				default:
				}
			}
		})
	}
	stop()
	running.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// nodeID is the id of an agent, by its number.
func nodeID(i int) string { return fmt.Sprintf("%016x", i+1) }

func one(ctx context.Context, i int, token string, controllers []string, dir string, log *slog.Logger) error {
	id := agentapi.Identity{NodeID: nodeID(i), NodeName: fmt.Sprintf("host%05d", i), Version: "scale"}
	mem, err := member.Open(member.Config{Dir: filepath.Join(dir, id.NodeName), Controllers: controllers}, log)
	if err != nil {
		return err
	}
	if _, err := mem.Join(ctx, token, id.NodeID, id.NodeName); err != nil {
		return err
	}
	l := &host{number: i}
	link := agentapi.NewLink(id, l, log)
	l.link = link
	return link.RunDialing(ctx, mem.Dial)
}

// host is an agent's host without a kernel.
type host struct {
	number int
	link   *agentapi.Link

	mu       sync.Mutex
	revision int64
	captures []want.Capture
	taps     []tap.Status
}

// Obey implements agentapi.Local.
func (h *host) Obey(d agentapi.Desired) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.Revision < h.revision {
		return agentapi.ErrStale
	}
	h.revision, h.captures, h.taps = d.Revision, d.Captures, nil
	for _, x := range d.Taps.Sources {
		h.taps = append(h.taps, tap.Status{ID: x.ID, State: tap.Active})
	}
	for _, x := range d.Taps.Sinks {
		h.taps = append(h.taps, tap.Status{ID: x.ID, State: tap.Active})
	}
	h.link.TapsChanged()
	return nil
}

// Actual implements agentapi.Local.
func (h *host) Actual() (int64, []want.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]want.Status, len(h.captures))
	for i, c := range h.captures {
		out[i] = want.Status{UID: c.UID, State: want.Running}
	}
	return h.revision, out
}

// TapStates implements agentapi.Local.
func (h *host) TapStates() []tap.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.taps
}

// Inventory implements agentapi.Local.
func (h *host) Inventory() ([]point.Point, want.Node) {
	var out []point.Point
	hi, lo := byte(h.number>>8), byte(h.number)
	for i, n := range []string{"lo", "eth0", "eth1", "eth2"} {
		mac := fmt.Sprintf("02:00:00:%02x:%02x:%02x", hi, lo, i)
		out = append(out, point.Point{Name: n, Kind: point.Netdev, Present: true, Up: true, MTU: 1500, MAC: mac, Driver: "veth"})
	}
	return out, want.Node{DiskFree: 1 << 40, Underlay: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, hi, lo})}}
}

// Open implements agentapi.Local.
func (h *host) Open(context.Context, string, want.OpenOptions) (*want.Retrieval, error) {
	return nil, fault.New(fault.Unsupported, "there is no data here")
}

// Live implements agentapi.Local.
func (h *host) Live(context.Context, <-chan struct{}, want.LiveSpec, io.Writer) error {
	return fault.New(fault.Unsupported, "there is no data here")
}
