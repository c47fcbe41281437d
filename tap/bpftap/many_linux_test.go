package bpftap

import (
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/filter/filtertest"
	"opentap/internal/nettest"
	"opentap/packet"
	"opentap/tap"
)

// TestNetnsManyTaps: a device has more taps than a tcx hook holds programs, each of them works, and goes alone.
func TestNetnsManyTaps(t *testing.T) {
	l := newLab(t, "")
	const n = 70
	began := time.Now()
	for i := range n {
		l.source(local(fmt.Sprint("t", i), tap.Out, tap.Options{Filter: fmt.Sprintf("udp dst port %d", 5000+i%2)}))
	}
	t.Logf("%d taps made in %v", n, time.Since(began))
	e := listen(t, l.tool, "t1")
	s := nettest.NewSender(t, l.owner, "p1")
	frame := nettest.Packet{DstPort: 5000}.Bytes()
	s.Send(frame)
	if got := len(e.hear(n / 2)); got != n/2 || e.silence() != 0 {
		t.Fatalf("%d copies, want %d", got, n/2)
	}
	l.host.Do(func() {
		if err := l.d.Close(); err != nil {
			t.Error(err)
		}
	})
	l.d = l.open("")
	for i := range n { // every second one goes
		id := fmt.Sprint("t", i)
		if i%4 == 0 {
			l.host.Do(func() {
				if err := l.d.Delete(t.Context(), id); err != nil {
					t.Error(err)
				}
			})
			continue
		}
		l.source(local(id, tap.Out, tap.Options{Filter: fmt.Sprintf("udp dst port %d", 5000+i%2)}))
	}
	s.Send(frame)
	if got, want := len(e.hear(n/2)), n/2-(n+3)/4; got != want || e.silence() != 0 {
		t.Errorf("%d copies, want %d", got, want)
	}
}

// TestNetnsFiltersLoad: the kernel takes every filter that there is an expression for, in the place of the stub (pitfall 8).
func TestNetnsFiltersLoad(t *testing.T) {
	l := newLab(t, "")
	n, began := 0, time.Now()
	for i, x := range filtertest.All() {
		if testing.Short() && i%10 != 0 {
			continue
		}
		e, err := filter.Parse(x)
		if err != nil {
			continue
		}
		if _, err := cbpf.Compile(e, cbpf.Options{Link: packet.LinkEthernet}); err != nil {
			continue
		}
		p := &plan{Source: tap.Source{Options: tap.Options{Filter: x}}}
		spec := l.d.tapSpec.Copy()
		if err := describe(spec, p, 0, true, 1); err != nil {
			t.Errorf("%q: %v", x, err)
			continue
		}
		l.host.Do(func() {
			var c *ebpf.Collection
			if c, err = ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Cache: l.d.types}); err == nil {
				c.Close()
			}
		})
		if err != nil {
			t.Errorf("%q: %+v", x, err)
		}
		n++
	}
	t.Logf("%d programs, %v each", n, time.Since(began)/time.Duration(max(n, 1)))
	if n < 40 {
		t.Errorf("only %d", n)
	}
}
