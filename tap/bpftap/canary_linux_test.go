package bpftap

import (
	"context"
	"testing"
	"time"

	"opentap/tap"
)

// TestNetnsCanaries: canaries of the direction that is tapped are heard at the tool as they were put on the device, others are not; and
// none is heard when the tap is broken.
func TestNetnsCanaries(t *testing.T) {
	for _, dir := range []tap.Direction{tap.In, tap.Out} {
		l := newLab(t, "")
		l.source(local("a", dir, tap.Options{}))
		token := [8]byte{7}
		var sent []tap.Canary    // by number
		var went []tap.Direction // by number
		heard := make(chan tap.Canary, 100)
		begun, done := make(chan bool), make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		l.tool.Do(func() {}) // the namespace is up
		go l.tool.Do(func() {
			done <- Hear(ctx, "t1", func() { close(begun) }, func(f []byte, at time.Time) {
				if c, ok := tap.ParseCanary(f, at); ok && c.Token == token && !at.Before(c.Sent) {
					heard <- c
				}
			})
		})
		<-begun
		send := func() {
			sent, went = nil, nil
			for _, d := range []tap.Direction{tap.In, tap.Out} {
				for _, vlan := range []uint16{0, 5} {
					for _, length := range []int{tap.ShortestCanary + 4, 1514} {
						c := tap.Canary{Token: token, Number: uint32(len(sent)), VLAN: vlan, Length: length, Sent: time.Now()}
						sent, went = append(sent, c), append(went, d)
						l.host.Do(func() {
							if err := Inject("p0", d, [][]byte{c.Frame()}); err != nil {
								t.Error(err)
							}
						})
					}
				}
			}
		}
		send()
		for range 4 {
			select {
			case c := <-heard:
				if was := sent[c.Number]; went[c.Number] != dir || c.VLAN != was.VLAN || c.Length != was.Length {
					t.Errorf("a canary that went %s as %+v is heard by a tap of %s as %+v", went[c.Number], was, dir, c)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("too few canaries are heard; %+v", l.counts("a"))
			}
		}
		l.host.Do(func() {
			if err := l.d.Delete(ctx, "a"); err != nil {
				t.Error(err)
			}
		})
		send()
		select {
		case c := <-heard:
			t.Errorf("heard without a tap: %+v", c)
		case <-time.After(200 * time.Millisecond):
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
