package fleet

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// turnstile lets connections make their handshakes, a few at a time of one address, and some more of all. It is safe for
// concurrent use.
type turnstile struct {
	all chan struct{}

	mu sync.Mutex
	of map[netip.Addr]*lane
}

// lane is the connections of one address.
type lane struct {
	turns   chan struct{}
	waiting int // those with a turn among them
}

func newTurnstile() *turnstile {
	return &turnstile{all: make(chan struct{}, handshakes), of: make(map[netip.Addr]*lane)}
}

var errTooMany = errors.New("too many connections are being made")

// enter waits for a turn, and returns how to give it back.
func (t *turnstile) enter(addr netip.Addr) (leave func(), err error) {
	l, err := t.lane(addr)
	if err != nil {
		return nil, err
	}
	patience := time.NewTimer(turnPatience)
	defer patience.Stop()
	select {
	case l.turns <- struct{}{}:
	case <-patience.C:
		t.leave(addr, l)
		return nil, errTooMany
	}
	select {
	case t.all <- struct{}{}:
	case <-patience.C:
		<-l.turns
		t.leave(addr, l)
		return nil, errTooMany
	}
	return func() {
		<-t.all
		<-l.turns
		t.leave(addr, l)
	}, nil
}

func (t *turnstile) lane(addr netip.Addr) (*lane, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.of[addr]
	if l == nil {
		l = &lane{turns: make(chan struct{}, handshakesOfOne)}
		t.of[addr] = l
	}
	if l.waiting >= waitingOfOne {
		return nil, errTooMany
	}
	l.waiting++
	return l, nil
}

func (t *turnstile) leave(addr netip.Addr, l *lane) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.waiting--; l.waiting == 0 {
		delete(t.of, addr)
	}
}

// addressOf is where a connection comes from; the zero address stands for what is none.
func addressOf(c net.Conn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// stranger is a connection of somebody without a certificate: it says little, and does not stay.
type stranger struct {
	net.Conn
	left  int // octets; only Read touches it, and one reads at a time
	ender *time.Timer
}

func newStranger(c net.Conn) net.Conn {
	return &stranger{Conn: c, left: strangerOctets, ender: time.AfterFunc(strangerLife, func() { _ = c.Close() })} // it is ours to end
}

// Read implements net.Conn.
func (s *stranger) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, errors.New("who has no certificate may not say so much")
	}
	n, err := s.Conn.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

// Close implements net.Conn.
func (s *stranger) Close() error {
	s.ender.Stop()
	return s.Conn.Close()
}
