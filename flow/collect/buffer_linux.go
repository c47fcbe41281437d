package collect

import (
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
