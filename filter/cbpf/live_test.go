package cbpf

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"opentap/filter"
	"opentap/filter/filtertest"
	"opentap/packet"
)

// TestLibpcapLive compares with the installed libpcap, which may be another version than the stored programs are from.
func TestLibpcapLive(t *testing.T) {
	needTcpdump(t)
	if testing.Short() {
		t.Skip("starts tcpdump some hundred times")
	}
	file := emptyCapture(t, packet.LinkEthernet)
	frames := genFrames(23, 2000, false)
	for _, x := range expressions(t) {
		sameAsLibpcap(t, ask(file, x), packet.LinkEthernet, frames)
	}
}

// TestLibpcapRandom compares generated expressions with the installed libpcap on generated frames.
func TestLibpcapRandom(t *testing.T) {
	needTcpdump(t)
	file := emptyCapture(t, packet.LinkEthernet)
	frames := genFrames(rand.Uint64(), 1500, false)
	compared, refused := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		x := filtertest.Expr(r, 3, false)
		if rapid.IntRange(0, 3).Draw(r, "geneve") == 0 {
			x = "geneve and " + x
		}
		plain, msg := libpcap(file, x, false)
		e, err := filter.Parse(x)
		if err == nil {
			_, err = Compile(e, Options{Link: packet.LinkEthernet, Strict: true})
		}
		if msg != "" {
			// It looks at the first number of a computed shift as if that were all of it.
			if err == nil && !strings.Contains(msg, "shift by more than 31") {
				r.Fatalf("%q: libpcap refuses it, we do not: %s", x, msg)
			}
			refused++
			return
		}
		if err != nil {
			for _, known := range []string{"intermediate values", "inside one another", "behind geneve", "shift by more", "memory words", "outer packet"} {
				if strings.Contains(err.Error(), known) {
					return
				}
			}
			r.Fatalf("%q: libpcap takes it, we do not: %v", x, err)
		}
		before := t.Failed()
		sameAsLibpcap(t, golden{expr: x, plain: plain}, packet.LinkEthernet, frames)
		if !before && t.Failed() {
			r.Fatal(fmt.Sprintf("%q differs", x))
		}
		compared++
	})
	t.Logf("%d expressions compared on %d frames, %d refused by both", compared, len(frames), refused)
}
