//go:build !linux

package collect

import "net"

// widen has the kernel hold n octets of datagrams for us, as far as it likes to.
func widen(c *net.UDPConn, n int) error { return c.SetReadBuffer(n) }
