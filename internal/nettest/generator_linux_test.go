package nettest

import (
	"context"
	"testing"
	"time"
)

func TestNetnsGeneratorDelivers(t *testing.T) {
	for _, mix := range []Mix{Mix64, MixIMIX} {
		t.Run(string(mix), func(t *testing.T) {
			ns := NewNS(t)
			Veth(t, ns, "a0", ns, "b0")
			var err error
			var made, delivered uint64
			var took time.Duration
			ns.Do(func() {
				var s *Sink
				var g *Generator
				if s, err = NewSink("b0"); err != nil {
					return
				}
				defer s.Close()
				if g, err = NewGenerator(GeneratorConfig{Interface: "a0", Mix: mix, CPU: -1}); err != nil {
					return
				}
				defer g.Close()
				start := time.Now()
				if err = g.Run(context.Background(), 1_000_000, 0); err != nil {
					return
				}
				took = time.Since(start)
				if made, err = g.Made(); err == nil {
					delivered, err = s.Delivered()
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			rx := ns.Received("b0")
			t.Logf("made %d, delivered %d, interface %d, in %v: %.2f Mpps", made, delivered, rx, took, float64(delivered)/took.Seconds()/1e6)
			if delivered == 0 || delivered > made || rx != delivered {
				t.Errorf("made %d, delivered %d, received by interface %d", made, delivered, rx)
			}
		})
	}
}
