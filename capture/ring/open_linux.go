package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"opentap/packet"
)

// reserve leaves room before each frame for one VLAN tag; netoff stays a multiple of 4, so IP headers are aligned.
const reserve = tagSize

// Open makes the ring and begins to capture. It needs CAP_NET_RAW; the memory is charged to the calling process.
// Errors: ErrGone without such an interface, *LinkTypeError, os.ErrPermission.
func Open(cfg Config) (*Ring, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Ring{cfg: cfg, fd: -1, gate: NewGate()}
	if err := r.open(); err != nil {
		r.release()
		return nil, fmt.Errorf("open ring on %q: %w", cfg.Interface, err)
	}
	return r, nil
}

func (r *Ring) open() error {
	var err error
	// Protocol 0: nothing enters the socket before bind, packet(7).
	if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return fmt.Errorf("make packet socket (needs CAP_NET_RAW): %w", err)
	}
	if err := r.gate.Open(); err != nil {
		return err
	}
	loopback, err := r.findInterface()
	if err != nil {
		return err
	}
	if err := r.mapRing(); err != nil {
		return err
	}
	if loopback {
		// Each packet passes a loopback twice, out and in: keep the way in, as libpcap does.
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return fmt.Errorf("ignore outgoing packets (Linux 4.20): %w", err)
		}
	}
	if r.cfg.Group != nil {
		// From when it is bound until it is a member, the socket would get what the others get.
		err = r.attachClassic(refuse)
	} else {
		err = r.attachFilter()
	}
	if err != nil {
		return err
	}
	if r.cfg.Promiscuous {
		mreq := unix.PacketMreq{Ifindex: int32(r.ifindex), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(r.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq); err != nil {
			return fmt.Errorf("make promiscuous: %w", err)
		}
	}
	if err := r.bind(unix.ETH_P_ALL); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if r.cfg.Group != nil {
		if err := r.joinGroup(loopback); err != nil {
			return err
		}
		if err := r.attachFilter(); err != nil {
			return err
		}
	}
	r.poll[0] = unix.PollFd{Fd: int32(r.fd), Events: unix.POLLIN | unix.POLLERR}
	r.poll[1] = r.gate.Poll()
	return nil
}

func (r *Ring) bind(protocol uint16) error {
	err := unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: r.ifindex})
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return err
}

// findInterface asks by ioctl on the packet socket, so that the answer comes from the socket's own namespace.
func (r *Ring) findInterface() (loopback bool, err error) {
	req, err := unix.NewIfreq(r.cfg.Interface)
	if err != nil {
		return false, fmt.Errorf("interface name: %w", err)
	}
	if err := unix.IoctlIfreq(r.fd, unix.SIOCGIFINDEX, req); err != nil {
		if errors.Is(err, unix.ENODEV) {
			return false, fmt.Errorf("%w: %w", ErrGone, err)
		}
		return false, fmt.Errorf("find interface: %w", err)
	}
	r.ifindex = int(req.Uint32())
	if err := unix.IoctlIfreq(r.fd, unix.SIOCGIFHWADDR, req); err != nil {
		return false, fmt.Errorf("read hardware type: %w", err)
	}
	hw := req.Uint16()
	r.link, err = linkTypeOf(r.cfg.Interface, hw)
	return hw == unix.ARPHRD_LOOPBACK, err
}

func (r *Ring) mapRing() error {
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return fmt.Errorf("choose TPACKET_V3: %w", err)
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_RESERVE, reserve); err != nil {
		return fmt.Errorf("reserve room for VLAN tags: %w", err)
	}
	const frameSize = 2048 // only a divisor to the kernel: V3 frames have any length
	req := unix.TpacketReq3{
		Block_size:     uint32(r.cfg.BlockSize),
		Block_nr:       uint32(r.cfg.Blocks),
		Frame_size:     frameSize,
		Frame_nr:       uint32(r.cfg.BlockSize / frameSize * r.cfg.Blocks),
		Retire_blk_tov: uint32(r.cfg.Retire / time.Millisecond),
	}
	if err := unix.SetsockoptTpacketReq3(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fmt.Errorf("make ring of %d blocks of %d bytes: %w", r.cfg.Blocks, r.cfg.BlockSize, err)
	}
	var err error
	r.mem, err = unix.Mmap(r.fd, 0, r.cfg.Blocks*r.cfg.BlockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map ring of %d bytes: %w", r.cfg.Blocks*r.cfg.BlockSize, err)
	}
	r.block.snap = uint32(min(r.cfg.SnapLen, 1<<30))
	r.block.ethernet = r.link == packet.LinkEthernet
	return nil
}

func (r *Ring) release() error {
	var errs []error
	if r.mem != nil {
		errs = append(errs, unix.Munmap(r.mem))
		r.mem = nil
	}
	if r.filter != nil {
		errs = append(errs, r.filter.close())
		r.filter = nil
	}
	errs = append(errs, r.gate.Release())
	if r.fd >= 0 {
		errs = append(errs, unix.Close(r.fd))
		r.fd = -1
	}
	r.leaveGroup()
	return errors.Join(errs...)
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
