package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/internal/nettest"
	"opentap/packet"
)

// stenoCerts is where Debian's package puts the certificates that its server and its client show one another.
const stenoCerts = "/etc/stenographer/certs"

// stenoDir is where it keeps what it captured, in the directory of the run.
const stenoDir = "steno"

// steno is a stenographer: stenotype that captures, and the server that answers stenoread. It runs in the lab.
type steno struct {
	lab    *lab
	config string
	p      *process
}

// canSteno says why stenographer cannot be run; nil = it can.
func canSteno() error {
	for _, program := range []string{"stenographer", "stenotype", "stenoread", "stenocurl", "jq", "curl", "tcpdump"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is not installed", program)
		}
	}
	for _, name := range []string{"ca_cert.pem", "server_cert.pem", "server_key.pem", "client_cert.pem", "client_key.pem"} {
		if _, err := os.Stat(stenoCerts + "/" + name); err != nil {
			return fmt.Errorf("it has no certificate (%v): run stenokeys stenographer stenographer", err)
		}
	}
	return nil
}

// startSteno starts one that captures on the cable. Called on the lab's thread.
func (b *bench) startSteno(ctx context.Context, l *lab) (*steno, error) {
	// It makes directories of its own that its stenotype must be able to enter: so both are the package's user, with what
	// the package's service is given.
	who, err := user.Lookup("stenographer")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(who.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(who.Gid)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(b.dir, 0o711); err != nil {
		return nil, err
	}
	packets, indexes := b.file(stenoDir+"/packets"), b.file(stenoDir+"/index")
	for _, dir := range []string{b.file(stenoDir), packets, indexes} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, err
		}
	}
	stenotype, err := exec.LookPath("stenotype")
	if err != nil {
		return nil, err
	}
	cfg, err := json.Marshal(map[string]any{
		"Threads":       []any{map[string]any{"PacketsDirectory": packets, "IndexDirectory": indexes, "MaxDirectoryFiles": 1000, "DiskFreePercentage": 1}},
		"StenotypePath": stenotype, "Interface": rxName, "Port": 11234, "Host": "127.0.0.1", "CertPath": stenoCerts,
		"Flags": []string{"--seccomp=none", "--fileage_sec=20", "--blocks=128"},
	})
	if err != nil {
		return nil, err
	}
	s := &steno{lab: l, config: b.file("steno.json")}
	if err := os.WriteFile(s.config, cfg, 0o644); err != nil {
		return nil, err
	}
	attr := &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		AmbientCaps: []uintptr{unix.CAP_NET_RAW, unix.CAP_NET_ADMIN, unix.CAP_IPC_LOCK},
	}
	// Its temporary files too are to be gone when we are.
	s.p, err = startAs(ctx, attr, "env", "TMPDIR="+b.file(stenoDir), "stenographer", "--config", s.config, "--syslog=false")
	return s, err
}

// stop ends it and its stenotype.
func (s *steno) stop() { _ = syscall.Kill(-s.p.cmd.Process.Pid, syscall.SIGKILL) }

// read asks a question as stenoread does, and counts the packets that come.
func (s *steno) read(ctx context.Context, text string) (n int, u usage, err error) {
	err = s.lab.do(func() error {
		os.Setenv("STENOGRAPHER_CONFIG", s.config)
		p, err := start(ctx, "stenoread", text, "-Z", "root", "-w", "/dev/null")
		if err != nil {
			return err
		}
		if u, err = p.wait(); err != nil {
			return err
		}
		p, err = start(ctx, "sh", "-c", `stenocurl /query -d "$1" --silent --show-error | tcpdump -Z root -r - -w - 2>/dev/null | tcpdump -Z root -r - --count 2>/dev/null`, "sh", text)
		if err != nil {
			return err
		}
		if _, err = p.wait(); err != nil {
			return err
		}
		n, err = strconv.Atoi(strings.Fields(p.out.String() + " 0")[0])
		return err
	})
	return n, u, err
}

// What stenotype captures beside the others.
const (
	besideCount = 2_700_000 // packets of IMIX in a GB
	besideRate  = 150_000   // that it takes
	besideMost  = 10        // GB: at this rate it takes three minutes
)

