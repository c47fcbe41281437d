package probing

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"opentap/fault"
	"opentap/packet"
)

// socket is a packet socket that shows what comes to one address, and who has which.
type socket struct {
	fd, index int
	buf, oob  []byte
	out       []byte
}

// nearly is how long one wait takes at most, so that a context that ends is noticed.
const nearly = 50 * time.Millisecond

// A full queue is tried again so often, so long apart.
const (
	sendTries = 50
	sendPause = time.Millisecond
)

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// open opens a socket on a device for frames to an address. No frame comes before its filter stands.
func open(index int, to netip.Addr) (*socket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			return nil, fault.New(fault.Unsupported, "frames cannot be sent here: the agent lacks CAP_NET_RAW")
		}
		return nil, fault.New(fault.Unavailable, "open a packet socket: %v", err)
	}
	s := &socket{fd: fd, index: index, buf: make([]byte, 1<<16), oob: make([]byte, 256), out: make([]byte, 0, 1<<16+4)}
	filter, err := bpf.Assemble(takes(to))
	if err == nil {
		raw := make([]unix.SockFilter, len(filter))
		for i, f := range filter {
			raw[i] = unix.SockFilter{Code: f.Op, Jt: f.Jt, Jf: f.Jf, K: f.K}
		}
		err = errors.Join(
			unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]}),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}),
		)
	}
	if err != nil {
		s.close()
		return nil, fault.New(fault.Unavailable, "listen for answers: %v", err)
	}
	return s, nil
}

func (s *socket) close() { unix.Close(s.fd) }

// takes is a filter for ARP and for IP packets to an address, by its last four octets. The tag of a frame is not in the frame when it
// comes here.
func takes(to netip.Addr) []bpf.Instruction {
	etherType, at := uint32(packet.EtherTypeIPv4), uint32(30)
	if to.Is6() {
		etherType, at = packet.EtherTypeIPv6, 50
	}
	a := to.As16()
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: packet.EtherTypeARP, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: etherType, SkipTrue: 3},
		bpf.LoadAbsolute{Off: at, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(a[12:]), SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0},
	}
}

// send sends a frame. A device whose queue is full is waited for, a little.
func (s *socket) send(frame []byte) error {
	to := &unix.SockaddrLinklayer{Protocol: htons(binary.BigEndian.Uint16(frame[12:])), Ifindex: s.index, Halen: 6}
	copy(to.Addr[:], frame[:6])
	for try := 0; ; try++ {
		err := unix.Sendto(s.fd, frame, 0, to)
		full := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS)
		if !full && !errors.Is(err, unix.EINTR) || try >= sendTries {
			return err
		}
		if full {
			time.Sleep(sendPause)
		}
	}
}

// receive waits so long, or a little, for a frame that came to the device: with its tag in its place, and when the kernel took it. None is
// nil. It is valid until the next call.
func (s *socket) receive(wait time.Duration) (frame []byte, at time.Time, err error) {
	wait = max(min(wait, nearly), 0)
	ts := unix.NsecToTimespec(int64(wait))
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	if n, err := unix.Ppoll(fds, &ts, nil); n == 0 || errors.Is(err, unix.EINTR) {
		return nil, at, nil
	} else if err != nil {
		return nil, at, err
	}
	n, k, _, from, err := unix.Recvmsg(s.fd, s.buf, s.oob, 0)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
		return nil, at, nil
	}
	if err != nil {
		return nil, at, err
	}
	if a, ok := from.(*unix.SockaddrLinklayer); ok && a.Pkttype == unix.PACKET_OUTGOING { // the host's own, such as the RST that its kernel sends
		return nil, at, nil
	}
	s.out = append(s.out[:0], s.buf[:n]...)
	at = time.Now()
	msgs, err := unix.ParseSocketControlMessage(s.oob[:k])
	if err != nil {
		return s.out, at, nil
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS_NEW && len(m.Data) >= 16: // struct __kernel_timespec
			at = time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20 && m.Data[0]&unix.TP_STATUS_VLAN_VALID != 0 && n >= 12:
			// struct tpacket_auxdata of include/uapi/linux/if_packet.h: tp_vlan_tci at 16, tp_vlan_tpid at 18
			tpid := uint16(packet.EtherTypeVLAN)
			if m.Data[0]&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
				tpid = binary.NativeEndian.Uint16(m.Data[18:])
			}
			s.out = append(s.out[:0], s.buf[:12]...)
			s.out = binary.BigEndian.AppendUint16(s.out, tpid)
			s.out = binary.BigEndian.AppendUint16(s.out, binary.NativeEndian.Uint16(m.Data[16:]))
			s.out = append(s.out, s.buf[12:n]...)
		}
	}
	return s.out, at, nil
}
