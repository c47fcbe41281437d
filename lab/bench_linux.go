package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"opentap/fault"
)

// bench is a network under construction.
type bench struct {
	cfg    Config
	dir    string
	prefix string // of the names of namespaces: that of no other lab
	env    []string
	spaces []string
	procs  []*exec.Cmd
}

// tools are what must be there, and the Debian package that has it.
var tools = map[string]string{
	"ip": "iproute2", "ovsdb-tool": "openvswitch-switch", "ovsdb-server": "openvswitch-switch", "ovs-vswitchd": "openvswitch-switch",
	"ovs-vsctl": "openvswitch-switch", "ovs-ofctl": "openvswitch-switch",
}

// schema is Open vSwitch's, where its packages put it.
const schema = "/usr/share/openvswitch/vswitch.ovsschema"

func find(tool string) (string, error) {
	if p, err := exec.LookPath(tool); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p := filepath.Join(dir, tool); executable(p) {
			return p, nil
		}
	}
	return "", &fault.Error{Kind: fault.Unsupported, Msg: "the lab needs the program " + tool, Hint: "install the package " + tools[tool]}
}

func executable(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.Mode()&0o111 != 0
}

// open checks what is needed and makes the directory of the lab.
func open(cfg Config) (*bench, error) {
	if os.Geteuid() != 0 {
		return nil, &fault.Error{Kind: fault.Forbidden, Msg: "the lab makes network namespaces, which takes root", Hint: "run it with sudo"}
	}
	for tool := range tools {
		if _, err := find(tool); err != nil {
			return nil, err
		}
	}
	if !executable(cfg.Opentapd) {
		return nil, fault.New(fault.NotFound, "there is no opentapd at %s", cfg.Opentapd)
	}
	dir, err := os.MkdirTemp("", "otlab")
	if err != nil {
		return nil, err
	}
	b := &bench{cfg: cfg, dir: dir, prefix: fmt.Sprintf("otlab%d-", os.Getpid())}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "OPENTAP_") {
			b.env = append(b.env, v)
		}
	}
	b.env = append(b.env, "OVS_RUNDIR="+dir, "OVS_LOGDIR="+dir, "OVS_DBDIR="+dir, "OVS_SYSCONFDIR="+dir, "OPENTAP_DATA="+dir+"/data")
	return b, nil
}

// close takes everything away: programs, namespaces with the interfaces in them, files.
func (b *bench) close() error {
	var all []error
	for i := len(b.procs) - 1; i >= 0; i-- {
		p := b.procs[i]
		_ = p.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = p.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			_ = p.Process.Kill()
			<-done
		}
	}
	for _, s := range b.spaces {
		if out, err := b.quiet("ip", "netns", "del", s); err != nil {
			all = append(all, fmt.Errorf("remove namespace %s: %w: %s", s, err, out))
		}
	}
	return errors.Join(append(all, os.RemoveAll(b.dir))...)
}

func (b *bench) command(name string, args ...string) (*exec.Cmd, error) {
	path := name
	if !strings.Contains(name, "/") {
		var err error
		if path, err = find(name); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(path, args...)
	cmd.Env = b.env
	return cmd, nil
}

// quiet runs a program and returns what it says.
func (b *bench) quiet(name string, args ...string) (string, error) {
	cmd, err := b.command(name, args...)
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// must is quiet, with a failure that names the program.
func (b *bench) must(name string, args ...string) error {
	if out, err := b.quiet(name, args...); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// inside runs a program in the namespace of the switches.
func (b *bench) inside(name string, args ...string) []string {
	return append([]string{"netns", "exec", b.prefix + "sw", name}, args...)
}

// daemon starts a program in the namespace of the switches. It dies with the lab.
func (b *bench) daemon(log string, name string, args ...string) error {
	path := name
	if !strings.Contains(name, "/") {
		var err error
		if path, err = find(name); err != nil {
			return err
		}
	}
	cmd, err := b.command("ip", b.inside(path, args...)...)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(b.dir, log), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt at the terminal is ours to handle
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	b.procs = append(b.procs, cmd)
	return nil
}

// wait waits for a condition.
func wait(ctx context.Context, what string, d time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func exists(path string) func() bool {
	return func() bool { _, err := os.Stat(path); return err == nil }
}

// space makes a namespace.
func (b *bench) space(name string) error {
	if err := b.must("ip", "netns", "add", b.prefix+name); err != nil {
		return fmt.Errorf("%w (was it left by a lab that was killed? ip netns del %s)", err, b.prefix+name)
	}
	b.spaces = append(b.spaces, b.prefix+name)
	// Without IPv6 the kernel sends nothing by itself, and every frame that is counted is one of the scenario.
	_, _ = b.quiet("ip", "netns", "exec", b.prefix+name, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
	return b.must("ip", "-n", b.prefix+name, "link", "set", "lo", "up")
}

// cable lays a cable between two namespaces, both ends up.
func (b *bench) cable(spaceA, a, spaceB, z string) error {
	if err := b.must("ip", "-n", b.prefix+spaceA, "link", "add", a, "type", "veth", "peer", "name", z, "netns", b.prefix+spaceB); err != nil {
		return err
	}
	if err := b.must("ip", "-n", b.prefix+spaceA, "link", "set", a, "up"); err != nil {
		return err
	}
	// The switches' user space hands on what a host's kernel leaves to its device: checksums that nobody has made. Without ethtool the
	// hosts reach each other all the same, but not by TCP.
	_, _ = b.quiet("ip", "netns", "exec", b.prefix+spaceB, "ethtool", "-K", z, "tx", "off")
	return b.must("ip", "-n", b.prefix+spaceB, "link", "set", z, "up")
}

func (b *bench) vsctl(args ...string) error {
	return b.must("ovs-vsctl", append([]string{"--db=unix:" + b.dir + "/db.sock", "--timeout=20"}, args...)...)
}

// switches starts Open vSwitch, of its own and with the datapath that needs no kernel module.
func (b *bench) switches(ctx context.Context) error {
	if err := b.must("ovsdb-tool", "create", b.dir+"/conf.db", schema); err != nil {
		return err
	}
	if err := b.daemon("ovs.log", "ovsdb-server", b.dir+"/conf.db", "--remote=punix:"+b.dir+"/db.sock", "--unixctl="+b.dir+"/ovsdb.ctl"); err != nil {
		return err
	}
	if err := wait(ctx, "ovsdb-server", 10*time.Second, exists(b.dir+"/db.sock")); err != nil {
		return err
	}
	if err := b.vsctl("--no-wait", "init"); err != nil {
		return err
	}
	if err := b.daemon("ovs.log", "ovs-vswitchd", "unix:"+b.dir+"/db.sock", "--disable-system", "--unixctl="+b.dir+"/vswitchd.ctl"); err != nil {
		return err
	}
	return wait(ctx, "ovs-vswitchd", 10*time.Second, exists(b.dir+"/vswitchd.ctl"))
}
