package ring

import (
	"testing"
	"time"

	"opentap/internal/nettest"

	"golang.org/x/sys/unix"
)

func TestNetnsSmoke(t *testing.T) {
	ns := nettest.NewNS(t)
	nettest.Veth(t, ns, "a0", ns, "b0")
	cfg := DefaultConfig()
	cfg.Interface = "b0"
	var r *Ring
	var err error
	var fd int
	ns.Do(func() {
		r, err = Open(cfg)
		fd, _ = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := ns.Link("a0")
	for range 10 {
		if err := unix.Sendto(fd, make([]byte, 60), 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}); err != nil {
			t.Fatal(err)
		}
	}
	unix.Close(fd)
	n := 0
	for n < 10 {
		_, err := r.Read(time.Second, func(b *Block) {
			var f Frame
			for b.Next(&f) {
				n++
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	c, err := r.Counts()
	t.Log(n, c, err)
}
