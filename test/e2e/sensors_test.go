//go:build linux

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"opentap/internal/await"
)

// phidgets builds the helper, where opentapd looks for it, and the library that stands in for the vendor's. Boards are what the
// file it returns says: see sensor/phidget/testdata/standin.c.
func phidgets(t *testing.T) (helper, library, state string) {
	t.Helper()
	needTool(t, "gcc")
	dir := t.TempDir()
	helper, library, state = filepath.Join(dir, "opentapd-phidget"), filepath.Join(dir, "libstandin.so"), filepath.Join(dir, "boards")
	build := exec.Command("go", "build", "-o", helper, "opentap/cmd/opentapd-phidget")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	for _, cmd := range []*exec.Cmd{build, exec.Command("gcc", "-shared", "-fPIC", "-DSTATE=\""+state+"\"", "-o", library, "../../sensor/phidget/testdata/standin.c")} {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
	}
	return helper, library, state
}

// Sensors that the configuration names: a Phidget board that is unplugged is a gap with its reason, what is away is told.
func TestNetnsConfiguredSensors(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	helper, library, state := phidgets(t)
	plug := func(text string) {
		t.Helper()
		if err := os.WriteFile(state+".new", []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(state+".new", state); err != nil {
			t.Fatal(err)
		}
	}
	sys := t.TempDir()
	iio := filepath.Join(sys, "bus", "iio", "devices", "iio:device0")
	if err := os.MkdirAll(iio, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"name": "adxl345", "in_accel_x_raw": "100", "in_accel_scale": "0.1"} {
		if err := os.WriteFile(filepath.Join(iio, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	plug("88888 0 0 0.5")
	d := newDaemon(t, l.near, `sensors:
  sysfs: `+sys+`
  phidgets:
    helper: `+helper+`
    library: `+library+`
    inputs: [{serial: 88888, port: 0, type: "1124", name: rack}]
  mqtt:
    - {url: "tcp://127.0.0.1:1", topics: [{topic: a/b, point: hall, quantity: temperature, unit: Cel}]}
`)
	type scan struct {
		Readings []struct {
			Point, Unit, Missing string
			Value                *float64
		}
		Problems []string
	}
	look := func() (s scan, by map[string]string) {
		t.Helper()
		if err := json.Unmarshal([]byte(d.must("sensors", "scan", "-o", "json")), &s); err != nil {
			t.Fatal(err)
		}
		by = make(map[string]string)
		for _, r := range s.Readings {
			b, _ := json.Marshal(r.Value)
			by[r.Point] = string(b) + " " + r.Unit + " " + r.Missing
		}
		return s, by
	}
	await.Until(t, "the board is read", func() bool { _, by := look(); return by["rack"] == "49.989 Cel " })
	s, by := look()
	if by["iio/adxl345/accel_x"] != "10 m/s2 " || !strings.Contains(by["hall"], "null Cel the broker") || len(s.Readings) != 3 || len(s.Problems) != 1 {
		t.Errorf("found %v %q", by, s.Problems)
	}

	d.create(m{"kind": "temperature", "id": "t", "points": []string{"rack"}, "period": "50ms"})
	records := func() uint64 { return d.show("t").Status.Records }
	await.Until(t, "some samples", func() bool { return records() >= 3 })
	plug("88888 0 52 0")
	await.Until(t, "a gap", func() bool { return len(d.show("t").Status.Gaps) == 1 })
	plug("crash")
	seen := records()
	await.Until(t, "it goes on without the helper", func() bool { return records() >= seen+5 })
	plug("88888 0 0 0.25")
	await.Until(t, "the board is read again", func() bool { _, by := look(); return strings.HasPrefix(by["rack"], "-5.561 ") })
	seen = records()
	await.Until(t, "more samples", func() bool { return records() >= seen+3 })
	v := d.finish("t")
	if len(v.Status.Gaps) == 0 || !strings.Contains(v.Status.Gaps[0].Reason, "not attached") {
		t.Errorf("gaps: %+v", v.Status.Gaps)
	}
	rows := columns(t, d.data("t", "classic").Body)
	values := map[string]int{}
	for _, r := range rows {
		values[r["temperature"]]++
	}
	if values["49.989"] == 0 || values["-5.561"] == 0 || values["0"] != 0 {
		t.Errorf("values: %v", values)
	}
}
