package doctor

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"opentap/want"
)

// Bits of capability sets (include/uapi/linux/capability.h).
const (
	capNetAdmin = 12
	capNetRaw   = 13
	capSysAdmin = 21
	capBPF      = 39
)

const rightsFix = "start it with the packaged service, or give it: setcap cap_net_raw,cap_net_admin,cap_bpf=ep on opentapd"

// host does the checks of the machine.
func host(cfg Config) []want.Finding {
	if cfg.CaptureDir == "" {
		return []want.Finding{clock()}
	}
	return []want.Finding{kernel(), rights(), socketFilter(), ringVersion(), afXDP(), clock(), memory(cfg.RingBytes)}
}

func freeOctets(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs: %w", err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// release returns the running kernel's, as text and as two numbers.
func release() (text string, major, minor int) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown", 0, 0
	}
	text = unix.ByteSliceToString(u.Release[:])
	_, _ = fmt.Sscanf(text, "%d.%d", &major, &minor) // zeros when it is of another form
	return text, major, minor
}

func kernel() want.Finding {
	text, major, minor := release()
	if major*1000+minor < 5010 {
		return found("kernel", want.Warn, "use a kernel from 5.10 on", "Linux %s is older than what OpenTap is tested with", text)
	}
	if major*1000+minor < 6006 {
		return found("kernel", want.Warn, "use a kernel from 6.6 on, if taps are wanted", "Linux %s has no tcx: programs cannot be attached beside others'", text)
	}
	return fine("kernel", "Linux %s, with tcx", text)
}

// effective reads this process's effective capabilities.
func effective() (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	return 0, fmt.Errorf("/proc/self/status has no CapEff")
}

func rights() want.Finding {
	caps, err := effective()
	if err != nil {
		return found("capabilities", want.Warn, "mount /proc", "capabilities cannot be read: %v", err)
	}
	has := func(bit int) bool { return caps&(1<<bit) != 0 }
	switch {
	case !has(capNetRaw):
		return found("capabilities", want.Bad, rightsFix, "CAP_NET_RAW is missing: no packets can be captured")
	case !has(capNetAdmin):
		return found("capabilities", want.Warn, rightsFix, "CAP_NET_ADMIN is missing: no promiscuous mode, and no dedicated ports")
	case !has(capBPF) && !has(capSysAdmin):
		return found("capabilities", want.Warn, rightsFix, "CAP_BPF is missing: packets that filters refuse are not counted")
	}
	return fine("capabilities", "CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF are there")
}

func socketFilter() want.Finding {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SocketFilter, License: "Dual MIT/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return found("ebpf", want.Warn, rightsFix, "eBPF socket filters cannot be loaded, so that packets that filters refuse are not counted: %v", err)
	}
	p.Close()
	return fine("ebpf", "eBPF socket filters can be loaded")
}

func ringVersion() want.Finding {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3)
	}
	if err != nil {
		return found("packet_ring", want.Bad, rightsFix, "packet sockets with TPACKET_V3 cannot be opened: %v", err)
	}
	return fine("packet_ring", "packet sockets with TPACKET_V3 can be opened")
}

func afXDP() want.Finding {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return found("af_xdp", want.Warn, "use a kernel with CONFIG_XDP_SOCKETS; until then dedicated ports are read by packet sockets", "AF_XDP sockets cannot be opened: %v", err)
	}
	unix.Close(fd)
	return fine("af_xdp", "AF_XDP sockets can be opened")
}

// maxClockError is what packet times of several hosts may be apart without confusion.
const maxClockError = 100 * time.Millisecond

// clock asks the kernel's clock discipline (adjtimex(2)).
func clock() want.Finding {
	const fix = "run chrony or systemd-timesyncd: times of packets are this host's"
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return found("clock", want.Warn, fix, "the clock's state cannot be read: %v", err)
	}
	off := time.Duration(t.Maxerror) * time.Microsecond
	switch {
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		return found("clock", want.Warn, fix, "the clock is not synchronised; it may be wrong by %s or more", off)
	case off > maxClockError:
		return found("clock", want.Warn, fix, "the clock may be wrong by %s", off)
	}
	return fine("clock", "the clock is synchronised, to %s", off)
}

// memory compares one ring with what is free.
func memory(ring int64) want.Finding {
	const check = "ring_memory"
	free, err := available()
	switch {
	case err != nil:
		return found(check, want.Warn, "mount /proc", "free memory cannot be read: %v", err)
	case ring > free/2:
		return found(check, want.Bad, "lower ring.blocks", "each source of packets takes %s for its ring, and %s of memory are free", octets(ring), octets(free))
	case ring > free/8:
		return found(check, want.Warn, "lower ring.blocks when several points are captured at once",
			"each source of packets takes %s for its ring, and %s of memory are free", octets(ring), octets(free))
	}
	return fine(check, "each source of packets takes %s for its ring; %s of memory are free", octets(ring), octets(free))
}

// available reads how much memory can be had without swapping, octets.
func available() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "MemAvailable:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(v, "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no MemAvailable")
}
