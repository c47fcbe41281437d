// Command testsum reads the events of go test -json and says at the end what was not run, and why.
//
// Runs in: tools
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	var again rerun
	flag.IntVar(&again.most, "again", 0, "run failed tests once more when they are at most so many; flags of go test follow after --")
	flag.StringVar(&again.netns, "netns-exec", "", "go test -exec of tests that make network namespaces")
	flag.Parse()
	again.args = flag.Args()
	s := newSummary(os.Stdout)
	if err := s.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(2)
	}
	again.run(s)
	if s.print() > 0 {
		os.Exit(1)
	}
}

// event is one line of go test -json (go doc test2json), or of a script that speaks like it.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output and build-fail
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// name is a test, or with Test "" a package itself.
type name struct{ Package, Test string }

// maxOutput bounds the output kept of one test, in octets; the end is kept.
const maxOutput = 64 << 10

// summary gathers results. A later result of a test replaces an earlier one: tests that were skipped for want of rights are
// run again with them.
type summary struct {
	w       io.Writer
	output  map[name]string // while it runs
	results map[name]string // pass, fail, skip; of tests
	reasons map[name]string // of skips
	broken  map[string]bool // packages that failed outside any test: build, panic, timeout
	builds  map[string]string

	failures map[name]string // what failed tests printed
	unsteady []name          // what failed, and passed when it was run again
}

func newSummary(w io.Writer) *summary {
	return &summary{
		w: w, output: make(map[name]string), results: make(map[name]string), reasons: make(map[name]string),
		broken: make(map[string]bool), builds: make(map[string]string), failures: make(map[name]string),
	}
}

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				fmt.Fprintf(s.w, "%s", line) // go itself complains in plain text
			} else {
				s.add(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// reasonLine is where t.Skip says why: file and line, then the reason.
var reasonLine = regexp.MustCompile(`^\s*[\w.-]+\.\w+:\d+: (.*)$`)

func (s *summary) add(e event) {
	n := name{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		s.builds[e.ImportPath] += e.Output
	case "build-fail":
		fmt.Fprintf(s.w, "FAIL  %s does not build\n%s", e.ImportPath, s.builds[e.ImportPath])
		delete(s.builds, e.ImportPath)
	case "output":
		out := s.output[n] + e.Output
		s.output[n] = out[max(0, len(out)-maxOutput):]
	case "pass", "fail", "skip":
		out := s.output[n]
		delete(s.output, n)
		if e.Test == "" {
			s.endPackage(e, out)
			return
		}
		s.results[n] = e.Action
		delete(s.reasons, n)
		switch e.Action {
		case "fail":
			s.failures[n] = out
			fmt.Fprintf(s.w, "FAIL  %s %s\n", e.Package, e.Test)
			for line := range strings.Lines(out) {
				fmt.Fprintf(s.w, "      %s", line)
			}
		case "skip":
			s.reasons[n] = reasonOf(out)
		}
	}
}

func (s *summary) endPackage(e event, out string) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(s.w, "ok    %s %.1fs\n", e.Package, e.Elapsed)
	case "fail":
		fmt.Fprintf(s.w, "FAIL  %s %.1fs\n", e.Package, e.Elapsed)
		for n, r := range s.results {
			if n.Package == e.Package && r == "fail" {
				return // told already
			}
		}
		// What ran when the package died has an open output.
		for n, o := range s.output {
			if n.Package == e.Package {
				out += o
				delete(s.output, n)
			}
		}
		s.broken[e.Package] = true
		fmt.Fprintf(s.w, "%s", out)
	}
}

// reasonOf finds the reason in the output of a skipped test: what follows the last file and line.
func reasonOf(out string) string {
	reason := ""
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if m := reasonLine.FindStringSubmatch(line); m != nil {
			reason = m[1]
		}
	}
	if reason == "" {
		return "no reason given"
	}
	return reason
}

// print writes the summary and returns how many failed.
func (s *summary) print() (failed int) {
	counts := make(map[string]int)
	for _, r := range s.results {
		counts[r]++
	}
	failed = counts["fail"] + len(s.broken)
	if len(s.reasons) > 0 {
		byReason := make(map[string][]string)
		for n, r := range s.reasons {
			byReason[r] = append(byReason[r], n.Package+"."+n.Test)
		}
		fmt.Fprintln(s.w, "\nNot run, and why:")
		for _, r := range slices.Sorted(maps.Keys(byReason)) {
			tests := byReason[r]
			slices.Sort(tests)
			more := ""
			if len(tests) > 4 {
				tests, more = tests[:4], " …"
			}
			fmt.Fprintf(s.w, "  %d × %s\n      %s%s\n", len(byReason[r]), r, strings.Join(tests, ", "), more)
		}
	}
	if len(s.unsteady) > 0 {
		fmt.Fprintln(s.w, "\nUnsteady: failed, and passed when run again alone; what they printed is above:")
		for _, n := range s.unsteady {
			fmt.Fprintf(s.w, "  %s %s\n", n.Package, n.Test)
		}
	}
	if failed > 0 {
		fmt.Fprintln(s.w, "\nFailed:")
		for _, n := range slices.SortedFunc(maps.Keys(s.results), func(a, b name) int { return strings.Compare(a.Package+a.Test, b.Package+b.Test) }) {
			if s.results[n] == "fail" {
				fmt.Fprintf(s.w, "  %s %s\n", n.Package, n.Test)
			}
		}
		for _, p := range slices.Sorted(maps.Keys(s.broken)) {
			fmt.Fprintf(s.w, "  %s (outside any test)\n", p)
		}
	}
	fmt.Fprintf(s.w, "\n%d passed, %d failed, %d skipped\n", counts["pass"], failed, counts["skip"])
	return failed
}
