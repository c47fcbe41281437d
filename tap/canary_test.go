package tap

import (
	"testing"
	"time"
)

func TestCanary(t *testing.T) {
	for _, c := range []Canary{
		{Token: [16]byte{1, 2}, Number: 7, Direction: In, Length: ShortestCanary, Sent: time.Unix(5, 6).UTC()},
		{Number: 1 << 31, Direction: Out, VLAN: 4094, Length: 1518, Sent: time.Unix(1, 0).UTC()},
	} {
		f := c.Frame()
		got, vlan, ok := ParseCanary(f)
		if !ok || got != c || vlan != c.VLAN || len(f) != c.Length {
			t.Errorf("%+v comes back as %+v, %d, %v, in %d octets", c, got, vlan, ok, len(f))
		}
		for n := range f[:ShortestCanary] {
			if _, _, ok := ParseCanary(f[:n]); ok {
				t.Fatalf("%d octets are a canary", n)
			}
		}
	}
}

// FuzzParseCanary: nothing panics, and what is read is what would be written.
func FuzzParseCanary(f *testing.F) {
	f.Add((&Canary{VLAN: 5, Length: 100}).Frame())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _, ok := ParseCanary(b)
		if !ok {
			return
		}
		if again, _, ok := ParseCanary(c.Frame()); !ok || again.Number != c.Number || again.Token != c.Token {
			t.Errorf("%+v, then %+v", c, again)
		}
	})
}
