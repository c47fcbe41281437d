package sshapi

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"opentap/report"
	"opentap/want"
)

func TestSplit(t *testing.T) {
	for line, words := range map[string][]string{
		"":                              nil,
		" \t ":                          nil,
		"live eth0 port 53":             {"live", "eth0", "port", "53"},
		`live eth0 'port 53'`:           {"live", "eth0", "port 53"},
		`live "a 'b' c" d`:              {"live", "a 'b' c", "d"},
		`a\ b c`:                        {"a b", "c"},
		`'' ""`:                         {"", ""},
		`a''b"c"d`:                      {"abcd"},
		`"a\"b\\c\d\$"`:                 {`a"b\c\d$`},
		`'it'\''s'`:                     {"it's"},
		"a\\\nb":                        {"ab"},
		`(tcp or udp) && tcp[13] & 2`:   {"(tcp", "or", "udp)", "&&", "tcp[13]", "&", "2"},
		`live $HOME * ~ # ; | > x`:      {"live", "$HOME", "*", "~", "#", ";", "|", ">", "x"},
		"retrieve 'net/1' --format csv": {"retrieve", "net/1", "--format", "csv"},
	} {
		got, err := Split(line)
		if err != nil || !slices.Equal(got, words) {
			t.Errorf("Split(%q) = %q, %v, want %q", line, got, err, words)
		}
	}
	for _, line := range []string{`'a`, `"a`, `a\`, "a\x00b", "\"a\\\x00\"", strings.Repeat("a", maxCommand+1), strings.Repeat("a ", maxWords+2)} {
		if got, err := Split(line); err == nil {
			t.Errorf("Split(%.20q) = %d words, want an error", line, len(got))
		}
	}
}

// TestSplitIsAShells compares with a shell on words whose characters mean nothing more to it.
func TestSplitIsAShells(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("needs sh")
	}
	for _, line := range []string{`a 'b c'  "d \" e" f\ g`, `''`, `x"y"'z'\w`, `"\a\\b"`, "a\\\nb 'c\nd'", `"a'b" 'c"d'`} {
		out, err := exec.Command(sh, "-c", `printf '%s\0' `+line).Output()
		if err != nil {
			t.Fatal(err)
		}
		theirs := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		if ours, err := Split(line); err != nil || !slices.Equal(ours, theirs) {
			t.Errorf("%q: %q, %v; a shell has %q", line, ours, err, theirs)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(`live eth0 'port 53' --snap 96`)
	f.Add(`"a\"b" c\ d ''`)
	f.Add("'\x00\\")
	f.Fuzz(func(t *testing.T, line string) {
		words, err := Split(line)
		if err != nil {
			return
		}
		total := 0
		quoted := make([]string, len(words))
		for i, w := range words {
			total += len(w)
			quoted[i] = Quote(w)
		}
		if total > len(line) {
			t.Fatalf("%d octets became %d", len(line), total)
		}
		if again := strings.Join(quoted, " "); len(again) <= maxCommand {
			if back, err := Split(again); err != nil || !slices.Equal(back, words) {
				t.Fatalf("%q became %q, %v", words, back, err)
			}
		}
		for _, v := range verbs() {
			c := &call{out: &bytes.Buffer{}, err: &bytes.Buffer{}}
			o, _, _ := v.bind(c)
			_, _ = o.parse(words)
		}
	})
}

func TestOptions(t *testing.T) {
	var points []string
	var d want.Duration
	var n uint64
	var quiet, other bool
	o := &options{}
	o.texts(&points, "point", 'p', "POINT", "")
	o.duration(&d, "duration", 'd', "")
	o.number(&n, "snap", "")
	o.flag(&quiet, "quiet", 'q', "")
	o.flag(&other, "other", 'x', "")
	rest, err := o.parse([]string{"a", "-p", "eth0,eth1", "--point=eth2", "-d10s", "b", "--snap", "96", "-qx", "-", "--", "-c"})
	if err != nil || !slices.Equal(rest, []string{"a", "b", "-", "-c"}) || !slices.Equal(points, []string{"eth0", "eth1", "eth2"}) ||
		d != 1e10 || n != 96 || !quiet || !other {
		t.Errorf("rest %q, points %q, %v, %d, %v, %v: %v", rest, points, d, n, quiet, other, err)
	}
	for _, words := range [][]string{{"--nope"}, {"-z"}, {"-p"}, {"--quiet=yes"}, {"--snap", "-1"}, {"-d", "10"}, {"-4"}} {
		if _, err := o.parse(words); exitCode(t.Context(), err) != report.ExitUsage {
			t.Errorf("%q: %v", words, err)
		}
	}
}
