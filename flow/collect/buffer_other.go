//go:build !linux

package collect

import (
	"errors"
	"net"
)

// widen has the kernel hold n octets of datagrams for us, as far as it likes to.
func widen(c *net.UDPConn, n int) error { return c.SetReadBuffer(n) }

const overflowRoom = 0

func tellOverflow(*net.UDPConn) error {
	return errors.New("only Linux counts the datagrams that it drops")
}

func overflow([]byte) uint32 { return 0 }
