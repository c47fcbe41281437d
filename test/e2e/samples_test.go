//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"opentap/internal/await"
)

const classicCounters = "time,state,rx_bytes,rx_packets,rx_errors,rx_dropped,rx_overrun,rx_mcast," +
	"tx_bytes,tx_packets,tx_errors,tx_dropped,tx_carrier,tx_collision"

// Counters are the kernel's own, sampled when they should be.
func TestNetnsEthernetCounters(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	d.create(m{"kind": "ethernet", "id": "c", "points": []string{"tap0"}, "period": "100ms"})
	await.Until(t, "some samples", func() bool { return d.show("c").Status.Records >= 5 })
	l.Send(plain(0, 321, 53)...)
	seen := d.show("c").Status.Records
	await.Until(t, "more samples", func() bool { return d.show("c").Status.Records >= seen+3 })
	d.finish("c")
	body := string(d.data("c", "classic").Body)
	lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	if lines[0] != classicCounters {
		t.Errorf("classic header %q", lines[0])
	}
	rows := columns(t, []byte(body))
	first, last := rows[0], rows[len(rows)-1]
	if got := number(t, last["rx_packets"]) - number(t, first["rx_packets"]); got != 321 {
		t.Errorf("%d packets between the first and the last sample, 321 were sent", got)
	}
	for i, r := range rows {
		if r["state"] != "1" {
			t.Errorf("row %d: state %s of a device that is up", i, r["state"])
		}
		if i > 0 {
			if gap := number(t, r["time"]) - number(t, rows[i-1]["time"]); gap%100 != 0 || gap == 0 || gap > 1000 {
				t.Errorf("row %d comes %d ms after the one before, the period is 100", i, gap)
			}
		}
	}
	// The oracle: sysfs as a process sees it that lives in the namespace.
	needTool(t, "unshare")
	for csv, sys := range map[string]string{
		"rx_bytes": "rx_bytes", "rx_packets": "rx_packets", "rx_errors": "rx_errors", "rx_dropped": "rx_dropped",
		"rx_overrun": "rx_over_errors", "rx_mcast": "multicast", "tx_bytes": "tx_bytes", "tx_packets": "tx_packets", "tx_errors": "tx_errors",
		"tx_dropped": "tx_dropped", "tx_carrier": "tx_carrier_errors", "tx_collision": "collisions",
	} {
		r := d.exec("unshare", "-m", "sh", "-c", "mount -t sysfs sysfs /sys && cat /sys/class/net/tap0/statistics/"+sys)
		if r.code != 0 {
			t.Skipf("needs a sysfs of the namespace: %s", r.stderr)
		}
		if number(t, last[csv]) != number(t, r.stdout) {
			t.Errorf("%s is %s, sysfs says %s", csv, last[csv], r.stdout)
		}
	}
	for _, f := range []string{"csv", "ndjson", "parquet"} {
		if len(d.data("c", f).Body) == 0 {
			t.Errorf("%s is empty", f)
		}
	}
}

// A thermometer is read; where there is none, that is said before and when somebody asks.
func TestNetnsSensors(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	sys := t.TempDir()
	chip := filepath.Join(sys, "class", "hwmon", "hwmon0")
	if err := os.MkdirAll(chip, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(chip, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("name", "coretemp\n")
	write("temp1_input", "45250\n")
	write("temp1_label", "Package id 0\n")
	d := newDaemon(t, l.near, "sensors:\n  sysfs: "+sys+"\n")
	if out := d.must("capabilities"); !strings.Contains(out, "temperature") {
		t.Errorf("capabilities\n%s", out)
	}
	d.create(m{"kind": "temperature", "id": "warm", "period": "50ms"})
	await.Until(t, "some samples", func() bool { return d.show("warm").Status.Records >= 3 })
	write("temp1_input", "-3500\n")
	seen := d.show("warm").Status.Records
	await.Until(t, "more samples", func() bool { return d.show("warm").Status.Records >= seen+3 })
	if v := d.finish("warm"); v.Status.State != "stopped" || len(v.Status.Gaps) != 0 {
		t.Errorf("%+v", v.Status)
	}
	body := string(d.data("warm", "classic").Body)
	if !strings.HasPrefix(body, "time,temperature\n") {
		t.Errorf("classic header of %.60q", body)
	}
	rows := columns(t, []byte(body))
	for i, want := range map[int]float64{0: 45.25, len(rows) - 1: -3.5} {
		if got, err := strconv.ParseFloat(rows[i]["temperature"], 64); err != nil || got != want {
			t.Errorf("row %d has %q, the chip said %v", i, rows[i]["temperature"], want)
		}
	}

	none := t.TempDir()
	l2 := newLab(t)
	d = newDaemon(t, l2.near, "sensors:\n  sysfs: "+none+"\n")
	var caps struct {
		Kinds   []string          `json:"capture_kinds"`
		Missing map[string]string `json:"missing"`
	}
	d.ask(200, "GET", "/v1/capabilities", nil).decode(t, &caps)
	if strings.Contains(fmt.Sprint(caps.Kinds), "sensor") || !strings.Contains(caps.Missing["sensor"], "sensor") {
		t.Errorf("capabilities of a host without sensors: %+v", caps)
	}
	r := d.opentap("capture", "temperature", "--duration", "1s", "-w", d.file("t.csv"))
	if r.code == 0 || !strings.Contains(r.stderr, "sensor") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	if p := d.ask(501, "POST", "/v1/captures", m{"kind": "sensor"}).problem(t); p.Error.Kind != "unsupported" || p.Error.Hint == "" {
		t.Errorf("%+v", p)
	}
}

// What is deleted leaves nothing behind: no descriptor, no memory.
func TestNetnsNoLeaks(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	pid := d.cmd.Process.Pid
	fds := func() int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	resident := func() int {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
				n, _ := strconv.Atoi(f[1])
				return n
			}
		}
		return 0
	}
	cycle := func(i int) {
		kind := []string{"pcap", "netflow", "ethernet"}[i%3]
		id := fmt.Sprint("c", i)
		q := m{"kind": kind, "id": id, "points": []string{"tap0"}}
		if kind == "ethernet" {
			q["period"] = "10ms"
		}
		d.create(q)
		l.Send(plain(i, 20, 53)...)
		if kind == "ethernet" {
			await.Until(t, "a sample", func() bool { return d.show(id).Status.Records > 0 })
		} else {
			d.awaitCaptured(id, 20)
		}
		if i%2 == 0 {
			d.finish(id)
		}
		d.data(id, map[string]string{"pcap": "pcapng", "netflow": "classic", "ethernet": "classic"}[kind])
		d.ask(204, "DELETE", capturePath(id), nil)
	}
	for i := range 12 {
		cycle(i)
	}
	var before int
	await.Until(t, "it comes to rest", func() bool { n := fds(); same := n == before; before = n; return same })
	memory := resident()
	for i := range 50 {
		cycle(100 + i)
	}
	await.Until(t, fmt.Sprintf("it holds no more than the %d descriptors of before", before), func() bool { return fds() <= before })
	if now := resident(); now > memory+64<<10 {
		t.Errorf("resident memory went from %d to %d KiB", memory, now)
	}
	t.Logf("%d descriptors; resident memory from %d to %d KiB", before, memory, resident())
	await.Until(t, "the data of the deleted captures is gone", func() bool {
		list, err := os.ReadDir(filepath.Join(d.dir, "captures"))
		return err == nil && !slices.ContainsFunc(list, func(e os.DirEntry) bool { return len(e.Name()) == 32 })
	})
}
