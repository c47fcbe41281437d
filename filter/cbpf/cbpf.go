// Package cbpf compiles filters to classic BPF programs and runs them.
//
// Runs in: agent | controller | tools
//
// A filter becomes a tree of tests, the tree a graph of tests without duplicates, in which every edge skips the tests
// whose outcome is known when it is taken; the graph is then laid out as a program. A packet that is too short for a
// test that is reached does not match, as in the kernel and in libpcap; removing tests never changes which packets
// those are.
package cbpf

import (
	"errors"
	"fmt"

	"golang.org/x/net/bpf"

	"opentap/filter"
	"opentap/packet"
)

// Target says where a program runs.
type Target uint8

// Targets.
const (
	// File is a frame with all VLAN tags in its octets.
	File Target = iota
	// Kernel is an AF_PACKET socket: the outermost tag may have been moved from the octets to the metadata.
	Kernel
)

// MaxInstructions is the kernel's limit for a program (BPF_MAXINSNS).
const MaxInstructions = 4096

// DefaultSnapLen is what a program returns for a match if Options do not say.
const DefaultSnapLen = 262144

// Options say what a program is for. The zero value is a tag-transparent program for files; Link must be set.
type Options struct {
	Link    packet.LinkType // LinkEthernet or LinkRaw
	Strict  bool            // libpcap's meaning of offsets behind VLAN tags; else up to two tags are looked through
	Target  Target
	SnapLen uint32 // octets the program returns for a match; 0 = DefaultSnapLen
}

// ErrTooBig is wrapped by the error for a filter that does not fit into MaxInstructions.
var ErrTooBig = errors.New("filter too big")

// Compile makes a program that returns SnapLen for packets that match and 0 for others. A nil or empty filter matches
// all. A filter that has no meaning on the link type, or in the mode, is refused with a *filter.SyntaxError; one that is
// too big with an error that wraps ErrTooBig.
func Compile(e *filter.Expr, o Options) ([]bpf.RawInstruction, error) {
	if o.Link != packet.LinkEthernet && o.Link != packet.LinkRaw {
		return nil, fmt.Errorf("compile filter: link type %d is not supported", o.Link)
	}
	if o.SnapLen == 0 {
		o.SnapLen = DefaultSnapLen
	}
	p, err := compileShapes(e, o)
	if !errors.Is(err, ErrTooBig) || o.Strict || o.Link != packet.LinkEthernet {
		return p, err
	}
	if c, compactErr := compileCompact(e, o); compactErr == nil {
		return c, nil
	}
	return nil, err
}

// compileShapes makes a program with a way for each shape of frame: quick, but long.
func compileShapes(e *filter.Expr, o Options) ([]bpf.RawInstruction, error) {
	g := newGraph()
	root, err := lowerAll(g, e, o)
	if err != nil {
		return nil, err
	}
	return g.finish(root, o.SnapLen)
}

// finish optimizes and lays out.
func (g *graph) finish(root int32, snapLen uint32) ([]bpf.RawInstruction, error) {
	if g.overflow {
		return nil, fmt.Errorf("compile filter: %w: more than %d tests", ErrTooBig, maxNodes)
	}
	return g.emit(g.optimize(root), snapLen)
}
