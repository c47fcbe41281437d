//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"opentap/internal/nettest"
	"opentap/want"
)

// examination is what opentap doctor finds, and the exit code.
func (d *daemon) examination(args ...string) (x want.Examination, code int) {
	d.t.Helper()
	r := d.opentap(append([]string{"doctor", "-o", "json"}, args...)...)
	(&answer{Body: []byte(r.stdout)}).decode(d.t, &x)
	return x, r.code
}

// TestNetnsDoctorLooksAtEveryHost: what agents that are no more left on a host is found there, from afar; and so is a host that is away.
func TestNetnsDoctorLooksAtEveryHost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller("ctl", "", "")
	left, right := s.agent("left", c), s.agent("right", c)
	left.join(c)
	right.join(c)
	right.stop()
	c.awaitNode("right", "gone")

	const bpf = "/sys/fs/bpf/opentap"
	_, err := os.Stat(bpf)
	fresh := os.IsNotExist(err)
	dir := filepath.Join(bpf, "-e2e-doctor-"+strconv.Itoa(os.Getpid())) // the first of a few that are named
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Skipf("needs a BPF file system at /sys/fs/bpf: %v", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
		if fresh {
			_ = os.Remove(bpf) // it may be somebody's by now
		}
	})
	nettest.Veth(t, left.far, "far0", left.ns, "orphan0")
	if err := left.ns.Netlink().LinkSetAlias(left.ns.Link("orphan0"), "OpenTap: cuts and encapsulates copies of an agent that is no more"); err != nil {
		t.Fatal(err)
	}

	find := func(x *want.Examination, node, check string) want.Finding {
		for _, f := range x.Findings {
			if f.Node == node && f.Check == check {
				return f
			}
		}
		return want.Finding{}
	}
	x, code := c.examination()
	if f := find(&x, "left", "taps"); f.Severity != want.Warn || !strings.Contains(f.Text, dir) || !strings.Contains(f.Text, "orphan0") || !strings.Contains(f.Fix, "ip link del") {
		t.Errorf("what was left behind: %+v", f)
	}
	if f := find(&x, "right", "node"); f.Severity != want.Bad || !strings.Contains(f.Text, "not connected") || !strings.Contains(f.Fix, "opentap node forget right") || code != 1 {
		t.Errorf("a host that is away: %+v, exit code %d", f, code)
	}
	for node, checks := range map[string][]string{"ctl": {"audit", "disk_data", "clock"}, "left": {"capabilities", "space", "disk_captures", "ring_memory", "readers"}} {
		for _, check := range checks {
			if find(&x, node, check).Text == "" {
				t.Errorf("%s has no finding %s", node, check)
			}
		}
	}
	if f := find(&x, "left", "audit"); f.Text != "" {
		t.Errorf("an agent keeps no audit log: %+v", f)
	}
	if x.Node != "ctl" {
		t.Errorf("the settings are those of %q", x.Node)
	}

	left.ns.Delete("orphan0")
	x, _ = c.examination("--node", "left")
	for _, f := range x.Findings {
		if f.Node != "left" {
			t.Errorf("of another node: %+v", f)
		}
	}
	if f := find(&x, "left", "taps"); strings.Contains(f.Text, "orphan0") {
		t.Errorf("a device that is gone: %+v", f)
	}
	role := ""
	for _, s := range x.Settings {
		if s.Key == "role" {
			role = s.Value
		}
	}
	if x.Node != "left" || role != "agent" {
		t.Errorf("the settings of left: those of %q, role %q", x.Node, role)
	}
	c.must("node", "revoke", "right")
	if x, code = c.examination("--node", "right"); code != 0 || len(x.Findings) != 1 || x.Findings[0].Severity != want.Warn || !strings.Contains(x.Findings[0].Text, "revoked") {
		t.Errorf("a host that was shut out: %+v, exit code %d", x.Findings, code)
	}
	if r := c.opentap("doctor", "--node", "nowhere"); r.code != 4 {
		t.Errorf("no such node: %d %s", r.code, r.stderr)
	}
	if r := c.opentap("doctor"); !strings.Contains(r.stdout, "warn  right  node ") {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}
