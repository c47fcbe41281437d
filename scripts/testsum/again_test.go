package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestAgain: of tests that failed, one passes alone and one does not; one that raced is not given a second run, nor are more than were allowed.
func TestAgain(t *testing.T) {
	t.Chdir(t.TempDir())
	files := map[string]string{
		"go.mod": "module opentap\n",
		"x_test.go": `package opentap
import ("os"; "testing")
func TestSteady(t *testing.T) {}
func TestOnce(t *testing.T) { t.Run("part", func(t *testing.T) {
	if _, err := os.Stat("been"); err != nil { os.WriteFile("been", nil, 0o600); t.Error("too late") }
}) }
func TestNever(t *testing.T) { t.Error("broken") }
func TestRace(t *testing.T) { if os.Getenv("RACE") != "" { t.Error("WARNING: DATA RACE") } }
`,
	}
	for f, text := range files {
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all := func(most int) (failed int, told string) {
		t.Helper()
		var b bytes.Buffer
		s := newSummary(&b)
		r := rerun{most: most, args: []string{"-vet=off"}}
		if err := s.readFrom(r.command("opentap", "Test.*")); err != nil {
			t.Fatal(err)
		}
		r.run(s)
		return s.print(), b.String()
	}
	if n, told := all(5); n != 1 || !strings.Contains(told, "passed when run again") || !strings.Contains(told, "too late") ||
		!strings.Contains(told, "  opentap TestOnce\n") || !strings.HasSuffix(told, "\n4 passed, 1 failed, 0 skipped\n") {
		t.Errorf("%d failed:\n%s", n, told)
	}
	again := func(why string, most, want int) {
		t.Helper()
		if err := os.Remove("been"); err != nil {
			t.Fatal(err)
		}
		if n, told := all(most); n != want || strings.Contains(told, "Once more") {
			t.Errorf("%s: %d failed, want %d:\n%s", why, n, want, told)
		}
	}
	again("two where one is the most", 1, 3) // TestOnce, its part, and TestNever
	t.Setenv("RACE", "yes")
	again("a race", 5, 4)
}
