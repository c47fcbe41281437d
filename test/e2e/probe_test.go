//go:build linux

package e2e

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"opentap/internal/nettest"
	"opentap/want"
)

// address gives a device of a namespace an address.
func address(t *testing.T, ns *nettest.NS, device, cidr string) {
	t.Helper()
	a, err := netlink.ParseAddr(cidr)
	if err == nil {
		err = ns.Netlink().AddrAdd(ns.Link(device), a)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Frames from a point are answered by a kernel at the other end of the cable, and the exit code says whether they were; who may not is
// refused, and each probe is in the audit log.
func TestNetnsProbe(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	address(t, l.near, "tap0", "192.0.2.1/24")
	address(t, l.far, "wire0", "192.0.2.2/24")
	d := newDaemon(t, l.near, "")
	var web net.Listener
	var err error
	if l.far.Do(func() { web, err = net.Listen("tcp", "192.0.2.2:80") }); err != nil {
		t.Fatal(err)
	}
	defer web.Close()

	out := d.must("probe", "ping", "192.0.2.2", "--point", "tap0", "-c", "3", "-i", "10ms")
	if strings.Count(out, "reply") != 3 || !strings.Contains(out, "/tap0 192.0.2.1 to 192.0.2.2: 3 sent, 3 answered, 0 lost; ") || strings.Contains(out, `\u`) {
		t.Error(out)
	}
	for _, x := range []struct {
		args    []string
		code    int
		outcome string
	}{
		{[]string{"ping", "192.0.2.2"}, 0, want.ProbeReply},
		{[]string{"tcp-syn", "192.0.2.2", "80"}, 0, want.ProbeOpen},
		{[]string{"tcp-syn", "192.0.2.2", "81"}, 0, want.ProbeClosed},
		{[]string{"udp", "192.0.2.2", "9"}, 1, want.ProbeUnreachable},
		{[]string{"ping", "192.0.2.3"}, 1, want.ProbeUnresolved},
		{[]string{"ping", "192.0.2.2", "--dst-mac", "02:00:00:00:00:99", "-W", "50ms"}, 1, want.ProbeSilent},
	} {
		r := d.opentap(append(append([]string{"probe"}, x.args...), "--point", "tap0", "-o", "json", "-c", "1")...)
		if r.code != x.code {
			t.Errorf("%v: exit code %d\n%s%s", x.args, r.code, r.stdout, r.stderr)
			continue
		}
		var report want.ProbeReport
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || report.Outcomes[x.outcome] != 1 || report.Device != "tap0" || report.Node == "" {
			t.Errorf("%v: %v, %+v", x.args, err, report)
		}
	}
	if r := d.opentap("probe", "ping", "192.0.2.255", "--point", "tap0"); r.code != 1 || !strings.Contains(r.stderr, "--allow-group") {
		t.Errorf("%d %s", r.code, r.stderr)
	}
	if r := d.opentap("probe", "ping", "somewhere", "--point", "tap0"); r.code != 2 {
		t.Errorf("%d %s", r.code, r.stderr)
	}

	token := d.file("operator")
	var made want.Token
	if err := json.Unmarshal([]byte(d.must("token", "create", "operator", "--role", "operator", "-o", "json")), &made); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte(made.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	as := func(args ...string) result {
		return d.execEnv([]string{"OPENTAP_URL=" + d.url(), "OPENTAP_TOKEN="}, clientBin, append(args, "--token-file", token)...)
	}
	if r := as("probe", "ping", "192.0.2.2", "--point", "tap0"); r.code != 3 || !strings.Contains(r.stderr, "--probe") {
		t.Errorf("%d %s", r.code, r.stderr)
	}
	d.must("project", "set", "default", "--probe")
	if r := as("probe", "ping", "192.0.2.2", "--point", "tap0", "-c", "1"); r.code != 0 {
		t.Errorf("%d %s", r.code, r.stderr)
	}
	if r := as("probe", "ping", "192.0.2.2", "--point", "tap0", "--source", "192.0.2.9"); r.code != 3 {
		t.Errorf("%d %s", r.code, r.stderr)
	}
	var trail struct{ Entries []want.AuditEntry }
	d.ask(200, "GET", "/v1/audit?action=probe&limit=100", nil).decode(t, &trail)
	allowed, denied := 0, 0
	for _, e := range trail.Entries {
		switch {
		case e.Outcome == "denied":
			denied++
		case e.Details["target"] != "" && e.Details["kind"] != "":
			allowed++
		}
	}
	if allowed != 10 || denied != 1 {
		t.Errorf("the audit log has %d probes and %d refusals: %+v", allowed, denied, trail.Entries)
	}
}
