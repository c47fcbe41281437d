package phidget

import (
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"opentap/fault"
	"opentap/internal/await"
	"opentap/sensor/sensortest"
)

func TestTypes(t *testing.T) {
	for _, c := range []struct {
		kind        string
		ratio, want float64
	}{
		{"1102", 0.39, 1},
		{"1102", 0.4, 0},
		{"1103", 0.09, 1},
		{"1103", 0.1, 0},
		{"1104", 0.5, 0},
		{"1104", 0, -1},
		{"1111", 1, 1},
		{"1124", 0.4029, 28.41338}, // the vendor's example: 2.0145 V of 5 V
		{"1124", 0.275028, 0},
		{"", 0.25, 0.25},
	} {
		if got := Types[c.kind].Value(c.ratio); math.Abs(got-c.want) > 1e-3 {
			t.Errorf("type %q at %v is %v, want %v", c.kind, c.ratio, got, c.want)
		}
	}
}

func TestCheck(t *testing.T) {
	good := Input{Serial: 1, Port: 7, Type: "1124", Name: "a"}
	for want, inputs := range map[string][]Input{
		"serial":  {{Port: 1, Name: "a"}},
		"port":    {{Serial: 1, Port: 8, Name: "a"}},
		"type":    {{Serial: 1, Type: "1125", Name: "a"}},
		"name":    {{Serial: 1}},
		"already": {good, {Serial: 1, Port: 7, Name: "b"}},
	} {
		if _, err := New(Config{Helper: "h", Inputs: inputs}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", inputs, err, want)
		}
	}
}

// FuzzTake gives the source any line as the helper's report.
func FuzzTake(f *testing.F) {
	f.Add([]byte(`{"readings":[{"ratio":0.5}]}`))
	f.Add([]byte(`{"problem":"none"}`))
	f.Add([]byte(`{"readings":[{"ratio":1e300,"missing":"x"}]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		s, err := New(Config{Helper: "h", Inputs: []Input{{Serial: 1, Name: "a"}}}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		_ = s.take(line)
		if got, err := s.Read(t.Context(), "a"); err != nil || got.Missing == "" && math.Abs(got.Value) > 10 {
			t.Errorf("%q is read as %+v, %v", line, got, err)
		}
	})
}

// built makes the helper and the library that stands in for the vendor's, which reads the file state.
func built(t *testing.T, state string) (helper, library string) {
	t.Helper()
	for _, p := range []string{"gcc", "go"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs the program %s", p)
		}
	}
	dir := t.TempDir()
	helper, library = filepath.Join(dir, "opentapd-phidget"), filepath.Join(dir, "libstandin.so")
	build := exec.Command("go", "build", "-o", helper, "opentap/cmd/opentapd-phidget")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	for _, cmd := range []*exec.Cmd{build, exec.Command("gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-DSTATE=\""+state+"\"", "-o", library, "testdata/standin.c")} {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
	}
	return helper, library
}

func TestSource(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	plug := func(lines ...string) {
		t.Helper()
		if err := os.WriteFile(state+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(state+".new", state); err != nil {
			t.Fatal(err)
		}
	}
	plug("88888 0 0 0.4029", "88888 1 0 0.75", "88888 2 51 0", "88888 3 60 0", "88888 4 9 0")
	helper, library := built(t, state)
	s := sensortest.Start(t, New, Config{Helper: helper, Library: library, Inputs: []Input{
		{Serial: 88888, Port: 0, Type: "1124", Name: "rack"},
		{Serial: 88888, Port: 1, Type: "1104", Name: "door"},
		{Serial: 88888, Port: 2, Type: "1111", Name: "young"},
		{Serial: 88888, Port: 3, Type: "1124", Name: "hot"},
		{Serial: 88888, Port: 4, Type: "1124", Name: "odd"},
		{Serial: 77777, Port: 0, Type: "1102", Name: "absent"},
	}})
	for name, want := range map[string]string{
		"rack": "28.4134", "door": "0.5", "young": "the board has no value yet", "hot": "the value is out of the sensor's range",
		"odd": "the library answers with code 0x9", "absent": "the board is not attached",
	} {
		await.Until(t, name+" is "+want, func() bool { return sensortest.Reads(t, s, name) == want })
	}
	points, err := s.Points(t.Context())
	if err != nil || len(points) != 6 || points[0].Name != "absent" || points[0].Present || points[4].Name != "rack" || points[4].Unit != "Cel" || !points[4].Present {
		t.Errorf("points: %v %+v", err, points)
	}
	if _, err := s.Read(t.Context(), "none"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a sensor that never was: %v", err)
	}

	plug("88888 0 52 0", "77777 0 0 0.2")
	await.Until(t, "a board that is unplugged is a gap", func() bool { return sensortest.Reads(t, s, "rack") == "the board is not attached" })
	await.Until(t, "one that is plugged in is read", func() bool { return sensortest.Reads(t, s, "absent") == "1" })
	plug("88888 0 0 0.5")
	await.Until(t, "and read again when it is back", func() bool { return sensortest.Reads(t, s, "rack") == "49.989" })

	plug("crash")
	await.Until(t, "a crash of the library is a gap", func() bool { return strings.Contains(sensortest.Reads(t, s, "rack"), "the helper for Phidgets ended") })
	plug("88888 0 0 0.25")
	await.Until(t, "after which it is read again", func() bool { return sensortest.Reads(t, s, "rack") == "-5.561" })
	plug("hang")
	await.Until(t, "a library that hangs is a gap", func() bool { return sensortest.Reads(t, s, "rack") == "the helper for Phidgets does not tell of it" })
}

func TestWithoutTheLibrary(t *testing.T) {
	helper, _ := built(t, "/dev/null")
	inputs := []Input{{Serial: 1, Name: "a"}}
	for want, cfg := range map[string]Config{
		"libphidget22 cannot be loaded": {Helper: helper, Library: "/nonexistent/lib.so", Inputs: inputs},
		"cannot be started":             {Helper: "/nonexistent/helper", Inputs: inputs},
		"read its report":               {Helper: "/bin/cat", Inputs: []Input{{Serial: 1, Name: "a"}}},
	} {
		s := sensortest.Start(t, New, cfg)
		if want == "read its report" { // cat says what it was told, which is no report of as many inputs
			want = "its report has 0 inputs of 1"
		}
		await.Until(t, want, func() bool { return strings.Contains(sensortest.Reads(t, s, "a"), want) })
	}
}
