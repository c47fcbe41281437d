package sensor

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"opentap/packet"
)

var samples = []Sample{
	{},
	{Time: 1_700_000_000_123_456_789, Point: "hwmon/coretemp/temp1", Value: 45.5},
	{Time: -1, Value: math.Inf(-1), Missing: "the sensor is gone"},
}

func TestCodec(t *testing.T) {
	var c Codec
	for _, want := range samples {
		b := c.Append([]byte("before"), &want)
		got := Sample{Point: "old", Missing: "old", Value: 9}
		if err := c.Decode(b[len("before"):], &got); err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		for n := range len(b) - len("before") {
			if err := c.Decode(b[len("before"):][:n], &got); !errors.Is(err, ErrCorrupt) {
				t.Errorf("Decode of %d octets of %+v: %v, want ErrCorrupt", n, want, err)
			}
		}
		if err := c.Decode(append(b[len("before"):], 0), &got); !errors.Is(err, ErrCorrupt) {
			t.Errorf("Decode with an octet too many: %v, want ErrCorrupt", err)
		}
	}
	long := Sample{Missing: strings.Repeat("m", 1<<16)}
	var got Sample
	if err := c.Decode(c.Append(nil, &long), &got); err != nil || len(got.Missing) != maxText {
		t.Errorf("a long text came back with %d octets, %v; want %d", len(got.Missing), err, maxText)
	}
}

func TestCodecNoAllocs(t *testing.T) {
	var c Codec
	buf := make([]byte, 0, 256)
	var got Sample
	if n := testing.AllocsPerRun(100, func() {
		buf = c.Append(buf[:0], &samples[1])
		if err := c.Decode(buf, &got); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a sample, want 0", n)
	}
}

func FuzzDecode(f *testing.F) {
	var c Codec
	for _, s := range samples {
		f.Add(c.Append(nil, &s))
	}
	f.Add([]byte("0123456789abcdef\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, again Sample
		if c.Decode(b, &s) != nil {
			return
		}
		if err := c.Decode(c.Append(nil, &s), &again); err != nil || again.Point != s.Point || again.Missing != s.Missing || again.Time != s.Time {
			t.Errorf("%+v came back as %+v, %v", s, again, err)
		}
	})
}

func TestSampler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.Sleep(300 * time.Millisecond) // not on a multiple
		s := &Sampler{Period: time.Second}
		first := packet.TimestampOf(time.Now().Truncate(time.Second).Add(time.Second))
		var ticks []Tick
		err := s.Run(ctx, func(k Tick) error {
			if now := packet.TimestampOf(time.Now()); k.Due != now {
				t.Errorf("tick %d is due %v and came %v", len(ticks), k.Due.Time(), now.Time())
			}
			ticks = append(ticks, k)
			switch len(ticks) {
			case 3:
				time.Sleep(3500 * time.Millisecond) // late: ticks 3, 4, 5 pass
			case 4:
				time.Sleep(999 * time.Millisecond) // in time
			case 6:
				cancel()
			}
			return nil
		})
		if err != nil {
			t.Errorf("Run = %v after cancel, want nil", err)
		}
		want := []Tick{{first, 0}, {first + 1e9, 0}, {first + 2e9, 0}, {first + 6e9, 3}, {first + 7e9, 0}, {first + 8e9, 0}}
		if len(ticks) != len(want) {
			t.Fatalf("%d ticks, want %d", len(ticks), len(want))
		}
		for i := range want {
			if ticks[i] != want[i] {
				t.Errorf("tick %d = %+v, want %+v", i, ticks[i], want[i])
			}
		}
		if s.Missed() != 3 {
			t.Errorf("Missed = %d, want 3", s.Missed())
		}
	})
}

func TestSamplerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		n := 0
		err := (&Sampler{Period: 100 * time.Millisecond}).Run(t.Context(), func(Tick) error {
			if n++; n == 10 {
				return boom
			}
			return nil
		})
		if err != boom || n != 10 {
			t.Errorf("Run = %v after %d ticks, want boom after 10", err, n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
		defer cancel()
		if err := (&Sampler{Period: 24 * time.Hour}).Run(ctx, func(Tick) error { return nil }); err != nil {
			t.Errorf("Run = %v, want nil when its context ends within a period", err)
		}
		for _, p := range []time.Duration{0, -time.Second, time.Microsecond, 25 * time.Hour} {
			if err := (&Sampler{Period: p}).Run(ctx, nil); err == nil {
				t.Errorf("a period of %v is taken", p)
			}
		}
	})
}

func TestSinceMultiple(t *testing.T) {
	for _, c := range []struct{ at, period, want time.Duration }{
		{1500, 1000, 500}, {2000, 1000, 0}, {-300, 1000, 700}, {0, 7, 0},
	} {
		if got := sinceMultiple(time.Unix(0, int64(c.at)), c.period); got != c.want {
			t.Errorf("sinceMultiple(%d, %d) = %d, want %d", c.at, c.period, got, c.want)
		}
	}
}
