package ovstap

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"opentap/internal/nettest"
	"opentap/tap"
	"opentap/tap/bpftap"
	"opentap/tap/taptest"
)

// vswitch is an Open vSwitch of the test's own, with the userspace datapath, in a namespace.
type vswitch struct {
	t      *testing.T
	ns     *nettest.NS
	dir    string
	socket string
	feeds  bool   // eBPF copies for it
	root   string // of BPF file systems
}

// open makes a driver as a new process would.
func (v *vswitch) open() tap.Driver {
	cfg := Config{Socket: v.socket, Control: filepath.Join(v.dir, "sw.ctl")}
	if !v.feeds {
		return New(cfg)
	}
	if v.root == "" {
		v.root = bpffs(v.t)
	}
	var err error
	var ebpf tap.Driver
	v.ns.Do(func() { ebpf, err = bpftap.Open(bpftap.Config{PinRoot: v.root}) })
	if errors.Is(err, tap.ErrUnsupported) {
		v.t.Skip(err)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	_, cfg.Copier = tap.Divide(ebpf, "ovs/")
	return &both{New(cfg), ebpf}
}

// both closes the copier with the driver.
type both struct {
	*Driver
	ebpf tap.Driver
}

func (b *both) Close() error { return errors.Join(b.Driver.Close(), b.ebpf.Close()) }

// bpffs mounts a BPF file system of the test's own.
func bpffs(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	if err := unix.Mount("bpf", root, "bpf", 0, ""); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN (mount of a BPF file system): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return root
}

func newVswitch(t *testing.T) *vswitch {
	t.Helper()
	for _, tool := range []string{"ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-vswitchd", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs the program %s", tool)
		}
	}
	const schema = "/usr/share/openvswitch/vswitch.ovsschema"
	if _, err := os.Stat(schema); err != nil {
		t.Skipf("needs %s", schema)
	}
	dir, err := os.MkdirTemp("", "ovs") // a short path: sockets' names are bounded
	if err != nil {
		t.Fatal(err)
	}
	v := &vswitch{t: t, ns: nettest.NewNS(t), dir: dir, socket: filepath.Join(dir, "db.sock")}
	t.Cleanup(func() { os.RemoveAll(dir) })
	v.run("ovsdb-tool", "create", filepath.Join(dir, "db"), schema)
	v.daemon("ovsdb-server", "--remote=punix:"+v.socket, "--unixctl="+filepath.Join(dir, "db.ctl"), filepath.Join(dir, "db"))
	v.await("the database", func() bool { _, err := os.Stat(v.socket); return err == nil })
	v.vsctl("--no-wait", "init")
	v.vsctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:stats-update-interval=5000")
	v.ns.Do(func() {
		v.daemon("ovs-vswitchd", "unix:"+v.socket, "--unixctl="+filepath.Join(dir, "sw.ctl"), "--disable-system", "--enable-dummy")
	})
	v.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
	return v
}

func (v *vswitch) run(name string, args ...string) string {
	v.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "OVS_RUNDIR="+v.dir, "OVS_LOGDIR="+v.dir, "OVS_DBDIR="+v.dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		v.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (v *vswitch) vsctl(args ...string) string {
	v.t.Helper()
	return v.run("ovs-vsctl", append([]string{"--timeout=10", "--db=unix:" + v.socket}, args...)...)
}

// daemon starts one of its programs; it ends with the test. In the namespace when called there.
func (v *vswitch) daemon(name string, args ...string) {
	v.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "OVS_RUNDIR="+v.dir, "OVS_LOGDIR="+v.dir, "OVS_DBDIR="+v.dir)
	cmd.Stdout, cmd.Stderr = nil, nil
	if err := cmd.Start(); err != nil {
		v.t.Errorf("start %s: %v", name, err)
		return
	}
	v.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func (v *vswitch) await(what string, ok func() bool) {
	v.t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			v.t.Fatalf("never: %s", what)
		}
	}
}

// TestNetnsDriver: the suite of all drivers with a real Open vSwitch, by mirrors alone and by feeds.
func TestNetnsDriver(t *testing.T) {
	for _, way := range []string{"mirrors", "feeds"} {
		t.Run(way, func(t *testing.T) { suite(t, way == "feeds") })
	}
}

func suite(t *testing.T, feeds bool) {
	taptest.Driver(t, func(t *testing.T) *taptest.Lab {
		t.Parallel() // it waits more than it works
		v := newVswitch(t)
		v.feeds = feeds
		owner, tool := nettest.NewNS(t), nettest.NewNS(t)
		v.plug("p0", owner, "p1")
		v.plug("t0", tool, "t1")
		ear := nettest.NewEar(t, tool, "t1")
		v.run("ovs-ofctl", "del-flows", filepath.Join(v.dir, "br0.mgmt")) // nothing is forwarded: what the tool hears are copies
		var far *taptest.Far
		if feeds {
			far = taptest.NewFar(t, v.ns)
			far.NoSinks = true
		}
		return &taptest.Lab{
			Open: v.open,
			Do:   v.ns.Do, Source: "p0", Tool: "t0", Merges: !feeds, NoFilter: !feeds, Far: far,
			Send: func(frames ...[]byte) {
				s := nettest.NewSender(t, owner, "p1")
				for some := range slices.Chunk(frames, 20) {
					s.Send(some...)
					time.Sleep(5 * time.Millisecond) // the userspace datapath has a short queue
				}
			},
			Hear:   func() [][]byte { return ear.All(quietFor) },
			Vanish: func() { v.vsctl("del-port", "br0", "p0"); v.ns.Delete("p0") },
			Return: func() { v.plug("p0", owner, "p1") },
			Strange: func() func() bool {
				v.vsctl("--", "--id=@p", "get", "Port", "p0", "--", "--id=@m", "create", "Mirror", "name=stranger", "select_src_port=@p", "--", "add", "Bridge", "br0", "mirrors", "@m")
				before := v.vsctl("--columns=name,select_src_port,external_ids", "list", "Mirror", "stranger")
				return func() bool {
					return v.vsctl("--columns=name,select_src_port,external_ids", "list", "Mirror", "stranger") == before &&
						strings.Count(v.vsctl("--columns=name", "list", "Mirror"), "name") == 1
				}
			},
		}
	})
}

// TestWithoutOpenVSwitch: where there is none nothing is taken, and nothing fails.
func TestWithoutOpenVSwitch(t *testing.T) {
	d := New(Config{Socket: filepath.Join(t.TempDir(), "none")})
	if err := d.Takes(tap.Device{Name: "p0"}); !errors.Is(err, tap.ErrUnsupported) {
		t.Errorf("takes: %v", err)
	}
	if removed, err := d.Prune(context.Background(), func(string) bool { return false }); err != nil || len(removed) != 0 {
		t.Errorf("prune: %v, %v", removed, err)
	}
	if err := d.Delete(context.Background(), "a"); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// TestRefusals: what mirrors cannot do is refused by name.
func TestRefusals(t *testing.T) {
	for _, o := range []tap.Options{{Filter: "tcp"}, {SampleN: 2}, {RateBPS: 1}, {OnMTU: tap.Drop}, {Snap: 5}} {
		if err := refuse(tap.Source{Options: o}); !errors.Is(err, tap.ErrUnsupported) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if err := refuse(tap.Source{Options: tap.Options{Snap: 128, VLANs: "5", SampleN: 1}}); err != nil {
		t.Error(err)
	}
}
