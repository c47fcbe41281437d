package audit

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestDocument runs the commands that docs/format/audit.md gives an auditor.
func TestDocument(t *testing.T) {
	doc, err := os.ReadFile("../docs/format/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, ok := strings.Cut(string(doc), "```sh\n")
	script, _, ok2 := strings.Cut(script, "```")
	if !ok || !ok2 {
		t.Fatal("no commands in the document")
	}
	for _, tool := range []string{"sh", "sed", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	l := open(t, Config{})
	add(t, l, 7)
	c := exec.Command("sh", "-c", script)
	c.Dir = l.dir
	out, err := c.CombinedOutput()
	if _, hash, _ := strings.Cut(l.Head().String(), ":"); err != nil || !strings.HasPrefix(string(out), hash) {
		t.Errorf("the commands say %s (%v), the head is %s", out, err, l.Head())
	}
}
