package etcd

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"opentap/store"
)

const footprintDir = "OPENTAP_TEST_STORE_FOOTPRINT"

// TestFootprint reports, in a process of its own, what an embedded store costs: time to the first answer, resident
// memory, a durable put. It fails only far beyond what is promised, for the machine may be busy.
func TestFootprint(t *testing.T) {
	if dir := os.Getenv(footprintDir); dir != "" {
		footprint(t, dir)
		return
	}
	c := exec.Command(os.Args[0], "-test.run=^TestFootprint$", "-test.v")
	c.Env = append(os.Environ(), footprintDir+"="+t.TempDir())
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

func footprint(t *testing.T, dir string) {
	began := time.Now()
	s, err := Open(t.Context(), Config{Dir: dir}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	started := time.Since(began)
	idle := resident(t)
	var took []time.Duration
	for i := range 500 {
		at := time.Now()
		if _, err := s.Txn(t.Context(), nil, []store.Op{store.Put(fmt.Sprintf("k%d", i), make([]byte, 512))}); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(at))
	}
	slices.Sort(took)
	f, err := os.Create(dir + "/floor")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var floor []time.Duration
	for range 200 {
		at := time.Now()
		f.Write(make([]byte, 600))
		f.Sync()
		floor = append(floor, time.Since(at))
	}
	slices.Sort(floor)
	t.Logf("first start %v; resident %d MiB idle, %d MiB after 500 puts; put p50 %v p99 %v; write+fsync alone p50 %v",
		started, idle>>10, resident(t)>>10, took[250], took[495], floor[100])
	if started > 5*time.Second || idle > 100<<10 {
		t.Errorf("start or memory far beyond the promise (1.5 s, 50 MiB)")
	}
}

// resident returns VmRSS in KiB, proc(5).
func resident(t *testing.T) int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("needs /proc")
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	var kib int
	fmt.Sscan(rest, &kib)
	return kib
}
