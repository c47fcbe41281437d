package capture

import (
	"errors"
	"fmt"
	"time"

	"opentap/capture/ring"
	"opentap/capture/xdpring"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/packet"
)

// frames is a lent block of either kind.
type frames interface {
	Next(*ring.Frame) bool
	Octets() int
}

// lender is what a source asks of a ring that lends blocks of kind B; *ring.Ring and *xdpring.Ring are such.
type lender[B frames] interface {
	LinkType() packet.LinkType
	Read(timeout time.Duration, fn func(B)) (int, error)
	Drain(fn func(B)) error
	Counts() (ring.Counts, error)
	Stop() error
	Pressed() bool
	Wake()
	Close() error
}

var (
	_ lender[*ring.Block]    = (*ring.Ring)(nil)
	_ lender[*xdpring.Block] = (*xdpring.Ring)(nil)
	_ reader                 = (*adapted[*ring.Block])(nil)
)

// reader is a lender of any kind.
type reader lender[frames]

// adapted makes a reader of a lender, without an allocation a block.
type adapted[B frames] struct {
	lender[B]
	to func(frames) // of the call in progress
	fn func(B)
}

func adapt[B frames](l lender[B]) *adapted[B] {
	a := &adapted[B]{lender: l}
	a.fn = func(b B) { a.to(b) }
	return a
}

func (a *adapted[B]) Read(timeout time.Duration, fn func(frames)) (int, error) {
	a.to = fn
	return a.lender.Read(timeout, a.fn)
}

func (a *adapted[B]) Drain(fn func(frames)) error {
	a.to = fn
	return a.lender.Drain(a.fn)
}

// errDedicatedFan says why a dedicated point has no fan.
var errDedicatedFan = fmt.Errorf("a dedicated point is read by one ring, whose queues are its own: a fanout is %w there", errors.ErrUnsupported)

// opened is a source's ring.
type opened struct {
	reader
	by      string // how packets get here, in plain words
	instead error  // why a dedicated point is not read by AF_XDP; nil = it is, or is none
	ordered bool   // packets come in the order of time
}

// openFunc opens a source's ring; a test has its own, for another network namespace.
type openFunc func(cfg ring.Config, expr *filter.Expr, k key) (opened, error)

// openPoint opens the ring that fits the point: of a dedicated one an AF_XDP ring, and a packet socket's ring where that
// cannot be.
func openPoint(cfg ring.Config, expr *filter.Expr, k key) (opened, error) {
	if k.dedicated == 0 {
		r, err := openRing(cfg, expr, k)
		if err != nil {
			return opened{}, err
		}
		by := "packet socket ring"
		if k.share.of > 1 {
			by = fmt.Sprintf("%d packet socket rings", k.share.of)
		}
		return opened{reader: adapt(r), by: by, ordered: true}, nil
	}
	xc := xdpring.DefaultConfig()
	xc.Interface, xc.Memory, xc.Promiscuous = k.point, k.dedicated, true
	x, err := xdpring.Open(xc)
	if err == nil {
		by := fmt.Sprintf("%s, %d queues", x.Mode(), x.Queues())
		if x.Queues() == 1 {
			by = x.Mode().String() + ", 1 queue"
		}
		if tags := x.Tags(); tags != nil {
			by += "; VLAN tags may be missing: " + tags.Error()
		}
		return opened{reader: adapt(x), by: by, ordered: x.Queues() == 1}, nil
	}
	if errors.Is(err, ring.ErrGone) {
		return opened{}, pointError(k.point, err)
	}
	r, rerr := openRing(cfg, expr, k)
	if rerr != nil {
		return opened{}, rerr
	}
	return opened{reader: adapt(r), by: "packet socket ring", instead: err, ordered: true}, nil
}

// openRing makes a packet socket's ring with the filter in the kernel.
func openRing(cfg ring.Config, expr *filter.Expr, k key) (*ring.Ring, error) {
	cfg.Interface, cfg.SnapLen, cfg.Promiscuous, cfg.Group = k.point, k.snap, k.promis, k.share.group
	cfg.Blocks = min(max(cfg.Blocks/k.share.of, 8), cfg.Blocks)
	link, err := ring.LinkTypeOf(k.point)
	if err != nil {
		return nil, pointError(k.point, err)
	}
	if expr != nil {
		prog, err := cbpf.Compile(expr, cbpf.Options{Link: link, Strict: k.strict, Target: cbpf.Kernel, SnapLen: uint32(k.snap)})
		if err != nil {
			return nil, fmt.Errorf("compile filter for %s: %w", k.point, err)
		}
		cfg.Filter = prog
	}
	r, err := ring.Open(cfg)
	if err != nil {
		return nil, pointError(k.point, err)
	}
	return r, nil
}

// pointError tells errors that time may mend from others.
func pointError(name string, err error) error {
	if errors.Is(err, ring.ErrGone) || errors.Is(err, ring.ErrDown) {
		return fmt.Errorf("%w: %w", ErrPoint, err)
	}
	return fmt.Errorf("open point %s: %w", name, err)
}

// sieve makes the attachment's own filter, where the ring has none: at a dedicated point, whose one ring serves everybody.
func (a *Attachment) sieve(link packet.LinkType) error {
	if a.expr == nil {
		return nil
	}
	m, err := cbpf.NewMatcher(a.expr, cbpf.Options{Link: link, Strict: a.spec.Strict, Target: cbpf.File})
	if err != nil {
		return fmt.Errorf("compile filter for %s: %w", a.spec.Point, err)
	}
	a.match = m
	return nil
}
