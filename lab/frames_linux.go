package lab

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// host is a packet socket on the one interface of a host.
type host struct {
	name string
	fd   int
	got  map[uint64]int // frames of the lab that came, by who sent them and which it was
}

// visit opens a packet socket inside a namespace. A socket stays in the namespace it was made in.
func (b *bench) visit(n int) (*host, error) {
	h := &host{name: fmt.Sprintf("h%d", n), got: make(map[uint64]int)}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		done <- func() error {
			ns, err := os.Open("/run/netns/" + b.prefix + h.name)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			if h.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			req, err := unix.NewIfreq(h.name + "-eth0")
			if err != nil {
				return err
			}
			if err := unix.IoctlIfreq(h.fd, unix.SIOCGIFINDEX, req); err != nil {
				return err
			}
			_ = unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
			return unix.Bind(h.fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: int(req.Uint32())}) // ETH_P_ALL, network order
		}()
	}()
	if err := <-done; err != nil {
		return nil, fmt.Errorf("open a socket at %s: %w", h.name, err)
	}
	return h, nil
}

func (h *host) close() { unix.Close(h.fd) }

// labType is the EtherType of the lab's frames: local experimental 2 (IEEE 802).
const labType = 0x88b6

// send sends frame number k of this host: with the address it has, and octets that can be checked.
func (h *host) send(n, k int) error {
	b := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, byte(n)}
	b = binary.BigEndian.AppendUint16(b, labType)
	b = binary.BigEndian.AppendUint64(b, uint64(n)<<32|uint64(k))
	for i := range 100 {
		b = append(b, byte(i*7+k))
	}
	_, err := unix.Write(h.fd, b)
	return err
}

// take counts what has come so far. A frame that is not as it was sent is an error.
func (h *host) take() error {
	b := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(h.fd, b, unix.MSG_DONTWAIT)
		if err != nil {
			return nil // nothing more is there
		}
		if a, ok := from.(*unix.SockaddrLinklayer); ok && a.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		f := b[:n]
		if n < 22 || binary.BigEndian.Uint16(f[12:]) != labType {
			continue
		}
		id := binary.BigEndian.Uint64(f[14:])
		whole := n == 122
		for i := range f[22:] {
			whole = whole && f[22+i] == byte(i*7+int(uint32(id)))
		}
		if !whole {
			return fmt.Errorf("%s got a frame of %d octets that nobody sent so", h.name, n)
		}
		h.got[id]++
	}
}

// from returns how many different frames of a host came, and how many came more than once.
func (h *host) from(n int) (came, twice int) {
	for id, k := range h.got {
		if int(id>>32) == n {
			came++
			if k > 1 {
				twice++
			}
		}
	}
	return came, twice
}

// settle gives frames that are under way the time to come.
func settle(hosts map[int]*host) error {
	for range 10 {
		time.Sleep(30 * time.Millisecond)
		for _, h := range hosts {
			if err := h.take(); err != nil {
				return err
			}
		}
	}
	return nil
}
