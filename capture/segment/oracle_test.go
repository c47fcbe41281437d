package segment

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"opentap/ledger"
)

// toolCounts returns how many packets each installed tool finds in a file. Warnings count as failures.
func toolCounts(t *testing.T, path string) map[string]int {
	t.Helper()
	out := map[string]int{}
	run := func(name string, args ...string) (string, bool) {
		bin, err := exec.LookPath(name)
		if err != nil {
			return "", false
		}
		var stdout, stderr bytes.Buffer
		c := exec.Command(bin, args...)
		c.Stdout, c.Stderr = &stdout, &stderr
		err = c.Run()
		said := stderr.String()
		for _, harmless := range []string{`(?m)^Running as user.*\n`, `(?m)^reading from file.*\n`} {
			said = regexp.MustCompile(harmless).ReplaceAllString(said, "")
		}
		if err != nil || said != "" {
			t.Fatalf("%s %v: %v: %s", name, args, err, said)
		}
		return stdout.String(), true
	}
	if s, ok := run("capinfos", "-Mc", "-T", "-r", path); ok {
		f := strings.Fields(s)
		out["capinfos"], _ = strconv.Atoi(f[len(f)-1])
	}
	if s, ok := run("tshark", "-n", "-r", path, "-T", "fields", "-e", "frame.number", "-e", "_ws.malformed"); ok {
		out["tshark"] = strings.Count(s, "\n")
	}
	if s, ok := run("tcpdump", "-n", "-q", "-r", path); ok {
		n := 0
		for _, l := range strings.Split(s, "\n") {
			if len(l) > 2 && l[2] == ':' {
				n++
			}
		}
		out["tcpdump"] = n
	}
	if len(out) == 0 {
		t.Skip("needs capinfos, tshark or tcpdump")
	}
	return out
}

// TestToolsAgree has other programs read a segment, whole and cut at chunk boundaries.
func TestToolsAgree(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(testConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	all := samples(rand.New(rand.NewPCG(3, 4)), 300)
	for i, s := range all {
		appendAll(t, w, []sample{s})
		if i%37 == 0 {
			w.Flush()
		}
	}
	w.Account(ledger.Account{Seen: 300, Captured: 300})
	w.Close(ledger.Account{Seen: 310, Captured: 300, Filtered: 10})
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	whole, err := os.ReadFile(segmentPath(dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	type cut struct {
		at   int64
		want int
	}
	cuts := []cut{{Page, 0}}
	n := 0
	for h, err := range r.Chunks(0, 0) {
		if err != nil {
			t.Fatal(err)
		}
		n += int(h.Packets)
		cuts = append(cuts, cut{h.End(), n})
	}
	cuts = append(cuts, cut{int64(len(whole)), 300})
	if n != 300 || len(cuts) < 15 {
		t.Fatalf("%d packets, %d cuts", n, len(cuts))
	}
	for i := 0; i < len(cuts); i += 1 + len(cuts)/8 {
		c := cuts[len(cuts)-1-i]
		path := filepath.Join(t.TempDir(), fmt.Sprintf("cut%d.pcapng", c.at))
		if err := os.WriteFile(path, whole[:c.at], 0o600); err != nil {
			t.Fatal(err)
		}
		for tool, got := range toolCounts(t, path) {
			if got != c.want {
				t.Errorf("cut at %d: %s finds %d packets, want %d", c.at, tool, got, c.want)
			}
		}
	}
}
