package ovsport

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// idsOf are the iface-ids by the ports' names.
func idsOf(ports []Port) map[string]string {
	out := make(map[string]string)
	for _, p := range ports {
		out[p.Name] = p.IfaceID
	}
	return out
}

// What real servers send, in their order.
func TestTake(t *testing.T) {
	s := newState()
	defer func() {
		if got, want := s.ports()[1], (Port{Name: "vhu1", IfaceID: "p4", Type: "dpdkvhostuserclient", MAC: "00:00:00:00:00:07", MTU: 9000, Up: true}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}()
	for _, c := range []struct {
		name, in, answer string
		changed, bad     bool
		ids              map[string]string
	}{
		{name: "echo", in: `{"method":"echo","id":"echo","params":[]}`, answer: `{"error":null,"id":"echo","result":[]}`},
		{
			name:    "all",
			in:      `{"id":"monitor","error":null,"result":{"Interface":{"u1":{"new":{"name":"tap1","external_ids":["map",[["iface-id","p1"],["vm-uuid","v"]]]}},"u2":{"new":{"name":"br0","external_ids":["map",[]]}}}}}`,
			changed: true, ids: map[string]string{"tap1": "p1"},
		},
		{
			name:    "one more, one renamed",
			in:      `{"method":"update","id":null,"params":["ports",{"Interface":{"u1":{"old":{"name":"tap1"},"new":{"name":"tap9","external_ids":["map",[["iface-id","p1"]]]}},"u3":{"new":{"name":"tap3","external_ids":["map",[["iface-id","p3"]]]}}}}]}`,
			changed: true, ids: map[string]string{"tap9": "p1", "tap3": "p3"},
		},
		{
			name:    "one gone, one given up",
			in:      `{"method":"update","id":null,"params":["ports",{"Interface":{"u1":{"old":{"name":"tap9"}},"u3":{"new":{"name":"tap3","external_ids":["map",[]]}}}}]}`,
			changed: true, ids: map[string]string{},
		},
		{
			name: "two without a device, and a joint",
			in: `{"method":"update","id":null,"params":["ports",{"Interface":{"u4":{"new":{"name":"vhu1","type":"dpdkvhostuserclient","mac_in_use":"00:00:00:00:00:07","mtu":9000,"link_state":"up","external_ids":["map",[["iface-id","p4"]]]}},` +
				`"u5":{"new":{"name":"dpdk0","type":"dpdk","mac_in_use":["set",[]],"mtu":["set",[]],"link_state":["set",[]],"external_ids":["map",[]]}},"u6":{"new":{"name":"joint","type":"patch","external_ids":["map",[]]}}}}]}`,
			changed: true, ids: map[string]string{"vhu1": "p4", "dpdk0": ""},
		},
		{name: "refused", in: `{"id":"monitor","error":{"error":"unknown database"},"result":null}`, bad: true},
		{name: "no map", in: `{"method":"update","params":["ports",{"Interface":{"u1":{"new":{"name":"x","external_ids":["set",[]]}}}}]}`, bad: true},
		{name: "half an update", in: `{"method":"update","params":["ports"]}`, bad: true},
		{name: "another's answer", in: `{"id":7,"result":{},"error":null}`},
		{name: "another request", in: `{"method":"steal","params":[],"id":1}`},
	} {
		var m message
		if err := json.Unmarshal([]byte(c.in), &m); err != nil {
			t.Fatal(err)
		}
		answer, changed, err := s.take(&m)
		if string(answer) != c.answer || err == nil && changed != c.changed || (err != nil) != c.bad {
			t.Errorf("%s: %s, %v, %v", c.name, answer, changed, err)
		}
		if got := idsOf(s.ports()); c.ids != nil && !maps.Equal(got, c.ids) {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func FuzzTake(f *testing.F) {
	f.Add([]byte(`{"method":"update","params":["p",{"Interface":{"u":{"new":{"name":"x","external_ids":["map",[["iface-id","i"]]]}}}}]}`))
	f.Add([]byte(`{"method":"echo","id":null}`))
	f.Add([]byte(`{"id":"monitor","result":{"Interface":null}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		if json.Unmarshal(b, &m) != nil {
			return
		}
		s := newState()
		if answer, _, err := s.take(&m); answer != nil && err != nil {
			t.Error("both an answer and an error")
		}
		for _, p := range s.ports() {
			if p.Name == "" || p.IfaceID == "" && p.Type == "" || len(p.IfaceID) > maxIfaceID {
				t.Errorf("%+v", p)
			}
		}
	})
}

// A real server: what ovs-vsctl notes is heard, a restart of the server included.
func TestWithOpenVSwitch(t *testing.T) {
	for _, tool := range []string{"ovsdb-server", "ovsdb-tool", "ovs-vsctl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs the program %s", tool)
		}
	}
	const schema = "/usr/share/openvswitch/vswitch.ovsschema"
	if _, err := os.Stat(schema); err != nil {
		t.Skipf("needs %s", schema)
	}
	dir := t.TempDir()
	db, sock := filepath.Join(dir, "db"), filepath.Join(dir, "sock")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	heard := make(chan map[string]string, 16)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	run("ovsdb-tool", "create", db, schema)
	serve := func() (stop func()) {
		cmd := exec.Command("ovsdb-server", "--remote=punix:"+sock, "--unixctl="+filepath.Join(dir, "ctl"), db)
		cmd.Env = append(os.Environ(), "OVS_RUNDIR="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if _, err := os.Stat(sock); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("ovsdb-server does not listen")
			}
		}
		return func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = os.Remove(sock) }
	}
	stop := serve()
	defer func() { stop() }()
	go func() {
		done <- New(sock, slog.New(slog.DiscardHandler)).Run(ctx, func(ports []Port) { heard <- idsOf(ports) })
	}()
	await := func(what string, want map[string]string) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			select {
			case got := <-heard:
				if maps.Equal(got, want) {
					return
				}
			case <-deadline:
				t.Fatalf("%s: never heard %v", what, want)
			}
		}
	}
	vsctl := func(args ...string) { run("ovs-vsctl", append([]string{"--no-wait", "--db=unix:" + sock}, args...)...) }
	id := "2b9c4b5e-9d3e-4d9e-8a71-0d2a4e1a7a11"
	vsctl("--", "init", "--", "add-br", "br0", "--", "add-port", "br0", "tap2b9c4b5e-9d", "--", "set", "Interface", "tap2b9c4b5e-9d", "external_ids:iface-id="+id)
	await("a port", map[string]string{"tap2b9c4b5e-9d": id})
	vsctl("add-port", "br0", "eth1")
	vsctl("set", "Interface", "eth1", "external_ids:iface-id=second")
	await("another", map[string]string{"tap2b9c4b5e-9d": id, "eth1": "second"})
	stop()
	stop = serve()
	vsctl("del-port", "tap2b9c4b5e-9d")
	await("the server is back, a port is gone", map[string]string{"eth1": "second"})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAMessageWithoutEndIsRefused(t *testing.T) {
	b := &bounded{r: strings.NewReader(strings.Repeat("x", 100)), left: 10}
	buf := make([]byte, 10)
	if n, err := b.Read(buf); n != 10 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := b.Read(buf); err == nil {
		t.Error("it goes on")
	}
}
