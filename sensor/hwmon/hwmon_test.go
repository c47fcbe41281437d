package hwmon

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"opentap/fault"
	"opentap/point"
	"opentap/sensor"
	"opentap/sensor/sysfs"
)

// tree builds a sysfs tree: path → content; a path that ends in "@" is a symbolic link to its content.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for _, path := range slices.Sorted(maps.Keys(files)) {
		content := files[path]
		path, isLink := strings.CutSuffix(path, "@")
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if isLink {
			err = os.Symlink(content, full)
		} else {
			err = os.WriteFile(full, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// machine is a small server: a CPU, two equal disks, a board chip, thermal zones.
func machine(t *testing.T) string {
	return tree(t, map[string]string{
		"devices/platform/coretemp.0/uevent":                            "",
		"devices/platform/coretemp.0/hwmon/hwmon0/name":                 "coretemp\n",
		"devices/platform/coretemp.0/hwmon/hwmon0/temp1_input":          "45000\n",
		"devices/platform/coretemp.0/hwmon/hwmon0/temp1_label":          "Package id 0\n",
		"devices/platform/coretemp.0/hwmon/hwmon0/temp1_max":            "100000\n",
		"devices/platform/coretemp.0/hwmon/hwmon0/device@":              "../..",
		"class/hwmon/hwmon0@":                                           "../../devices/platform/coretemp.0/hwmon/hwmon0",
		"devices/pci0000:00/0000:01:00.0/nvme/nvme0/hwmon1/name":        "nvme",
		"devices/pci0000:00/0000:01:00.0/nvme/nvme0/hwmon1/temp1_input": "38850",
		"devices/pci0000:00/0000:01:00.0/nvme/nvme0/hwmon1/device@":     "..",
		"class/hwmon/hwmon1@":                                           "../../devices/pci0000:00/0000:01:00.0/nvme/nvme0/hwmon1",
		"devices/pci0000:00/0000:02:00.0/nvme/nvme1/hwmon2/name":        "nvme",
		"devices/pci0000:00/0000:02:00.0/nvme/nvme1/hwmon2/temp1_input": "-1500",
		"devices/pci0000:00/0000:02:00.0/nvme/nvme1/hwmon2/device@":     "..",
		"class/hwmon/hwmon2@":                                           "../../devices/pci0000:00/0000:02:00.0/nvme/nvme1/hwmon2",
		"class/hwmon/hwmon10/name":                                      "board",
		"class/hwmon/hwmon10/in0_input":                                 "1048",
		"class/hwmon/hwmon10/fan2_input":                                "1200",
		"class/hwmon/hwmon10/power1_average":                            "12500000",
		"class/hwmon/hwmon10/power2_input":                              "3000000",
		"class/hwmon/hwmon10/power2_average":                            "9999999",
		"class/hwmon/hwmon10/curr1_input":                               "250",
		"class/hwmon/hwmon10/humidity1_input":                           "41500",
		"class/hwmon/hwmon10/temp7_input":                               "99000",
		"class/hwmon/hwmon10/temp7_fault":                               "1",
		"class/hwmon/hwmon10/intrusion0_alarm":                          "0",
		"class/hwmon/hwmon10/tempx_input":                               "1",
		"class/hwmon/hwmonX/name":                                       "no",
		"class/hwmon/hwmon007/name":                                     "no",
		"class/thermal/thermal_zone0/type":                              "acpitz",
		"class/thermal/thermal_zone0/temp":                              "27800",
		"class/thermal/thermal_zone1/type":                              "acpitz",
		"class/thermal/thermal_zone1/temp":                              "29800",
		"class/thermal/thermal_zone2/type":                              "x86_pkg_temp",
		"class/thermal/thermal_zone2/temp":                              "46000",
		"class/thermal/cooling_device0/type":                            "Processor",
	})
}

func TestSource(t *testing.T) {
	s := New(machine(t))
	points, err := s.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		name, alias, quantity, unit string
		value                       float64
		missing                     string
	}{
		{"hwmon/board/curr1", "", "current", "A", 0.25, ""},
		{"hwmon/board/fan2", "", "fan speed", "{rpm}", 1200, ""},
		{"hwmon/board/humidity1", "", "humidity", "%", 41.5, ""},
		{"hwmon/board/in0", "", "voltage", "V", 1.048, ""},
		{"hwmon/board/power1", "", "power", "W", 12.5, ""},
		{"hwmon/board/power2", "", "power", "W", 3, ""},
		{"hwmon/board/temp7", "", "temperature", "Cel", 0, "the chip reports a broken sensor"},
		{"hwmon/coretemp/temp1", "coretemp Package id 0", "temperature", "Cel", 45, ""},
		{"hwmon/nvme-0000:01:00.0/temp1", "", "temperature", "Cel", 38.85, ""},
		{"hwmon/nvme-0000:02:00.0/temp1", "", "temperature", "Cel", -1.5, ""},
		{"thermal/acpitz", "", "temperature", "Cel", 27.8, ""},
		{"thermal/acpitz#2", "", "temperature", "Cel", 29.8, ""},
		{"thermal/x86_pkg_temp", "", "temperature", "Cel", 46, ""},
	}
	if len(points) != len(want) {
		t.Fatalf("%d sensors, want %d: %+v", len(points), len(want), points)
	}
	for i, w := range want {
		p := points[i]
		if p.Name != w.name || p.Kind != point.Sensor || p.Quantity != w.quantity || p.Unit != w.unit || !p.Present || strings.Join(p.Aliases, "|") != w.alias {
			t.Errorf("sensor %d is %+v, want %+v", i, p, w)
		}
		before := time.Now().UnixNano()
		got, err := s.Read(t.Context(), w.name)
		if err != nil || abs(got.Value-w.value) > 1e-9 || got.Missing != w.missing || got.Point != w.name || int64(got.Time) < before {
			t.Errorf("Read(%s) = %+v, %v; want %v %q", w.name, got, err, w.value, w.missing)
		}
	}
}

func abs(f float64) float64 { return max(f, -f) }

// Read needs no Points before it, follows a chip to its new number, and tells a sensor that is gone from an unknown one.
func TestVanish(t *testing.T) {
	root := machine(t)
	s := New(root)
	const name = "hwmon/nvme-0000:01:00.0/temp1"
	if got, err := s.Read(t.Context(), name); err != nil || got.Value != 38.85 {
		t.Fatalf("Read = %+v, %v", got, err)
	}
	class := filepath.Join(root, "class", "hwmon")
	if err := os.Rename(filepath.Join(class, "hwmon1"), filepath.Join(class, "hwmon5")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(t.Context(), name); err != nil || got.Value != 38.85 {
		t.Errorf("Read after renumbering = %+v, %v", got, err)
	}
	if err := os.Remove(filepath.Join(class, "hwmon5")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(t.Context(), name); err != nil || got.Missing != "the sensor is gone" || got.Value != 0 {
		t.Errorf("Read after unplugging = %+v, %v; want it missing", got, err)
	}
	if _, err := s.Read(t.Context(), "hwmon/nothing/temp1"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("Read of an unknown sensor: %v, want not found", err)
	}
	for _, evil := range []string{"", "../../../etc/passwd", "hwmon/board/../board/in0", "\x00", strings.Repeat("x", 1<<16)} {
		if _, err := s.Read(t.Context(), evil); fault.KindOf(err) != fault.NotFound {
			t.Errorf("Read(%.40q): %v, want not found", evil, err)
		}
	}
}

func TestFaultyFiles(t *testing.T) {
	root := tree(t, map[string]string{
		"class/hwmon/hwmon0/name":        "evil/../../x\x1b[31m\xff " + strings.Repeat("y", 100),
		"class/hwmon/hwmon0/temp1_input": "hot\n",
		"class/hwmon/hwmon0/temp2_input": strings.Repeat("1", 1<<20),
		"class/hwmon/hwmon0/temp3_input": "",
		"class/hwmon/hwmon0/temp4_input": "99999999999999999999",
		"class/hwmon/hwmon1/temp1_input": "1", // no name
		"class/hwmon/hwmon2/name":        "",
	})
	if err := os.Mkdir(filepath.Join(root, "class/hwmon/hwmon0/temp5_input"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(root, "class/hwmon/hwmon0/temp6_input"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := New(root)
	points, err := s.Points(t.Context())
	if err != nil || len(points) != 6 {
		t.Fatalf("%d sensors, want 6; %v", len(points), err)
	}
	for _, p := range points {
		//lint:ignore SA1011 octets that are not UTF-8 are just what must not be there
		if strings.Count(p.Name, "/") != 2 || len(p.Name) > 100 || strings.ContainsAny(p.Name, "\x1b\xff") {
			t.Errorf("unfit name %q", p.Name)
		}
		got, err := s.Read(t.Context(), p.Name)
		if err != nil || got.Missing == "" || got.Value != 0 || len(got.Missing) > 120 {
			t.Errorf("Read(%s) = %+v, %v; want it missing with a reason", p.Name, got, err)
		}
	}
}

func TestNoTree(t *testing.T) {
	points, err := New(filepath.Join(t.TempDir(), "none")).Points(t.Context())
	if err != nil || len(points) != 0 {
		t.Errorf("Points without a tree = %v, %v; want none", points, err)
	}
	if _, err := New("").Points(t.Context()); err != nil {
		t.Errorf("Points of this machine: %v", err)
	}
}

// FuzzRead plants any text as a chip's files: names stay fit, a sample has a value or a reason.
func FuzzRead(f *testing.F) {
	f.Add("coretemp", "45000\n", "Core 0")
	f.Add("a/b", "-1", "\xff\n")
	f.Add("", "1e3", "")
	f.Add("x", strings.Repeat("9", 300), strings.Repeat("l", 300))
	f.Fuzz(func(t *testing.T, name, value, label string) {
		root := tree(t, map[string]string{
			"class/hwmon/hwmon0/name": name, "class/hwmon/hwmon0/temp1_input": value, "class/hwmon/hwmon0/temp1_label": label,
			"class/thermal/thermal_zone0/type": name, "class/thermal/thermal_zone0/temp": value,
		})
		s := New(root)
		points, err := s.Points(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range points {
			if len(p.Name) > 2*sysfs.MaxWord || strings.Contains(p.Name, "\n") {
				t.Errorf("unfit name %q", p.Name)
			}
			got, err := s.Read(t.Context(), p.Name)
			if err != nil {
				t.Fatal(err)
			}
			if got.Missing != "" && got != (sensor.Sample{Time: got.Time, Point: p.Name, Missing: got.Missing}) {
				t.Errorf("a missing sample with a value: %+v", got)
			}
		}
	})
}
