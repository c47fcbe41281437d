package iio

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"opentap/fault"
)

// board is a small computer with an accelerometer, a weather chip, an ADC, and devices that measure nothing.
func board(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range map[string]string{
		"bus/iio/devices/iio:device0/name":                        "adxl345\n",
		"bus/iio/devices/iio:device0/label":                       "accel-base",
		"bus/iio/devices/iio:device0/in_accel_x_raw":              "256\n",
		"bus/iio/devices/iio:device0/in_accel_y_raw":              "-2",
		"bus/iio/devices/iio:device0/in_accel_x_label":            "front",
		"bus/iio/devices/iio:device0/in_accel_scale":              "0.038307\n",
		"bus/iio/devices/iio:device0/in_activity_still_input":     "1",
		"bus/iio/devices/iio:device1/name":                        "bme280",
		"bus/iio/devices/iio:device1/in_temp_input":               "21500",
		"bus/iio/devices/iio:device1/in_temp_raw":                 "1",
		"bus/iio/devices/iio:device1/in_pressure_input":           "101.325",
		"bus/iio/devices/iio:device1/in_humidityrelative_input":   "45250",
		"bus/iio/devices/iio:device2/name":                        "adc",
		"bus/iio/devices/iio:device2/in_voltage0_raw":             "100",
		"bus/iio/devices/iio:device2/in_voltage0_scale":           "2",
		"bus/iio/devices/iio:device2/in_voltage0_offset":          "-50",
		"bus/iio/devices/iio:device2/in_voltage_scale":            "1000",
		"bus/iio/devices/iio:device2/in_voltage1_raw":             "3",
		"bus/iio/devices/iio:device2/in_voltage0-voltage1_raw":    "10",
		"bus/iio/devices/iio:device2/in_voltage-voltage_scale":    "5",
		"bus/iio/devices/iio:device2/in_phase0_raw":               "10",
		"bus/iio/devices/iio:device3/name":                        "bme280",
		"bus/iio/devices/iio:device3/in_temp_input":               "broken",
		"bus/iio/devices/trigger0/name":                           "none",
		"bus/iio/devices/iio:device4/in_temp_input":               "1",
		"bus/iio/devices/iio:device2/buffer/in_voltage0_raw_odd":  "1",
		"bus/iio/devices/iio:device2/scan_elements/in_voltage_en": "1",
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestSource(t *testing.T) {
	root := board(t)
	s := New(root)
	points, err := s.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]struct {
		quantity, unit, alias string
		value                 float64
	}{
		"iio/adxl345/accel_x":         {"motion", "m/s2", "accel-base front", 9.806592},
		"iio/adxl345/accel_y":         {"motion", "m/s2", "", -0.076614},
		"iio/bme280/temp":             {"temperature", "Cel", "", 21.5},
		"iio/bme280/pressure":         {"pressure", "kPa", "", 101.325},
		"iio/bme280/humidityrelative": {"humidity", "%", "", 45.25},
		"iio/adc/voltage0":            {"voltage", "V", "", 0.1},
		"iio/adc/voltage1":            {"voltage", "V", "", 3},
		"iio/adc/voltage0-voltage1":   {"voltage", "V", "", 0.05},
		"iio/bme280#2/temp":           {"temperature", "Cel", "", 0},
	}
	if len(points) != len(want) {
		t.Errorf("%d points, want %d: %+v", len(points), len(want), points)
	}
	for _, p := range points {
		w, ok := want[p.Name]
		if !ok || p.Quantity != w.quantity || p.Unit != w.unit || strings.Join(p.Aliases, ",") != w.alias || !p.Present {
			t.Errorf("%+v, want %+v", p, w)
		}
		got, err := s.Read(t.Context(), p.Name)
		if err != nil || math.Abs(got.Value-w.value) > 1e-9 || (got.Missing != "") != (p.Name == "iio/bme280#2/temp") {
			t.Errorf("%s reads %+v, %v; want %v", p.Name, got, err, w.value)
		}
	}

	// A sensor that is unplugged is a gap, one that never was is an error, one that is back goes on.
	gone := filepath.Join(root, "bus/iio/devices/iio:device0")
	if err := os.Rename(gone, filepath.Join(root, "away")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(t.Context(), "iio/adxl345/accel_x"); err != nil || got.Missing != "the sensor is gone" {
		t.Errorf("a sensor that is gone: %+v, %v", got, err)
	}
	if _, err := s.Read(t.Context(), "iio/none/temp"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a sensor that never was: %v", err)
	}
	if err := os.Rename(filepath.Join(root, "away"), filepath.Join(root, "bus/iio/devices/iio:device7")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(t.Context(), "iio/adxl345/accel_x"); err != nil || got.Missing != "" {
		t.Errorf("a sensor that is back under another number: %+v, %v", got, err)
	}
	if points, err := New(t.TempDir()).Points(t.Context()); err != nil || len(points) != 0 {
		t.Errorf("without such devices: %v, %v", points, err)
	}
}
