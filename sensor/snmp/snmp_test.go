package snmp

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"opentap/fault"
	"opentap/internal/await"
	"opentap/sensor/sensortest"
)

func TestCheck(t *testing.T) {
	good := Config{Name: "ups1", Address: "10.0.0.1", Community: "public"}
	if err := good.Check(); err != nil {
		t.Errorf("%+v: %v", good, err)
	}
	for want, change := range map[string]func(*Config){
		"no name":     func(c *Config) { c.Name = "a/b" },
		"address":     func(c *Config) { c.Address = "10.0.0.1:x" },
		"missing":     func(c *Config) { c.Community = "" },
		"one of them": func(c *Config) { c.User = "me" },
		"auth":        func(c *Config) { c.AuthProtocol = "ROT13" },
		"priv":        func(c *Config) { c.PrivProtocol = "ROT13" },
		"without":     func(c *Config) { c.PrivProtocol = "AES" },
		"fewer":       func(c *Config) { c.AuthProtocol, c.AuthPassword = "SHA", "short" },
	} {
		c := good
		change(&c)
		if _, err := New(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", c, err, want)
		}
	}
}

// serve is a pass_persist program for snmpd, which serves a file of lines OID TYPE VALUE, in order. snmpd.conf(5).
const serve = `
import sys
def table():
    rows = [l.rstrip("\n").split(" ", 2) for l in open(sys.argv[1])]
    return sorted(([int(n) for n in r[0].strip(".").split(".")], r[1], r[2]) for r in rows)
while True:
    line = sys.stdin.readline().strip()
    if line == "PING":
        print("PONG")
    elif line in ("get", "getnext"):
        oid = [int(n) for n in sys.stdin.readline().strip().strip(".").split(".")]
        found = [r for r in table() if (r[0] == oid if line == "get" else r[0] > oid)]
        if found:
            print("." + ".".join(map(str, found[0][0])), found[0][1], found[0][2], sep="\n")
        else:
            print("NONE")
    elif line == "":
        break
    sys.stdout.flush()
`

// device is an snmpd that serves tables of ours.
type device struct {
	t       *testing.T
	dir     string
	address string
	cmd     *exec.Cmd
	out     bytes.Buffer
}

func newDevice(t *testing.T, rows []string) *device {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin")
	for _, p := range []string{"snmpd", "python3"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs the program %s", p)
		}
	}
	d := &device{t: t, dir: t.TempDir()}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.address = c.LocalAddr().String()
	c.Close()
	d.write("rows", strings.Join(rows, "\n")+"\n")
	d.write("serve.py", serve)
	conf := "rocommunity public\ncreateUser tap SHA authpass1 AES privpass1\nrouser tap authpriv\n"
	for _, root := range []string{".1.3.6.1.2.1.99", ".1.3.6.1.2.1.47", ".1.3.6.1.2.1.33"} {
		conf += fmt.Sprintf("pass_persist %s /usr/bin/env python3 %s %s\n", root, d.file("serve.py"), d.file("rows"))
	}
	d.write("snmpd.conf", conf)
	d.start()
	t.Cleanup(d.stop)
	return d
}

func (d *device) file(name string) string { return filepath.Join(d.dir, name) }

func (d *device) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(d.file(name), []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) start() {
	d.t.Helper()
	d.cmd = exec.Command("snmpd", "-f", "-C", "-c", d.file("snmpd.conf"), "-Lo", "-p", d.file("pid"), "udp:"+d.address)
	d.cmd.Env = append(os.Environ(), "SNMP_PERSISTENT_DIR="+d.file("state"), "MIBS=")
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	d.cmd.WaitDelay = time.Second
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) stop() {
	if d.cmd != nil {
		_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) // with the programs that it started
		_ = d.cmd.Wait()
		d.cmd = nil
	}
}

var rows = []string{
	".1.3.6.1.2.1.47.1.1.1.1.2.7 string inlet",
	".1.3.6.1.2.1.47.1.1.1.1.7.8 string PSU 1 power",
	// 7: 23.5 °C, in tenths; 8: 1.25 kW, in kilowatts of two places; 9: a broken fan; 10: beyond its range
	".1.3.6.1.2.1.99.1.1.1.1.7 integer 8", ".1.3.6.1.2.1.99.1.1.1.2.7 integer 9", ".1.3.6.1.2.1.99.1.1.1.3.7 integer 1", ".1.3.6.1.2.1.99.1.1.1.4.7 integer 235", ".1.3.6.1.2.1.99.1.1.1.5.7 integer 1",
	".1.3.6.1.2.1.99.1.1.1.1.8 integer 6", ".1.3.6.1.2.1.99.1.1.1.2.8 integer 10", ".1.3.6.1.2.1.99.1.1.1.3.8 integer 2", ".1.3.6.1.2.1.99.1.1.1.4.8 integer 125", ".1.3.6.1.2.1.99.1.1.1.5.8 integer 1",
	".1.3.6.1.2.1.99.1.1.1.1.9 integer 10", ".1.3.6.1.2.1.99.1.1.1.2.9 integer 9", ".1.3.6.1.2.1.99.1.1.1.3.9 integer 0", ".1.3.6.1.2.1.99.1.1.1.4.9 integer 0", ".1.3.6.1.2.1.99.1.1.1.5.9 integer 3",
	".1.3.6.1.2.1.99.1.1.1.1.10 integer 4", ".1.3.6.1.2.1.99.1.1.1.2.10 integer 8", ".1.3.6.1.2.1.99.1.1.1.3.10 integer 0", ".1.3.6.1.2.1.99.1.1.1.4.10 integer 1000000000", ".1.3.6.1.2.1.99.1.1.1.5.10 integer 1",
	".1.3.6.1.2.1.33.1.1.1.0 string Acme", ".1.3.6.1.2.1.33.1.2.4.0 integer 87", ".1.3.6.1.2.1.33.1.2.5.0 integer 547", ".1.3.6.1.2.1.33.1.2.7.0 integer 31",
	".1.3.6.1.2.1.33.1.3.3.1.3.2 integer 231", ".1.3.6.1.2.1.33.1.4.4.1.5.1 gauge 42",
}

