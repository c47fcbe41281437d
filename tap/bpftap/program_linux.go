package bpftap

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/net/bpf"

	"opentap/filter"
	"opentap/filter/cbpf"
	translate "opentap/filter/ebpf"
	"opentap/packet"
	"opentap/tap"
)

// objects tells versions of the programs apart.
var objects = sha256.Sum256([]byte(string(_TapBytes) + string(_MuxBytes) + string(_SinkBytes)))

// headerCopy is how many octets filters see, HEADERS of bpf/tap.c.
const headerCopy = 256

// Flags of a tap's program, as in bpf/tap.c.
const (
	hasFilter = 1
	hasVLANs  = 2
	toMux     = 4
	toMade    = 8
)

// maxRate is what the token bucket counts with, octets per second.
const maxRate = 1 << 34

// leastBurst is the least size of a token bucket: a super-packet must fit. Octets.
const leastBurst = 64 << 10

// describe makes of a copy of the tap's objects the program of one direction of a source, with the source's options as constants and its filter in place of
// the stub.
func describe(spec *ebpf.CollectionSpec, p *plan, index uint32, out bool, cookie uint64) error {
	o := p.Source.Options
	c := tapTapConfig{Cookie: cookie, Mark: copyDelivered, Sample: o.SampleN, Snap: o.Snap}
	if p.Mux {
		c.Mark = copyMagic | index
		c.Flags |= toMux
	} else if p.Made {
		c.Flags |= toMade
	}
	if out {
		c.Out = copyOut
	}
	if o.RateBPS > 0 {
		c.Rate = min(max(o.RateBPS/8, 1), maxRate)
		c.Burst = o.Burst
		if c.Burst == 0 {
			c.Burst = max(c.Rate/10, leastBurst)
		}
	}
	if o.VLANs != "" {
		bits, err := vlanBits(o.VLANs)
		if err != nil {
			return err
		}
		c.Flags |= hasVLANs
		if err := spec.Variables[tapVarVlans].Set(bits); err != nil {
			return err
		}
	}
	if strings.TrimSpace(o.Filter) != "" {
		c.Flags |= hasFilter
		var err error
		if c.Reach, err = splice(spec.Programs[tapProgTap], o.Filter); err != nil {
			return err
		}
	}
	return spec.Variables[tapVarConfig].Set(c)
}

// splice puts a filter in the place of the stub. It returns how far into a frame the filter reads at most, octets, a multiple of 8.
func splice(p *ebpf.ProgramSpec, expr string) (uint32, error) {
	e, err := filter.Parse(expr)
	if err != nil {
		return 0, fmt.Errorf("filter: %w", err)
	}
	raw, err := cbpf.Compile(e, cbpf.Options{Link: packet.LinkEthernet})
	if err != nil {
		return 0, fmt.Errorf("filter: %w", err)
	}
	const stub = "filter"
	fn, err := translate.Function(stub, raw, headerCopy)
	if errors.Is(err, errors.ErrUnsupported) {
		return 0, fmt.Errorf("%w: filter: %w", tap.ErrUnsupported, err)
	}
	if err != nil {
		return 0, err
	}
	begin, end := -1, len(p.Instructions)
	for i := range p.Instructions {
		switch ins := &p.Instructions[i]; {
		case ins.Symbol() == stub:
			begin = i
		case begin >= 0 && btf.FuncMetadata(ins) != nil:
			end = min(end, i)
		}
	}
	if begin < 0 {
		return 0, errors.New("the program has no place for a filter")
	}
	// The kernel wants to know the type and the line of each function's beginning.
	old := &p.Instructions[begin]
	fn[0] = btf.WithFuncMetadata(fn[0], btf.FuncMetadata(old)).WithSource(old.Source())
	ins := append(asm.Instructions{}, p.Instructions[:begin]...)
	ins = append(ins, fn...)
	p.Instructions = append(ins, p.Instructions[end:]...)
	return reach(raw), nil
}

// reach is how far into a frame a program reads at most, octets, a multiple of 8. X is at most 60 where only the length of an IPv4
// header is loaded into it.
func reach(raw []bpf.RawInstruction) uint32 {
	const (
		class, size, mode       = 0x07, 0x18, 0xe0 // linux include/uapi/linux/bpf_common.h
		ld, ldx, misc           = 0x00, 0x01, 0x07
		abs, ind, mem, imm, msh = 0x20, 0x40, 0x60, 0x00, 0xa0
		longestIPv4             = 60
	)
	octets := map[uint16]uint32{0x00: 4, 0x08: 2, 0x10: 1}
	far := uint32(0)
	for _, in := range raw {
		end := in.K + octets[in.Op&size]
		switch c, m := in.Op&class, in.Op&mode; {
		case c == ld && m == abs:
		case c == ld && m == ind:
			end += longestIPv4
		case c == ldx && m == msh:
			end = in.K + 1
		case c == ldx && (m == mem || m == imm), c == misc && in.Op&0xf8 == 0: // X may be anything
			return headerCopy
		default:
			continue
		}
		if end < in.K || end > headerCopy {
			return headerCopy
		}
		far = max(far, end)
	}
	return (far + 7) &^ 7
}

// vlanBits reads a list of VLAN ids and ranges, such as 1,10-20.
func vlanBits(list string) (bits [64]uint64, err error) {
	for part := range strings.SplitSeq(list, ",") {
		a, b, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			b = a
		}
		lo, err := strconv.ParseUint(strings.TrimSpace(a), 10, 12)
		if err != nil {
			return bits, fmt.Errorf("VLAN list: %q is no VLAN id", a)
		}
		hi, err := strconv.ParseUint(strings.TrimSpace(b), 10, 12)
		if err != nil || hi < lo {
			return bits, fmt.Errorf("VLAN list: %q is no range of VLAN ids", part)
		}
		for id := lo; id <= hi; id++ {
			bits[id>>6] |= 1 << (id & 63)
		}
	}
	return bits, nil
}
