package collect

import (
	"encoding/binary"
	"net"

	"golang.org/x/sys/unix"
)

// widen has the kernel hold n octets of datagrams for us: beyond net.core.rmem_max when we may (CAP_NET_ADMIN), socket(7).
func widen(c *net.UDPConn, n int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var forced error
	if err := raw.Control(func(fd uintptr) { forced = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, n) }); err != nil {
		return err
	}
	if forced == nil {
		return nil
	}
	return c.SetReadBuffer(n)
}

// overflowRoom is what the control message of overflow takes. Octets.
const overflowRoom = 64

// tellOverflow has each datagram come with how many the kernel dropped before it for want of room (SO_RXQ_OVFL, socket(7)).
func tellOverflow(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var refused error
	if err := raw.Control(func(fd uintptr) { refused = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1) }); err != nil {
		return err
	}
	return refused
}

// overflow reads what tellOverflow asked for: a count since the socket was made, modulo 2^32. The kernel leaves a count of 0 out.
func overflow(control []byte) uint32 {
	for len(control) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return 0
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4 {
			return binary.NativeEndian.Uint32(data)
		}
		control = rest
	}
	return 0
}
