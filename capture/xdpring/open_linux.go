package xdpring

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"opentap/capture/ring"
	"opentap/packet"
)

// Open takes over an Ethernet interface: from now on what it receives comes here and not to the host. It needs CAP_NET_RAW,
// CAP_NET_ADMIN, CAP_BPF, and CAP_IPC_LOCK or a sufficient limit of locked memory. Errors: ring.ErrGone without such an
// interface; *ring.LinkTypeError; others say why each mode was impossible, and ring.Open may be tried instead.
func Open(cfg Config) (*Ring, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Ring{cfg: cfg, ctl: -1, gate: ring.NewGate()}
	if err := r.open(); err != nil {
		return nil, fmt.Errorf("open AF_XDP ring on %q: %w", cfg.Interface, errors.Join(err, r.release()))
	}
	return r, nil
}

func (r *Ring) open() error {
	linkType, err := ring.LinkTypeOf(r.cfg.Interface)
	if err != nil {
		return err
	}
	if linkType != packet.LinkEthernet {
		return fmt.Errorf("it has no Ethernet header: %w", errors.ErrUnsupported)
	}
	// Only to ask and to be promiscuous: with protocol 0 it receives nothing, packet(7).
	if r.ctl, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("make packet socket (needs CAP_NET_RAW): %w", err)
	}
	if err := r.gate.Open(); err != nil {
		return err
	}
	req, err := unix.NewIfreq(r.cfg.Interface)
	if err != nil {
		return fmt.Errorf("interface name: %w", err)
	}
	if err := unix.IoctlIfreq(r.ctl, unix.SIOCGIFINDEX, req); err != nil {
		if errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("%w: %w", ring.ErrGone, err)
		}
		return fmt.Errorf("find interface: %w", err)
	}
	r.ifindex = int(req.Uint32())
	if err := unix.IoctlIfreq(r.ctl, unix.SIOCGIFMTU, req); err != nil {
		return fmt.Errorf("read MTU: %w", err)
	}
	chunk, err := chunkFor(int(req.Uint32()))
	if err != nil {
		return err
	}
	r.chunk = chunk
	if r.cfg.Promiscuous {
		mreq := unix.PacketMreq{Ifindex: int32(r.ifindex), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(r.ctl, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq); err != nil {
			return fmt.Errorf("make promiscuous: %w", err)
		}
	}
	r.tags = r.switches.keepTags(r.ctl, r.cfg.Interface)
	var errs []error
	for mode := ZeroCopy; mode <= Generic; mode++ {
		if r.cfg.Mode != Best && r.cfg.Mode != mode {
			continue
		}
		err := r.start(mode, chunk)
		if err == nil {
			r.mode = mode
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", mode, err))
		if err := r.halt(); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	return errors.Join(errs...)
}

// start attaches the program and opens the sockets in one mode. After an error halt takes away what was made.
func (r *Ring) start(mode Mode, chunk int) error {
	queues := queuesOf(r.ctl, r.cfg.Interface)
	frames, err := share(r.cfg.Memory, queues, chunk)
	if err != nil {
		return err
	}
	attach, bind := link.XDPDriverMode, uint16(unix.XDP_COPY)
	switch mode {
	case ZeroCopy:
		bind = unix.XDP_ZEROCOPY
	case Generic:
		attach = link.XDPGenericMode
		if err := r.switches.keepApart(r.ctl, r.cfg.Interface); err != nil {
			return err
		}
	}
	if r.prog, err = newProgram(queues); err != nil {
		return err
	}
	if r.link, err = link.AttachXDP(link.XDPOptions{Program: r.prog.prog, Interface: r.ifindex, Flags: attach}); err != nil {
		return fmt.Errorf("attach XDP program: %w", err)
	}
	for id := range queues {
		q, err := openQueue(r.ifindex, id, frames, chunk, bind|unix.XDP_USE_NEED_WAKEUP)
		if err != nil {
			return err
		}
		r.queues = append(r.queues, q)
	}
	for id, q := range r.queues {
		if err := r.prog.sockets.Put(uint32(id), uint32(q.fd)); err != nil {
			return fmt.Errorf("hand queue %d to its socket: %w", id, err)
		}
	}
	t, err := r.prog.counts()
	if err != nil {
		return err
	}
	r.before = t.Unserved // while we opened
	r.poll = make([]unix.PollFd, 0, len(r.queues)+1)
	r.poll = append(r.poll, r.gate.Poll())
	for _, q := range r.queues {
		r.poll = append(r.poll, unix.PollFd{Fd: int32(q.fd), Events: unix.POLLIN})
	}
	return nil
}

// halt detaches the program and closes the sockets.
func (r *Ring) halt() error {
	var errs []error
	if r.link != nil {
		errs = append(errs, r.link.Close())
		r.link = nil
	}
	for _, q := range r.queues {
		errs = append(errs, q.close())
	}
	r.queues = nil
	if r.prog != nil {
		errs = append(errs, r.prog.close())
		r.prog = nil
	}
	return errors.Join(errs...)
}

func (r *Ring) release() error {
	errs := []error{r.halt(), r.switches.undo()}
	errs = append(errs, r.gate.Release())
	if r.ctl >= 0 {
		errs = append(errs, unix.Close(r.ctl))
		r.ctl = -1
	}
	return errors.Join(errs...)
}
