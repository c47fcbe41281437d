package nettest

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// Sender puts frames on an interface through a packet socket, one system call each (some 0.5 million a second).
type Sender struct {
	tb    testing.TB
	ns    *NS
	iface string
	fd    int
	sent  uint64
}

// NewSender opens a sender on an interface of ns; it is closed with the test.
func NewSender(tb testing.TB, ns *NS, iface string) *Sender {
	tb.Helper()
	index := ns.Link(iface).Attrs().Index
	s := &Sender{tb: tb, ns: ns, iface: iface}
	var err error
	ns.Do(func() {
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: index})
		}
	})
	if err != nil {
		tb.Fatalf("open sender on %s: %v", iface, err)
	}
	tb.Cleanup(func() { unix.Close(s.fd) })
	return s
}

// Send sends every frame once, in order. On a veth each has been received by the far end when Send returns or is
// about to be; none is lost in between short of memory, provided the interface is Ready.
func (s *Sender) Send(frames ...[]byte) {
	s.tb.Helper()
	for _, f := range frames {
		for {
			_, err := unix.Write(s.fd, f)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
				s.tb.Fatalf("send %d octets on %s: %v", len(f), s.iface, err)
			}
		}
		s.sent++
	}
}

// Count returns how many frames were sent.
func (s *Sender) Count() uint64 { return s.sent }
