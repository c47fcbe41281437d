package main

import (
	"os"
	"strings"
	"testing"
)

var test = edition{version: "1.0", date: "2026-11-21"}

func TestCommandPages(t *testing.T) {
	b, err := os.ReadFile("../../docs/reference/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := commandPages(string(b), test)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"opentap.1":         `\fBopentap\-capture\fP(1)`,
		"opentap-capture.1": `\fB\-\-duration DURATION\fP`,
		"opentap-token.1":   ".SH OPENTAP TOKEN CREATE\n",
	} {
		if !strings.Contains(pages[name], want) {
			t.Errorf("%s does not say %s:\n%s", name, want, pages[name])
		}
	}
	if s := summary([]string{"opentap", "token"}, blocks("token makes, lists and revokes tokens. It takes more.")); s != "makes, lists and revokes tokens" {
		t.Errorf("the summary is %q", s)
	}
	for _, bad := range []string{"", "# no command\n", "\n## other\n"} {
		if _, err := commandPages(bad, test); err == nil {
			t.Errorf("pages were made of %q", bad)
		}
	}
}

func TestDaemonPage(t *testing.T) {
	page, err := daemonPage("opentapd — the daemon: it serves.\n\nUsage:\n  opentapd [options]\n\nIt takes\nrights.\n\nOptions:\n  -config FILE\n    \tread FILE\n    \t(or not)\n  -version\n    \tprint it\n", test)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`opentapd \- the daemon: it serves` + "\n", ".SH SYNOPSIS\n.PP\n.RS 4\n.nf\nopentapd [options]\n.fi", ".SH DESCRIPTION\n.PP\nIt takes\nrights.\n",
		".TP\n" + `\fB\-\-config FILE\fP` + "\nread FILE (or not)\n", ".TP\n" + `\fB\-\-version\fP` + "\nprint it\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("it does not say %q:\n%s", want, page)
		}
	}
	if _, err := daemonPage("opentapd cannot start\n", test); err == nil {
		t.Error("a page was made of a complaint")
	}
}

func TestMarkdown(t *testing.T) {
	page := configPage("# Title\n\n`.a` is **b** and [c](d.md) \\ e.\n.f 'g'\n\n## More\n\n- one\n  two\n- three\n\n| k | d | m |\n|---|---|---|\n| `x` | `1` | a \\| b |\n| y | | z |\n\n```yaml\n.kept: -1\n```\n", test)
	for _, want := range []string{
		"\\fB.a\\fP is \\fBb\\fP and c \\e e.\n\\&.f \\(aqg\\(aq\n", ".SS More\n", ".IP \\(bu 2\none two\n.IP \\(bu 2\nthree\n",
		".TP\n\\fBx\\fP\na | b (default \\fB1\\fP)\n.TP\ny\nz\n", ".nf\n\\&.kept: \\-1\n.fi",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("it does not say %q:\n%s", want, page)
		}
	}
}
