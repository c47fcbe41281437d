package cbpf

import (
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"opentap/filter"
	"opentap/packet"
)

// TestKernelTakesPrograms: the kernel's checker accepts every program of the corpus, in every form. Any socket will do, so
// this needs no privilege.
func TestKernelTakesPrograms(t *testing.T) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skipf("needs a socket: %v", err)
	}
	defer unix.Close(fd)
	attach := func(p []bpf.RawInstruction) error {
		ins := make([]unix.SockFilter, len(p))
		for i, r := range p {
			ins[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
		}
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(ins)), Filter: (*unix.SockFilter)(unsafe.Pointer(&ins[0]))})
	}
	n := 0
	for _, x := range append(ownExpressions(t), "") {
		e, err := filter.Parse(x)
		if err != nil {
			t.Fatal(err)
		}
		var programs [][]bpf.RawInstruction
		for _, o := range []Options{
			{Link: packet.LinkEthernet, Target: Kernel},
			{Link: packet.LinkEthernet, Target: Kernel, Strict: true},
			{Link: packet.LinkRaw, Target: Kernel},
			{Link: packet.LinkEthernet},
		} {
			if p, err := Compile(e, o); err == nil {
				programs = append(programs, p)
			}
		}
		if e.Root != nil {
			o := Options{Link: packet.LinkEthernet, Target: Kernel, SnapLen: 65535}
			if p, err := compileCompact(e, o); err == nil {
				programs = append(programs, p)
			}
		}
		for _, p := range programs {
			if err := attach(p); err != nil {
				t.Errorf("%q: %v: %v", x, err, p)
			}
			n++
		}
	}
	t.Logf("%d programs", n)
}
