//go:build linux

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// manyPoints is how many observation points the dashboard must show without a delay.
const manyPoints = 1000

// TestNetnsDashboardMany has a browser look at a host of a thousand devices, all of which see packets: how soon the page can be
// used, and whether long lists move without a hitch. With OPENTAP_STAY=FILE it stays, as TestNetnsDashboard does.
func TestNetnsDashboardMany(t *testing.T) {
	needRoot(t)
	dir := needDashboard(t)
	s := &stage{lab: newLab(t)}
	s.near.Ready("tap0")
	var batch strings.Builder
	for i := range manyPoints/2 - 1 { // besides lo and tap0
		fmt.Fprintf(&batch, "link add a%d up type veth peer name b%d\nlink set b%d up\n", i, i, i)
	}
	s.d = prepare(t, s.near, "")
	file := s.d.file("links")
	if err := os.WriteFile(file, []byte(batch.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.d.exec("ip", "-batch", file); r.code != 0 {
		t.Fatalf("ip: %s", r.stderr)
	}
	s.d.start()
	s.d.must("capture", "pcap", "--point", "tap0", "--id", "long", "--detach", "-q")
	for i := range 100 {
		s.Send(plain(100*i, 100, 7000)...)
	}
	defer s.chatter(t)()
	if file := os.Getenv("OPENTAP_STAY"); file != "" {
		s.stay(t, file)
		return
	}
	s.browse(t, dir, "many.mjs")
}