// beside says how many GB are captured by each of them, and whether tcpdump is one of them: the largest of the sizes that are
// searched, as far as the disk has room.
func (b *bench) beside() (gb float64, three bool, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(b.dir, &fs); err != nil {
		return 0, false, err
	}
	free := (float64(fs.Bavail)*float64(fs.Bsize) - diskNeeded) / 1e9
	gb = max(1, min(slices.Max(b.sizes), besideMost))
	if three = free > 3*gb; !three {
		b.note("tcpdump is not asked beside stenographer: the disk is too small for it too")
		gb = max(1, min(gb, free/2))
	}
	return gb, three, nil
}

// queryBeside asks ours, tcpdump and stenographer about the same packets: all three have captured them at the same time.
func (b *bench) queryBeside(ctx context.Context) error {
	if err := canSteno(); err != nil {
		b.note("stenographer is left out: %v", err)
		return nil
	}
	gb, three, err := b.beside()
	if err != nil {
		return err
	}
	l, err := newLab()
	if err != nil {
		if errors.Is(err, errNotPermitted) {
			b.note("stenographer is left out: it %v", err)
			return nil
		}
		return err
	}
	defer l.close()
	if err := l.do(func() error { return l.setMix(nettest.MixIMIX) }); err != nil {
		return err
	}
	dir, file := b.file("beside"), b.file("beside.pcap")
	defer os.RemoveAll(dir)
	defer os.Remove(file)
	defer os.RemoveAll(b.file(stenoDir))
	var s *steno
	var began, ended time.Time
	err = l.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		if s, err = b.startSteno(ctx, l); err != nil {
			return err
		}
		if err := l.rings(ctx, 1); err != nil {
			return fmt.Errorf("stenographer: %w: %s", err, strings.TrimSpace(s.p.err.String()))
		}
		var running []*process
		for _, t := range tools {
			out := dir
			if t.name == "tcpdump" && three {
				out = file
			} else if t.name != "opentap" {
				continue
			}
			name, args := t.command(out)
			p, err := start(ctx, name, args...)
			if err != nil {
				return err
			}
			running = append(running, p)
		}
		if err := l.rings(ctx, 1+len(running)); err != nil {
			return err
		}
		began = time.Now()
		if err := l.gen.Run(ctx, uint64(gb*besideCount), besideRate); err != nil {
			return err
		}
		ended = time.Now()
		for _, p := range running {
			p.rest(ctx, 1100*time.Millisecond)
			if _, err := p.finish(); err != nil {
				return err
			}
		}
		return nil
	})
	if s != nil {
		defer s.stop()
	}
	if err != nil {
		return err
	}
	ours, err := countStored(dir)
	if err != nil {
		return err
	}
	if !three {
		file = ""
	}
	// A whole second for the part of the time: stenographer knows no parts of it.
	from := began.Add(ended.Sub(began) / 2).Truncate(time.Second)
	q := queryRun{
		size: fmt.Sprintf("%.1f M packets as captured beside stenotype", float64(ours)/1e6), dir: dir, file: file, steno: s,
		part: "two seconds", from: packet.TimestampOf(from), to: packet.TimestampOf(from.Add(2 * time.Second)),
	}
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(time.Second) { // until it has rotated its file
		n, _, err := s.read(ctx, shapes[0].steno)
		if err == nil && n > 0 {
			break
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			b.note("stenographer is left out: after 90 s it finds nothing (%v): %s", err, strings.TrimSpace(s.p.err.String()))
			q.steno = nil
			break
		}
	}
	return b.ask(ctx, &q)
}

// rings waits until n tools capture on the cable.
func (l *lab) rings(ctx context.Context, n int) error {
	want := fmt.Sprint(l.rx)
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile("/proc/thread-self/net/packet")
		if err != nil {
			return err
		}
		there := 0
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 9 && f[3] == "0003" && f[4] == want && f[5] == "1" {
				there++
			}
		}
		if there >= n {
			time.Sleep(150 * time.Millisecond)
			return nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%d of %d tools capture after 15 s", there, n)
		}
	}
}
