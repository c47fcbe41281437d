package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// rerun runs failed tests a second time, alone: on a machine with much else to do a deadline may pass that is generous by itself. What passes
// then is told in the summary as unsteady, with the output of its failure before. What raced, panicked or ran out of time is not
// run again, nor is anything when more than most failed: then something is broken.
type rerun struct {
	most  int      // how many top-level tests at most
	netns string   // for go test -exec, of tests that make network namespaces; "" = the user has the rights
	args  []string // of go test, such as -race
}

// grave is what no second run makes good.
var grave = regexp.MustCompile(`DATA RACE|(?m)^panic:|test timed out|^fatal error:`)

// run goes through the failures of a summary; results are replaced by those of the second run.
func (r *rerun) run(s *summary) {
	tests := make(map[string][]string) // top-level tests by package
	n := 0
	for at, result := range s.results {
		switch top, _, _ := strings.Cut(at.Test, "/"); {
		case result != "fail":
		case !strings.HasPrefix(at.Package, "opentap"), grave.MatchString(s.failures[at]):
			return
		case !slices.Contains(tests[at.Package], top):
			tests[at.Package] = append(tests[at.Package], top)
			n++
		}
	}
	if n == 0 || n > r.most {
		return
	}
	fmt.Fprintf(s.w, "\nOnce more, alone, what failed:\n")
	for _, pkg := range slices.Sorted(maps.Keys(tests)) {
		slices.Sort(tests[pkg])
		for _, top := range tests[pkg] {
			if r.passes(s.w, pkg, top) {
				s.forgive(pkg, top)
			}
		}
	}
}

func (r *rerun) passes(w io.Writer, pkg, top string) bool {
	second := newSummary(w)
	if err := second.readFrom(r.command(pkg, top)); err != nil {
		fmt.Fprintf(w, "testsum: %v\n", err)
		return false
	}
	return second.results[name{pkg, top}] == "pass" && len(second.broken) == 0
}

// forgive counts a test and those within it as passed, and tells it as unsteady.
func (s *summary) forgive(pkg, top string) {
	s.unsteady = append(s.unsteady, name{pkg, top})
	for at, result := range s.results {
		if at.Package == pkg && result == "fail" && (at.Test == top || strings.HasPrefix(at.Test, top+"/")) {
			s.results[at] = "pass"
		}
	}
}

func (r *rerun) command(pkg, top string) *exec.Cmd {
	args := append([]string{"test", "-json", "-count=1", "-timeout=10m"}, r.args...)
	if r.netns != "" && strings.HasPrefix(top, "TestNetns") {
		args = append(args, "-exec", r.netns)
	}
	return exec.Command("go", append(args, "-run", "^"+top+"$", pkg)...)
}

// readFrom reads what a command prints.
func (s *summary) readFrom(c *exec.Cmd) error {
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	err = s.read(out)
	_, _ = io.Copy(io.Discard, out)
	_ = c.Wait() // a failed test is an error of go test too
	return err
}
