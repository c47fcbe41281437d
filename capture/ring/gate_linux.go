package ring

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Gate lets calls into something that another goroutine may close meanwhile: closing ends the call that waits, and comes
// after the last one. Rings of either kind have one. All its methods but Open and Release may be called from any goroutine.
type Gate struct {
	// users counts calls in progress; closing is added by Shut, which waits on idle for the last of them.
	users atomic.Int64
	idle  chan struct{}
	fd    int // eventfd that ends a waiting call
}

const closing = 1 << 62

// NewGate returns a Gate that is not open yet.
func NewGate() Gate { return Gate{idle: make(chan struct{}, 1), fd: -1} }

// Open makes the descriptor that a call waits on beside its own.
func (g *Gate) Open() (err error) {
	if g.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("make eventfd: %w", err)
	}
	return nil
}

// Poll is what a call that waits must also wait for.
func (g *Gate) Poll() unix.PollFd { return unix.PollFd{Fd: int32(g.fd), Events: unix.POLLIN} }

// Enter notes a call in progress; false: the gate is shut. After true Leave must follow.
func (g *Gate) Enter() bool {
	if g.users.Add(1) >= closing {
		g.Leave()
		return false
	}
	return true
}

// Leave ends a call and, beside Shut, tells the last one out.
func (g *Gate) Leave() {
	if g.users.Add(-1) == closing {
		select {
		case g.idle <- struct{}{}:
		default:
		}
	}
}

// Closed reports whether a call in progress should end since the gate is being shut.
func (g *Gate) Closed() bool { return g.users.Load() >= closing }

// Wake makes a call that waits, or else the next one that would wait, return.
func (g *Gate) Wake() {
	if !g.Enter() {
		return
	}
	defer g.Leave()
	g.wake()
}

func (g *Gate) wake() {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], 1)
	unix.Write(g.fd, b[:]) // can only fail when it is set already
}

// Woken takes back a Wake, once the call that waits has seen it.
func (g *Gate) Woken() {
	var b [8]byte
	unix.Read(g.fd, b[:]) // resets the eventfd
}

// Shut lets no more calls in and returns when the last one has left; false: it was shut before.
func (g *Gate) Shut() bool {
	for {
		n := g.users.Load()
		if n >= closing {
			return false
		}
		if g.users.CompareAndSwap(n, n+closing) {
			if n > 0 {
				g.wake()
				for g.users.Load() != closing {
					<-g.idle
				}
			}
			return true
		}
		runtime.Gosched()
	}
}

// Release closes the descriptor.
func (g *Gate) Release() error {
	if g.fd < 0 {
		return nil
	}
	fd := g.fd
	g.fd = -1
	return unix.Close(fd)
}
