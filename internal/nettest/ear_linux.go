package nettest

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Ear hears every frame that comes in at an interface, VLAN tags included, and none that goes out.
type Ear struct {
	tb testing.TB
	fd int
}

// NewEar opens an ear on an interface of ns; it is closed with the test. It keeps what fits into 64 MiB.
func NewEar(tb testing.TB, ns *NS, iface string) *Ear {
	tb.Helper()
	index := ns.Link(iface).Attrs().Index
	e := &Ear{tb: tb, fd: -1}
	var err error
	ns.Do(func() {
		if e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		_ = unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		if err = unix.SetsockoptInt(e.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return
		}
		err = unix.Bind(e.fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: index}) // ETH_P_ALL, network order
	})
	if err != nil {
		tb.Fatalf("listen on %s: %v", iface, err)
	}
	tb.Cleanup(func() { unix.Close(e.fd) })
	return e
}

// Next returns the next frame; nil when none comes within d.
func (e *Ear) Next(d time.Duration) []byte {
	e.tb.Helper()
	b, oob := make([]byte, 1<<16), make([]byte, 256)
	for deadline := time.Now().Add(d); ; {
		tv := unix.NsecToTimeval(max(int64(time.Until(deadline)), int64(time.Millisecond)))
		_ = unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		n, k, _, from, err := unix.Recvmsg(e.fd, b, oob, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil
		}
		if a, ok := from.(*unix.SockaddrLinklayer); ok && a.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		return withTag(b[:n:n], oob[:k])
	}
}

// All returns every frame that comes until none has come for the time given.
func (e *Ear) All(quiet time.Duration) [][]byte {
	e.tb.Helper()
	var out [][]byte
	for f := e.Next(quiet); f != nil; f = e.Next(quiet) {
		out = append(out, f)
	}
	return out
}

// withTag puts back the tag that the kernel took off (struct tpacket_auxdata, linux include/uapi/linux/if_packet.h).
func withTag(frame, oob []byte) []byte {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return frame
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		if binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID == 0 {
			return frame
		}
		tci, tpid := binary.NativeEndian.Uint16(m.Data[16:]), binary.NativeEndian.Uint16(m.Data[18:])
		out := append([]byte(nil), frame[:12]...)
		out = binary.BigEndian.AppendUint16(out, tpid)
		out = binary.BigEndian.AppendUint16(out, tci)
		return append(out, frame[12:]...)
	}
	return frame
}
