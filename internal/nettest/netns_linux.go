package nettest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is a network namespace, its loopback up. Methods may be called from any goroutine.
type NS struct {
	tb     testing.TB
	handle netns.NsHandle
	work   chan func()
	done   chan struct{}
	nl     *netlink.Handle
}

// NewNS makes a namespace that lives as long as the test. It skips the test where that is not permitted.
func NewNS(tb testing.TB) *NS {
	tb.Helper()
	ns := &NS{tb: tb, work: make(chan func()), done: make(chan struct{})}
	ready := make(chan error)
	go ns.serve(ready)
	if err := <-ready; err != nil {
		if errors.Is(err, os.ErrPermission) {
			tb.Skip("needs CAP_NET_RAW and CAP_SYS_ADMIN (network namespace)")
		}
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		close(ns.work)
		<-ns.done
	})
	nl, err := netlink.NewHandleAt(ns.handle)
	if err != nil {
		tb.Fatalf("open netlink in namespace: %v", err)
	}
	ns.nl = nl
	tb.Cleanup(nl.Close)
	ns.Up("lo")
	return ns
}

// serve runs the functions given to Do on a thread of its own inside the namespace. The thread is never unlocked, so
// it dies with the goroutine instead of serving others from the wrong namespace.
func (ns *NS) serve(ready chan<- error) {
	runtime.LockOSThread()
	defer close(ns.done)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		ready <- fmt.Errorf("make network namespace: %w", err)
		return
	}
	var err error
	if ns.handle, err = netns.Get(); err != nil {
		ready <- fmt.Errorf("hold network namespace: %w", err)
		return
	}
	defer ns.handle.Close()
	ready <- nil
	for fn := range ns.work {
		fn()
	}
}

// Do runs fn on a thread inside the namespace and returns when fn does. Sockets made by fn belong to the namespace,
// also when they are used elsewhere later. Goroutines started by fn are not inside. fn may call runtime.Goexit
// (t.Fatal) no more than any other goroutine of a test: return an error through a variable instead.
func (ns *NS) Do(fn func()) {
	finished := make(chan struct{})
	ns.work <- func() {
		defer close(finished)
		fn()
	}
	<-finished
}

// Up sets an interface up.
func (ns *NS) Up(name string) { ns.set(name, "up", ns.nl.LinkSetUp) }

// Down sets an interface down.
func (ns *NS) Down(name string) { ns.set(name, "down", ns.nl.LinkSetDown) }

// Delete removes an interface; a veth takes its peer along.
func (ns *NS) Delete(name string) { ns.set(name, "remove", ns.nl.LinkDel) }

func (ns *NS) set(name, verb string, do func(netlink.Link) error) {
	ns.tb.Helper()
	if err := do(ns.Link(name)); err != nil {
		ns.tb.Fatalf("%s %s: %v", verb, name, err)
	}
}

// Link returns an interface with its present counters.
func (ns *NS) Link(name string) netlink.Link {
	ns.tb.Helper()
	l, err := ns.nl.LinkByName(name)
	if err != nil {
		ns.tb.Fatalf("find %s: %v", name, err)
	}
	return l
}

// Netlink returns the netlink handle of the namespace, for what has no method here.
func (ns *NS) Netlink() *netlink.Handle { return ns.nl }

// Received returns how many packets the interface received; Sent how many it sent.
func (ns *NS) Received(name string) uint64 { return ns.Link(name).Attrs().Statistics.RxPackets }

// Sent returns how many packets the interface sent.
func (ns *NS) Sent(name string) uint64 { return ns.Link(name).Attrs().Statistics.TxPackets }

// Handle returns the namespace's file descriptor.
func (ns *NS) Handle() int { return int(ns.handle) }

// Veth lays a cable: two interfaces, both up, nameA in a and nameB in b (which may be the same namespace). They are
// quiet: IPv6 is off, so that the kernel sends nothing of its own (no neighbour discovery, no multicast reports).
func Veth(tb testing.TB, a *NS, nameA string, b *NS, nameB string) {
	tb.Helper()
	a.Quiet()
	b.Quiet()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nameA
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(int(b.handle))}
	if err := a.nl.LinkAdd(link); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			tb.Skip("needs a kernel with veth")
		}
		tb.Fatalf("lay veth %s-%s: %v", nameA, nameB, err)
	}
	a.Up(nameA)
	b.Up(nameB)
	a.Ready(nameA)
	b.Ready(nameB)
}

// Ready waits until frames can leave through an interface: the kernel lets them some time after both ends of a cable
// are up (net/core/link_watch.c), and silently drops them before.
func (ns *NS) Ready(name string) {
	ns.tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); ns.Link(name).Attrs().OperState != netlink.OperUp; {
		if time.Now().After(deadline) {
			ns.tb.Fatalf("%s has no carrier: is the far end up?", name)
		}
		time.Sleep(time.Millisecond)
	}
}

// Quiet turns IPv6 off for interfaces to come.
func (ns *NS) Quiet() {
	ns.tb.Helper()
	var err error
	ns.Do(func() {
		// The file stands for the namespace of the thread that opens it.
		err = os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	})
	if errors.Is(err, os.ErrNotExist) {
		return // a kernel without IPv6 is quiet
	}
	if err != nil {
		ns.tb.Fatalf("turn IPv6 off: %v", err)
	}
}
