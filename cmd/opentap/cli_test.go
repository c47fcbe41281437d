package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/reference/cli.md")

const reference = "../../docs/reference/cli.md"

// TestReferenceIsCurrent compares docs/reference/cli.md with the commands. go test ./cmd/opentap -run Reference -update
// writes it.
func TestReferenceIsCurrent(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# The `opentap` command\n\nGenerated from the program: `go test ./cmd/opentap -run TestReference -update`.\n")
	root := (&app{}).root()
	document(&b, root)
	if *update {
		if err := os.WriteFile(reference, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(reference)
	if err != nil || !bytes.Equal(have, b.Bytes()) {
		t.Errorf("%s is not current (%v); run go test ./cmd/opentap -run TestReference -update", reference, err)
	}
}

func document(b *bytes.Buffer, cmd *cobra.Command) {
	if cmd.Name() == "help" || cmd.Parent() != nil && cmd.Parent().Name() == "completion" {
		return
	}
	text := cmd.Short + "."
	if cmd.Long != "" && cmd.Name() != "completion" {
		text = cmd.Long
	}
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n```\n%s\n```\n", cmd.CommandPath(), text, cmd.UseLine())
	if cmd.Example != "" {
		fmt.Fprintf(b, "\nExamples:\n\n```sh\n%s\n```\n", strings.ReplaceAll(strings.TrimPrefix(cmd.Example, "  "), "\n  ", "\n"))
	}
	flags := cmd.NonInheritedFlags()
	if flags.HasAvailableFlags() {
		b.WriteString("\n| Option | Meaning |\n|---|---|\n")
		flags.VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" {
				return
			}
			name := "`--" + f.Name
			if f.Shorthand != "" {
				name = "`-" + f.Shorthand + "`, " + name
			}
			if kind := f.Value.Type(); kind != "bool" {
				name += " " + strings.ToUpper(kind)
			}
			fmt.Fprintf(b, "| %s` | %s |\n", name, f.Usage)
		})
	}
	for _, sub := range cmd.Commands() {
		document(b, sub)
	}
}

// TestEveryCommandHasAnExample keeps the help useful.
func TestEveryCommandHasAnExample(t *testing.T) {
	for _, cmd := range (&app{}).root().Commands() {
		if cmd.Name() != "help" && cmd.Name() != "completion" && cmd.Example == "" && !cmd.HasSubCommands() {
			t.Errorf("%s has none", cmd.CommandPath())
		}
	}
}

// TestStaysLight refuses what would make the program slow to start. Parquet and Arrow, which opentap meter writes, and the
// protobuf that Parquet links are not among it: they cost a millisecond.
func TestStaysLight(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "opentap/cmd/opentap").Output()
	if err != nil {
		t.Skip("needs the go command:", err)
	}
	for pkg := range strings.Lines(string(out)) {
		pkg = strings.TrimSpace(pkg)
		for _, heavy := range []string{"go.etcd.io/", "google.golang.org/grpc", "github.com/cilium/", "opentap/agent", "opentap/controller", "opentap/store", "opentap/api", "html/template"} {
			if strings.HasPrefix(pkg, heavy) {
				t.Errorf("links %s", pkg)
			}
		}
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 1, 2, 15, 4, 5, 6, time.FixedZone("X", 3600))
	for s, want := range map[string]time.Time{
		"": {}, "now": now, "-10m": now.Add(-10 * time.Minute), "+1h30m": now.Add(90 * time.Minute),
		"2026-01-02T15:04:05Z": time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC), "1700000000": time.Unix(1700000000, 0),
		"1700000000.25": time.Unix(1700000000, 25e7), "16:00": time.Date(2026, 1, 2, 16, 0, 0, 0, now.Location()), "16:00:09": time.Date(2026, 1, 2, 16, 0, 9, 0, now.Location()),
	} {
		if got, err := parseTime(s, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"tomorrow", "-", "+5", "25:00", "1e9", "1.-5", "99999999999999", "1700000000.1234567890"} {
		if got, err := parseTime(s, now); err == nil {
			t.Errorf("%q was taken as %v", s, got)
		}
	}
}

func TestParseOctets(t *testing.T) {
	for s, want := range map[string]uint64{"": 0, "1500": 1500, "10MB": 1e7, "10MiB": 10 << 20, "1 GiB": 1 << 30, "2k": 2000, "0TB": 0} {
		if got, err := parseOctets(s); err != nil || got != want {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"-1", "1.5MB", "MB", "99999999TiB", "1 parsec"} {
		if got, err := parseOctets(s); err == nil {
			t.Errorf("%q was taken as %d", s, got)
		}
	}
}

func TestShellWord(t *testing.T) {
	for s, want := range map[string]string{"cap-1": "cap-1", "a b": "'a b'", "-x": "'-x'", "it's": `'it'\''s'`, "": "''"} {
		if got := shellWord(s); got != want {
			t.Errorf("%q: %s", s, got)
		}
	}
}

func FuzzWords(f *testing.F) {
	f.Add("-10m")
	f.Add("1700000000.5")
	f.Add("10MiB")
	f.Add("\x1b[31m")
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = parseTime(s, time.Unix(1e9, 0))
		_, _ = parseOctets(s)
		if strings.ContainsFunc(clean(s), func(r rune) bool { return clean(string(r)) != string(r) }) {
			t.Errorf("%q is not clean", clean(s))
		}
	})
}
