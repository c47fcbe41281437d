package tap

import (
	"testing"
	"time"
)

func TestCanary(t *testing.T) {
	now := time.UnixMicro(1_795_000_000_123_456).UTC()
	for _, c := range []Canary{
		{Token: [8]byte{1, 2}, Number: 7, Length: ShortestCanary, Sent: now},
		{Number: 1 << 31, VLAN: 4094, Length: 1518, Sent: now.Add(-20 * time.Minute)},
		{Number: 1, Length: 64, Sent: now.Add(3 * time.Second)}, // by a clock that is ahead
	} {
		f := c.Frame()
		if got, ok := ParseCanary(f, now); !ok || got != c || len(f) != c.Length {
			t.Errorf("%+v comes back as %+v, %v, in %d octets", c, got, ok, len(f))
		}
		known := ShortestCanary
		if c.VLAN != 0 {
			known += 4
		}
		for n := range f {
			got, ok := ParseCanary(f[:n], now)
			if ok != (n >= known) {
				t.Fatalf("cut to %d octets: a canary: %v", n, ok)
			}
			if ok && (got.Number != c.Number || got.Token != c.Token || got.VLAN != c.VLAN || got.Length != n || !got.Sent.Equal(c.Sent)) {
				t.Fatalf("%+v, cut to %d octets, comes back as %+v", c, n, got)
			}
		}
	}
	if ShortestCanary+4 > minSnap {
		t.Errorf("a tagged canary is not known again in %d octets, which a tap may cut to", minSnap)
	}
}

// FuzzParseCanary: nothing panics, and what is read is what would be written.
func FuzzParseCanary(f *testing.F) {
	now := time.UnixMicro(1_795_000_000_123_456)
	f.Add((&Canary{VLAN: 5, Length: 100, Sent: now}).Frame())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ok := ParseCanary(b, now)
		if !ok {
			return
		}
		if again, ok := ParseCanary(c.Frame(), now); !ok || again.Number != c.Number || again.Token != c.Token || !again.Sent.Equal(c.Sent) {
			t.Errorf("%+v, then %+v", c, again)
		}
	})
}
