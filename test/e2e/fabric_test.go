//go:build linux

package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// TestNetnsLabDemon runs the demonstration as a person does: real switches, real frames, the built programs. It exits with an
// error unless every frame of the pairs and every copy came exactly once, nobody else saw one, the cut cable cost a handful, what was
// meddled with was found and put back, and the probe arrived.
func TestNetnsLabDemon(t *testing.T) {
	needRoot(t)
	needTool(t, "ovs-vsctl", "ip")
	cmd := exec.Command(clientBin, "lab", "demon", "--opentapd", daemonBin)
	out, err := cmd.CombinedOutput()
	text := string(out)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, s := range []string{"Nobody else saw anything.", "the rule is not there: mirror-h1 at s1/1", "42 rules in 3 switches are as they should be", "delivered  s1 → s3"} {
		if !strings.Contains(text, s) {
			t.Errorf("%q is missing in\n%s", s, text)
		}
	}
	if left, _ := exec.Command("ip", "netns").Output(); strings.Contains(string(left), fmt.Sprintf("otlab%d-", cmd.Process.Pid)) {
		t.Errorf("namespaces are left: %s", left)
	}
}
