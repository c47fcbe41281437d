package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is what a process took.
type usage struct {
	cpu  time.Duration // user and system, all threads, from ready on
	wall time.Duration // from start to end
	rss  int64         // octets, the most
}

// process is a tool that runs. It dies with the thread that started it.
type process struct {
	name   string
	cmd    *exec.Cmd
	out    bytes.Buffer // stdout
	err    bytes.Buffer
	began  time.Time
	before time.Duration // CPU time when it was ready
	peak   int64
	ended  chan error
}

// start runs a program. It inherits network namespace and CPU affinity of the calling thread, which must be locked.
func start(ctx context.Context, name string, args ...string) (*process, error) {
	return startAs(ctx, &syscall.SysProcAttr{}, name, args...)
}

// startAs is start as another user, or with other capabilities.
func startAs(ctx context.Context, attr *syscall.SysProcAttr, name string, args ...string) (*process, error) {
	p := &process{name: name, ended: make(chan error, 1)}
	p.cmd = exec.CommandContext(ctx, name, args...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.Env = append(os.Environ(), "LC_ALL=C")
	// A group of its own: an interrupt is ours to pass on.
	attr.Setpgid, attr.Pdeathsig = true, syscall.SIGKILL
	p.cmd.SysProcAttr = attr
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	return p, nil
}

// runTool starts a program, waits for its end and returns what it took altogether.
func runTool(ctx context.Context, name string, args ...string) (*process, usage, error) {
	p, err := start(ctx, name, args...)
	if err != nil {
		return nil, usage{}, err
	}
	u, err := p.wait()
	return p, u, err
}

// runSelf is runTool for one of this program's own children.
func runSelf(ctx context.Context, child string, args ...string) (*process, usage, error) {
	return runTool(ctx, "/proc/self/exe", append([]string{child}, args...)...)
}

func (p *process) wait() (usage, error) {
	err := <-p.ended
	s := p.cmd.ProcessState
	u := usage{wall: time.Since(p.began), rss: p.peak}
	if s != nil {
		u.cpu = s.UserTime() + s.SystemTime() - p.before
		if r, ok := s.SysUsage().(*syscall.Rusage); ok && p.peak == 0 {
			u.rss = r.Maxrss << 10
		}
	}
	if err != nil {
		return u, fmt.Errorf("%s: %w: %s", p.name, err, strings.TrimSpace(p.err.String()))
	}
	return u, nil
}

// ready notes the CPU time so far: what the tool takes to start is not counted.
func (p *process) ready() { p.before = p.cpu() }

// cpu is the time that the process' threads have run so far (linux Documentation/scheduler/sched-stats.rst).
func (p *process) cpu() time.Duration {
	base := fmt.Sprintf("/proc/%d/task/", p.cmd.Process.Pid)
	tasks, err := os.ReadDir(base)
	if err != nil {
		return 0
	}
	var sum time.Duration
	for _, t := range tasks {
		b, err := os.ReadFile(base + t.Name() + "/schedstat")
		if err != nil {
			continue
		}
		first, _, _ := strings.Cut(string(b), " ")
		n, _ := strconv.ParseInt(first, 10, 64)
		sum += time.Duration(n)
	}
	return sum
}

// rest waits until the process has done nothing for quiet, at most a few seconds: it has read all that it will.
func (p *process) rest(ctx context.Context, quiet time.Duration) {
	const idle = 2 * time.Millisecond // of CPU time: timers
	deadline := time.Now().Add(8 * time.Second)
	since, at := time.Now(), p.cpu()
	for time.Since(since) < quiet && time.Now().Before(deadline) && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
		if now := p.cpu(); now > at+idle {
			since, at = time.Now(), now
		}
	}
}

// finish interrupts the process as a user would, and waits for its end.
func (p *process) finish() (usage, error) {
	p.peak = p.highWater()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return usage{}, err
	}
	return p.wait()
}

// highWater is the most memory the process has had resident. Not ru_maxrss, which begins with that of the parent.
func (p *process) highWater() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// alive reports whether the process still runs; if not, its end is still to be waited for.
func (p *process) alive() bool {
	select {
	case err := <-p.ended:
		p.ended <- err
		return false
	default:
		return true
	}
}
