package ifcount

import (
	"errors"
	"reflect"
	"testing"

	"opentap/sensor"
)

// full is a row with a different number in each field.
func full() Row {
	r := Row{Time: 1_700_000_000_000_000_001, Point: "enp1s0", Up: true, Carrier: true, IfIndex: 7}
	n := uint64(1)
	r.Each(func(_ string, v *uint64) { *v = n; n = n*3 + 1 })
	r.RxBytes = 1<<64 - 1
	return r
}

func TestCodec(t *testing.T) {
	var c Codec
	for _, want := range []Row{{}, full(), {Time: -5, Point: "gone0", Missing: "no network device", Admin: true}} {
		b := c.Append(nil, &want)
		got := full()
		if err := c.Decode(b, &got); err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		for n := range b {
			if err := c.Decode(b[:n], &got); !errors.Is(err, sensor.ErrCorrupt) {
				t.Errorf("Decode of %d octets: %v, want ErrCorrupt", n, err)
			}
		}
		if err := c.Decode(append(b, 0), &got); !errors.Is(err, sensor.ErrCorrupt) {
			t.Errorf("Decode with an octet too many: %v, want ErrCorrupt", err)
		}
	}
}

// A row that was written when there were fewer counters reads with zeros.
func TestDecodeOlder(t *testing.T) {
	b := make([]byte, 9, 32)
	b = append(b, 3, 2, 10, 20) // index 3, two counters
	b = append(b, 1, 'x', 0)
	r := full()
	if err := (Codec{}).Decode(b, &r); err != nil {
		t.Fatal(err)
	}
	if want := (Row{Point: "x", IfIndex: 3, Stats: Stats{RxBytes: 10, RxPackets: 20}}); r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
}

func TestCodecNoAllocs(t *testing.T) {
	var c Codec
	row, got := full(), Row{}
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() {
		buf = c.Append(buf[:0], &row)
		if err := c.Decode(buf, &got); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a row, want 0", n)
	}
}

// Every field of Stats is in the list, once.
func TestFields(t *testing.T) {
	if n := reflect.TypeFor[Stats]().NumField(); n != NumStats {
		t.Errorf("Stats has %d fields, NumStats is %d", n, NumStats)
	}
	var s Stats
	seen := make(map[string]bool)
	s.Each(func(name string, v *uint64) {
		if seen[name] || *v != 0 {
			t.Errorf("%s is listed twice", name)
		}
		seen[name], *v = true, 1
	})
}

func FuzzDecode(f *testing.F) {
	var c Codec
	r := full()
	f.Add(c.Append(nil, &r))
	f.Add(c.Append(nil, &Row{Missing: "gone"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again Row
		if c.Decode(b, &r) != nil {
			return
		}
		if err := c.Decode(c.Append(nil, &r), &again); err != nil || again != r {
			t.Errorf("%+v came back as %+v, %v", r, again, err)
		}
	})
}
