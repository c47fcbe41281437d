package nettest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// OVS is an Open vSwitch of its own, with the userspace datapath, inside a namespace. Its daemons die with the test.
type OVS struct {
	tb  testing.TB
	ns  *NS
	dir string
	env []string
}

// NewOVS starts one. It skips the test where Open vSwitch is not installed.
func NewOVS(tb testing.TB, ns *NS) *OVS {
	tb.Helper()
	for _, tool := range []string{"ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl"} {
		if _, err := lookTool(tool); err != nil {
			tb.Skipf("needs %s (package openvswitch-switch)", tool)
		}
	}
	dir, err := os.MkdirTemp("", "ovs") // a short name: paths of sockets have 107 octets
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	o := &OVS{tb: tb, ns: ns, dir: dir}
	o.env = append(os.Environ(), "OVS_RUNDIR="+dir, "OVS_LOGDIR="+dir, "OVS_DBDIR="+dir, "OVS_SYSCONFDIR="+dir)
	o.run("ovsdb-tool", "create", dir+"/conf.db", "/usr/share/openvswitch/vswitch.ovsschema")
	o.daemon("ovsdb-server", dir+"/conf.db", "--remote=punix:"+dir+"/db.sock", "--unixctl="+dir+"/ovsdb.ctl", "--log-file="+dir+"/ovsdb.log", "-vconsole:off")
	o.await(dir + "/db.sock")
	o.Ctl("--no-wait", "init")
	o.daemon("ovs-vswitchd", "unix:"+dir+"/db.sock", "--disable-system", "--enable-dummy", "--unixctl="+dir+"/vswitchd.ctl", "--log-file="+dir+"/vswitchd.log", "-vconsole:off")
	o.await(dir + "/vswitchd.ctl")
	return o
}

func lookTool(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	p := filepath.Join("/usr/sbin", name)
	_, err := os.Stat(p)
	return p, err
}

func (o *OVS) command(name string, args ...string) *exec.Cmd {
	path, err := lookTool(name)
	if err != nil {
		o.tb.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = o.env
	return cmd
}

// daemon starts a program that dies with the thread of the namespace at the latest.
func (o *OVS) daemon(name string, args ...string) {
	o.tb.Helper()
	cmd := o.command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	o.ns.Do(func() { err = cmd.Start() })
	if err != nil {
		o.tb.Fatalf("start %s: %v", name, err)
	}
	o.tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func (o *OVS) await(path string) {
	o.tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if time.Now().After(deadline) {
			o.tb.Fatalf("%s does not appear", path)
		}
	}
}

// run runs a program inside the namespace and returns what it says.
func (o *OVS) run(name string, args ...string) string {
	o.tb.Helper()
	out, err := o.try(name, args...)
	if err != nil {
		o.tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (o *OVS) try(name string, args ...string) (string, error) {
	cmd := o.command(name, args...)
	var b strings.Builder
	cmd.Stdout, cmd.Stderr = &b, &b
	var err error
	o.ns.Do(func() {
		err = cmd.Run()
	})
	return b.String(), err
}

// Ctl runs ovs-vsctl.
func (o *OVS) Ctl(args ...string) string {
	o.tb.Helper()
	return o.run("ovs-vsctl", append([]string{"--db=unix:" + o.dir + "/db.sock", "--timeout=20"}, args...)...)
}

// Ofctl runs ovs-ofctl with OpenFlow 1.3.
func (o *OVS) Ofctl(args ...string) string {
	o.tb.Helper()
	return o.run("ovs-ofctl", append([]string{"-O", "OpenFlow13"}, args...)...)
}

// Env is the environment with which ovs-ofctl and its like find this Open vSwitch.
func (o *OVS) Env() []string { return slices.Clone(o.env) }

// Bridge makes a switch with this datapath id that drops what no rule is for.
func (o *OVS) Bridge(name string, dpid uint64) {
	o.tb.Helper()
	o.Ctl("add-br", name, "--", "set", "bridge", name, "datapath_type=netdev", "fail_mode=secure", "protocols=OpenFlow10,OpenFlow13",
		fmt.Sprintf("other_config:datapath-id=%016x", dpid), "other_config:disable-in-band=true")
}

// Port gives a switch an interface of the namespace as a port with this number.
func (o *OVS) Port(bridge, iface string, number int) {
	o.tb.Helper()
	o.Ctl("add-port", bridge, iface, "--", "set", "interface", iface, fmt.Sprintf("ofport_request=%d", number))
}

// Controller has a switch connect to addresses such as tcp:127.0.0.1:6653; without any it forgets them.
func (o *OVS) Controller(bridge string, addrs ...string) {
	o.tb.Helper()
	if len(addrs) == 0 {
		o.Ctl("del-controller", bridge)
		return
	}
	o.Ctl(append([]string{"set-controller", bridge}, addrs...)...)
	for _, id := range strings.Fields(o.Ctl("--columns=_uuid", "--bare", "find", "controller")) {
		o.Ctl("set", "controller", id, "connection-mode=out-of-band", "max_backoff=1000", "inactivity_probe=5000")
	}
}

// Protocols sets what a switch speaks, such as OpenFlow10,OpenFlow13.
func (o *OVS) Protocols(bridge, protocols string) {
	o.tb.Helper()
	o.Ctl("set", "bridge", bridge, "protocols="+protocols)
}