func found(t *testing.T, s *Source) int {
	t.Helper()
	points, err := s.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(points)
}

func TestSource(t *testing.T) {
	d := newDevice(t, rows)
	defer func() {
		if t.Failed() {
			t.Log(d.out.String())
		}
	}()
	s := sensortest.Start(t, New, Config{Name: "dev", Address: d.address, Community: "public"})
	await.Until(t, "found", func() bool { return found(t, s) > 0 })
	want := map[string][4]string{ // quantity, unit, alias, value
		"snmp/dev/entity/7":            {"temperature", "Cel", "dev inlet", "23.5"},
		"snmp/dev/entity/8":            {"power", "W", "dev PSU 1 power", "1250"},
		"snmp/dev/entity/9":            {"fan speed", "{rpm}", "", "the device reports a broken sensor"},
		"snmp/dev/entity/10":           {"voltage", "V", "", "the value is out of the sensor's range"},
		"snmp/dev/battery/charge":      {"charge", "%", "", "87"},
		"snmp/dev/battery/voltage":     {"voltage", "V", "", "54.7"},
		"snmp/dev/battery/temperature": {"temperature", "Cel", "", "31"},
		"snmp/dev/input/2/voltage":     {"voltage", "V", "", "231"},
		"snmp/dev/output/1/load":       {"load", "%", "", "42"},
	}
	points, err := s.Points(t.Context())
	if err != nil || len(points) != len(want) {
		t.Errorf("%d points, want %d: %v %+v\n%s", len(points), len(want), err, points, &d.out)
	}
	for _, p := range points {
		w := want[p.Name]
		if got := [4]string{p.Quantity, p.Unit, strings.Join(p.Aliases, ","), sensortest.Reads(t, s, p.Name)}; got != w || !p.Present {
			t.Errorf("%s is %q, want %q", p.Name, got, w)
		}
	}
	for _, name := range []string{"snmp/dev/entity/99", "snmp/other/entity/7", "hwmon/x"} {
		if _, err := s.Read(t.Context(), name); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A row that goes is a gap.
	d.write("rows", strings.Join(append(rows[:2:2], rows[7:]...), "\n")+"\n")
	await.Until(t, "the sensor is gone", func() bool { return sensortest.Reads(t, s, "snmp/dev/entity/7") == "the sensor is gone" })

	d.stop()
	await.Until(t, "a device that is away is a gap", func() bool { return strings.Contains(sensortest.Reads(t, s, "snmp/dev/entity/8"), "does not answer") })
	began := time.Now()
	for range 20 { // others are not waited for
		sensortest.Reads(t, s, "snmp/dev/battery/charge")
	}
	if took := time.Since(began); took > timeout {
		t.Errorf("20 sensors of a device that is away took %v", took)
	}
	d.start()
	await.Until(t, "it is read again", func() bool { return sensortest.Reads(t, s, "snmp/dev/entity/8") == "1250" })
}

func TestVersion3(t *testing.T) {
	d := newDevice(t, rows)
	good := Config{Name: "v3", Address: d.address, User: "tap", AuthProtocol: "SHA", AuthPassword: "authpass1", PrivProtocol: "AES", PrivPassword: "privpass1"}
	s := sensortest.Start(t, New, good)
	await.Until(t, "found", func() bool { return found(t, s) > 0 })
	if got := sensortest.Reads(t, s, "snmp/v3/entity/7"); got != "23.5" {
		t.Errorf("reads %s", got)
	}
	bad := good
	bad.AuthPassword = "wrongpass"
	b := sensortest.Start(t, New, bad)
	await.Until(t, "a wrong password is said", func() bool {
		got := sensortest.Reads(t, b, "snmp/v3/entity/7")
		return strings.Contains(got, "does not answer") && !strings.Contains(got, "wrongpass")
	})
	community := sensortest.Start(t, New, Config{Name: "c", Address: d.address, Community: "private"})
	await.Until(t, "a wrong community is said", func() bool {
		return strings.Contains(sensortest.Reads(t, community, "snmp/c/entity/7"), "does not answer")
	})
}
