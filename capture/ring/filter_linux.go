package ring

import (
	"errors"
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// refuse lets nothing into the ring.
var refuse = []bpf.RawInstruction{{Op: unix.BPF_RET | unix.BPF_K}}

// attachFilter puts the configured filter and snap length in the kernel. The filter's verdict is the number of octets
// kept (net/packet/af_packet.c, tpacket_rcv), so the snap length needs one even when every packet is wanted.
func (r *Ring) attachFilter() error {
	switch {
	case len(r.cfg.Filter) == 0 && r.cfg.SnapLen == 0 && !r.member:
		return nil
	case len(r.cfg.Filter) == 0 && r.cfg.SnapLen == 0:
		if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); err != nil {
			return fmt.Errorf("detach the filter that refuses: %w", err)
		}
		return nil
	case len(r.cfg.Filter) == 0:
		return r.attachClassic([]bpf.RawInstruction{{Op: unix.BPF_RET | unix.BPF_K, K: uint32(min(r.cfg.SnapLen, 1<<30))}})
	}
	f, err := newCountingFilter(r.cfg.Filter, uint32(min(r.cfg.SnapLen, 1<<30)))
	if err == nil {
		if err = unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, f.fd()); err == nil {
			r.filter = f
			return nil
		}
		f.close()
	}
	// No eBPF here, or a load it cannot express: the plain filter gives the same verdicts without counts.
	if cerr := r.attachClassic(cutTo(r.cfg.Filter, uint32(r.cfg.SnapLen))); cerr != nil {
		return errors.Join(cerr, fmt.Errorf("attach counting filter: %w", err))
	}
	return nil
}

func (r *Ring) attachClassic(prog []bpf.RawInstruction) error {
	filter := make([]unix.SockFilter, len(prog))
	for i, in := range prog {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
		return fmt.Errorf("attach filter of %d instructions: %w", len(filter), err)
	}
	return nil
}

// cutTo returns prog with constant verdicts of at most snap octets (0 = as they are). A verdict out of the
// accumulator stays: Block.Next cuts those frames.
func cutTo(prog []bpf.RawInstruction, snap uint32) []bpf.RawInstruction {
	if snap == 0 {
		return prog
	}
	cut := append([]bpf.RawInstruction(nil), prog...)
	for i := range cut {
		if cut[i].Op == unix.BPF_RET|unix.BPF_K {
			cut[i].K = min(cut[i].K, snap)
		}
	}
	return cut
}
