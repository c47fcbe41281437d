package doctor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"opentap/want"
)

func of(t *testing.T, list []want.Finding, check string) want.Finding {
	t.Helper()
	for _, f := range list {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("%s was not looked at", check)
	return want.Finding{}
}

func dirs(t *testing.T) Config {
	t.Helper()
	base := t.TempDir()
	c := Config{
		DataDir: filepath.Join(base, "data"), CaptureDir: filepath.Join(base, "captures"), Quota: 1 << 20, MinFree: 1, RingBytes: 1 << 20,
		Known: func(name string) bool { return name == "mine" },
	}
	for _, d := range []string{c.DataDir, c.CaptureDir, filepath.Join(c.CaptureDir, "mine")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestEveryFindingIsWhole(t *testing.T) {
	cfg := dirs(t)
	list := Look(context.Background(), cfg)
	for _, check := range []string{"kernel", "capabilities", "ebpf", "packet_ring", "af_xdp", "clock", "ring_memory", "space", "private", "leftovers", "disk_data", "disk_captures"} {
		f := of(t, list, check)
		if f.Text == "" || (f.Fix == "") != (f.Severity == want.Fine) {
			t.Errorf("%+v", f)
		}
	}
	for _, check := range []string{"space", "private", "leftovers"} {
		if f := of(t, list, check); f.Severity != want.Fine {
			t.Errorf("of a good directory: %+v", f)
		}
	}
	for _, d := range []string{cfg.DataDir, cfg.CaptureDir} {
		if left, _ := filepath.Glob(filepath.Join(d, ".doctor-*")); len(left) != 0 {
			t.Errorf("it left %q", left)
		}
	}
}

func TestWhatIsNotGood(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil    func(c *Config) error
		check    string
		severity want.Severity
		has      string
	}{
		"a stranger's file": {func(c *Config) error { return os.WriteFile(filepath.Join(c.CaptureDir, "odd\nname"), nil, 0o600) }, "leftovers", want.Warn, `odd\nname`},
		"open to others":    {func(c *Config) error { return os.Chmod(c.DataDir, 0o755) }, "private", want.Warn, "0755"},
		"no data directory": {func(c *Config) error { return os.Remove(c.DataDir) }, "disk_data", want.Bad, "cannot be"},
		"no captures":       {func(c *Config) error { return os.RemoveAll(c.CaptureDir) }, "space", want.Bad, "cannot be"},
		"too little room":   {func(c *Config) error { c.MinFree = 1 << 60; return nil }, "space", want.Bad, "nothing can be captured"},
		"too large a quota": {func(c *Config) error { c.Quota = 1 << 60; return nil }, "space", want.Warn, "cannot be reached"},
		"too large a ring":  {func(c *Config) error { c.RingBytes = 1 << 60; return nil }, "ring_memory", want.Bad, "for its ring"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := dirs(t)
			if err := tt.spoil(&cfg); err != nil {
				t.Fatal(err)
			}
			f := of(t, Look(context.Background(), cfg), tt.check)
			if f.Severity != tt.severity || !strings.Contains(f.Text, tt.has) || f.Fix == "" {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestLookEndsWhenItIsToldTo(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, f := range Look(ctx, dirs(t)) {
		if f.Check == "disk_data" {
			t.Error("it wrote")
		}
	}
}

// TestAHostThatCapturesNothing, as a controller's does not, is not told what capturing lacks.
func TestAHostThatCapturesNothing(t *testing.T) {
	for _, f := range Look(t.Context(), Config{DataDir: t.TempDir()}) {
		switch f.Check {
		case "clock", "private", "disk_data":
		default:
			t.Errorf("%+v", f)
		}
	}
}
