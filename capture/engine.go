package capture

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"opentap/capture/ring"
	"opentap/capture/xdpring"
	"opentap/filter"
	"opentap/packet"
)

// Config shapes the rings. The zero value of a field is its default.
type Config struct {
	Ring ring.Config // Blocks, BlockSize and Retire; the rest is set per source

	// IsUp tells whether a device is up, so that the end of a "device is down" gap is known before the next packet comes.
	// It is called from the sources' goroutines; nil: only packets end such a gap.
	IsUp func(point string) bool

	// Dedicated names the devices that receive nothing but mirrored traffic, with the octets of memory for each (see
	// xdpring.Config; 0 = the default). They are read by AF_XDP, and what they receive does not reach the host while
	// anybody is attached.
	Dedicated map[string]int

	// Told is called when a source has opened its ring: how packets get here, and for a dedicated point why not by AF_XDP.
	// It is called from the sources' goroutines; it must not block. nil: nobody wants to know.
	Told func(point, by string, instead error)
}

// DefaultConfig is what an engine uses unless told otherwise.
func DefaultConfig() Config { return Config{Ring: ring.DefaultConfig()} }

// Engine opens sources and shares them. It is safe for concurrent use.
type Engine struct {
	cfg  Config
	log  *slog.Logger
	open openFunc

	mu        sync.Mutex
	sources   map[key]*source
	restraint atomic.Pointer[Restraint]
	closed    bool
	running   sync.WaitGroup
}

// NewEngine makes an engine; it opens nothing yet.
func NewEngine(cfg Config, log *slog.Logger) *Engine {
	def := DefaultConfig().Ring
	if cfg.Ring.Blocks == 0 {
		cfg.Ring.Blocks = def.Blocks
	}
	if cfg.Ring.BlockSize == 0 {
		cfg.Ring.BlockSize = def.BlockSize
	}
	if cfg.Ring.Retire == 0 {
		cfg.Ring.Retire = def.Retire
	}
	if cfg.IsUp == nil {
		cfg.IsUp = func(string) bool { return false }
	}
	if cfg.Told == nil {
		cfg.Told = func(string, string, error) {}
	}
	e := &Engine{cfg: cfg, log: log, open: openPoint, sources: make(map[key]*source)}
	e.Restrain(Restraint{})
	return e
}

// Attach has the consumer shown the packets that spec asks for, from now on and at most until spec.To. The ring is opened
// behind it: a point that is not there opens a gap and is tried again; other errors end the attachment with EndError. The
// error says that the filter cannot be understood.
func (e *Engine) Attach(spec Spec, c Consumer) (*Attachment, error) {
	return e.attach(spec, c, share{of: 1})
}

func (e *Engine) attach(spec Spec, c Consumer, part share) (*Attachment, error) {
	k := key{point: spec.Point, strict: spec.Strict, snap: spec.Snap, promis: spec.Promiscuous, share: part}
	var expr *filter.Expr
	if spec.Filter != "" {
		var err error
		if expr, err = filter.Parse(spec.Filter); err != nil {
			return nil, err
		}
		k.filter = expr.String()
	}
	var own *filter.Expr
	if memory, ok := e.cfg.Dedicated[spec.Point]; ok {
		// The port is taken over once: one ring for all, and everybody's filter behind it.
		own, expr = expr, nil
		k = key{point: spec.Point, promis: true, dedicated: memory, share: part}
		if memory == 0 {
			k.dedicated = xdpring.DefaultConfig().Memory
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, fmt.Errorf("attach to %s: the engine is closed", spec.Point)
	}
	a := &Attachment{spec: spec, consumer: c, expr: own, open: make(chan struct{}), done: make(chan struct{})}
	a.patient, _ = c.(Patient)
	for have, s := range e.sources {
		if have.serves(k) {
			a.src = s
			if s.join(a) {
				return a, nil
			}
		}
	}
	s := &source{key: k, expr: expr, cfg: e.cfg.Ring, open: e.open, isUp: e.cfg.IsUp, told: e.cfg.Told, restraint: &e.restraint, log: e.log, kick: make(chan struct{}, 1), done: make(chan struct{}), joining: []*Attachment{a}}
	s.lend = s.block
	a.src = s
	e.sources[k] = s
	e.running.Go(func() {
		s.run()
		e.mu.Lock()
		if e.sources[k] == s {
			delete(e.sources, k)
		}
		e.mu.Unlock()
	})
	return a, nil
}

// Lead is how long before a window begins its consumer should be attached, so that no packet of it is missed.
const Lead = 500 * time.Millisecond

// Close detaches everybody, waits until the rings are drained and closed, and lets nobody attach any more.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	all := make([]*source, 0, len(e.sources))
	for _, s := range e.sources {
		all = append(all, s)
	}
	e.mu.Unlock()
	now := packet.TimestampOf(time.Now())
	for _, s := range all {
		s.ask(func() {
			for _, a := range s.active {
				if a.spec.To == 0 || a.spec.To > now {
					a.spec.To, a.detach = now, true
				}
			}
		})
	}
	e.running.Wait()
}

// Probe says whether this process may capture packets at all: nil, or why not and what to do.
func Probe() error {
	err := ring.Probe()
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("opentapd may not open packet sockets: run it as root, or give it the capabilities CAP_NET_RAW and CAP_NET_ADMIN (%w)", err)
	}
	return err
}
