package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// vswitch is an Open vSwitch of the bench's own, with the datapath that needs no kernel module, on the processor of the generator.
type vswitch struct {
	dir      string
	db, main *process
}

// vswitchTaps measures mirrors of a port of Open vSwitch: its own, ours, and those that the kernel has for the port's device.
func (b *bench) vswitchTaps(ctx context.Context) (err error) {
	for _, program := range []string{"ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl"} {
		if !b.has(program) {
			return nil
		}
	}
	v := &vswitch{dir: filepath.Join(b.dir, "ovs")}
	p, err := b.newTapPath("ovs", func() error { return v.start(ctx) })
	defer v.stop()
	if p == nil || err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	p.beside = v.main
	same := []string{"no tap", "opentap 1 tap", "nft dup", "tc mirred"}
	cases := slices.DeleteFunc(b.tapCases(p.d), func(c *tapCase) bool { return !slices.Contains(same, c.name) })
	cases = append(cases, &tapCase{name: "Open vSwitch mirror", copies: 1, values: &series{}, make: v.mirror, unmake: v.unmirror})
	rounds := 7
	if b.quick {
		rounds = 1
	}
	if err := p.measure(ctx, cases, rounds, 10_000); err != nil {
		return fmt.Errorf("open vSwitch: %w", err)
	}
	b.tapRows(cases, []tapTask{
		{"port of Open vSwitch (userspace datapath) mirrored", []string{"opentap 1 tap", "Open vSwitch mirror", "nft dup", "tc mirred", "no tap"}},
	})
	return nil
}

// start has it forward what comes in at one port to the other. It runs on the lab's thread.
func (v *vswitch) start(ctx context.Context) error {
	if err := os.Mkdir(v.dir, 0o700); err != nil {
		return err
	}
	if err := pin(0); err != nil {
		return err
	}
	if err := v.tell("ovsdb-tool", "create", v.file("conf.db"), "/usr/share/openvswitch/vswitch.ovsschema"); err != nil {
		return err
	}
	var err error
	if v.db, err = v.daemon(ctx, "ovsdb-server", v.file("conf.db"), "--remote=punix:"+v.file("db.sock"), "--unixctl="+v.file("ovsdb.ctl"), "-vconsole:off"); err != nil {
		return err
	}
	if err := v.await("db.sock"); err != nil {
		return err
	}
	if err := v.vsctl("--no-wait", "init"); err != nil {
		return err
	}
	if v.main, err = v.daemon(ctx, "ovs-vswitchd", "unix:"+v.file("db.sock"), "--disable-system", "--unixctl="+v.file("vswitchd.ctl"), "-vconsole:off"); err != nil {
		return err
	}
	if err := v.await("vswitchd.ctl"); err != nil {
		return err
	}
	if err := v.vsctl("add-br", "path0", "--", "set", "bridge", "path0", "datapath_type=netdev", "fail_mode=secure",
		"--", "add-port", "path0", rxName, "--", "set", "interface", rxName, "ofport_request=1",
		"--", "add-port", "path0", outName, "--", "set", "interface", outName, "ofport_request=2"); err != nil {
		return err
	}
	// Where frames of both directions come in at one port there is nothing to be learnt: they go to the other port by a rule.
	return v.tell("ovs-ofctl", "add-flow", "unix:"+v.file("path0.mgmt"), "in_port=1,actions=output:2")
}

// mirror has it copy what comes in at the port to the tool's.
func (v *vswitch) mirror() error {
	return v.vsctl("add-port", "path0", toolName, "--", "--id=@from", "get", "port", rxName, "--", "--id=@to", "get", "port", toolName,
		"--", "--id=@m", "create", "mirror", "name=bench", "select_src_port=@from", "output_port=@to", "--", "set", "bridge", "path0", "mirrors=@m")
}

func (v *vswitch) unmirror() error {
	return v.vsctl("clear", "bridge", "path0", "mirrors", "--", "del-port", "path0", toolName)
}

// stop ends its programs, which have nothing to save.
func (v *vswitch) stop() {
	for _, p := range []*process{v.main, v.db} {
		if p != nil {
			_ = p.cmd.Process.Kill() // it may have ended
			_, _ = p.wait()          // as killed
		}
	}
}

func (v *vswitch) file(name string) string { return filepath.Join(v.dir, name) }

func (v *vswitch) await(name string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(v.file(name)); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("open vSwitch does not make %s", name)
		}
	}
}

func (v *vswitch) vsctl(args ...string) error {
	return v.tell("ovs-vsctl", append([]string{"--db=unix:" + v.file("db.sock"), "--timeout=20"}, args...)...)
}

// daemon starts one of its programs. It ends with the lab's thread at the latest.
func (v *vswitch) daemon(ctx context.Context, name string, args ...string) (*process, error) {
	return start(ctx, "env", append([]string{"OVS_RUNDIR=" + v.dir, "OVS_LOGDIR=" + v.dir, name}, args...)...)
}

// tell runs one of its programs to its end.
func (v *vswitch) tell(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
