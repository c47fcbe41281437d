package csvout

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"

	"opentap/fault"
	"opentap/sensor"
	"opentap/sensor/ifcount"
	"opentap/want"
)

const at = 1_700_000_010_123_456_789

func row() ifcount.Row {
	r := ifcount.Row{Time: at, Point: "enp1s0", Up: true, Admin: true, Carrier: true, IfIndex: 2}
	n := uint64(100)
	r.Each(func(_ string, v *uint64) { *v = n; n++ })
	return r
}

func counters(t *testing.T, f want.Format, rows ...ifcount.Row) string {
	t.Helper()
	var b strings.Builder
	c, err := NewCounters(&b, f)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := c.Write(&rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func samples(t *testing.T, f want.Format, column string, rows ...sensor.Sample) string {
	t.Helper()
	var b strings.Builder
	s, err := NewSamples(&b, f, column)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := s.Write(&rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var gone = ifcount.Row{Time: at + 1e9, Point: "enp1s0", Missing: `no network device "enp1s0"`}

func TestClassicCounters(t *testing.T) {
	down := row()
	down.Time, down.Up, down.RxBytes = -1, false, math.MaxUint64
	got := counters(t, want.Classic, row(), gone, down)
	// The header is what existing clients know, octet by octet.
	const exp = "time,state,rx_bytes,rx_packets,rx_errors,rx_dropped,rx_overrun,rx_mcast,tx_bytes,tx_packets,tx_errors,tx_dropped,tx_carrier,tx_collision\n" +
		"1700000010123,1,100,101,102,103,104,105,106,107,108,109,110,111\n" +
		"-1,0,18446744073709551615,101,102,103,104,105,106,107,108,109,110,111\n"
	if got != exp {
		t.Errorf("got\n%s\nwant\n%s", got, exp)
	}
}

func TestPlainCounters(t *testing.T) {
	got, err := csv.NewReader(strings.NewReader(counters(t, want.CSV, row(), gone))).ReadAll()
	if err != nil || len(got) != 3 {
		t.Fatalf("%d lines, %v; want 3", len(got), err)
	}
	head := make(map[string]int)
	for i, h := range got[0] {
		head[h] = i
	}
	for h, v := range map[string]string{
		"time": "2023-11-14T22:13:30.123456789Z", "point": "enp1s0", "up": "1", "rx_bytes": "100", "collisions": "111",
		"speed_bps": strconv.Itoa(100 + ifcount.NumStats - 1), "missing": "",
	} {
		if i, ok := head[h]; !ok || got[1][i] != v {
			t.Errorf("%s: column %d of %q, want %q", h, i, got[1], v)
		}
	}
	if got[2][head["missing"]] != gone.Missing || got[2][head["rx_bytes"]] != "" || got[2][head["up"]] != "" {
		t.Errorf("a missing row is %q", got[2])
	}
}

func TestNDJSONCounters(t *testing.T) {
	odd := row()
	odd.Point = "a\"b\n\xffü"
	d := json.NewDecoder(strings.NewReader(counters(t, want.NDJSON, row(), gone, odd)))
	d.UseNumber()
	var rows []map[string]any
	for d.More() {
		var m map[string]any
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, m)
	}
	if len(rows) != 3 || rows[0]["rx_bytes"] != json.Number("100") || rows[0]["up"] != true || len(rows[0]) != 6+ifcount.NumStats {
		t.Errorf("rows are %v", rows)
	}
	if rows[1]["missing"] != gone.Missing || len(rows[1]) != 3 {
		t.Errorf("a missing row is %v", rows[1])
	}
	if rows[2]["point"] != "a\"b\n\uFFFDü" {
		t.Errorf("an odd name came back as %q", rows[2]["point"])
	}
}

var readings = []sensor.Sample{
	{Time: at, Point: "hwmon/coretemp/temp1", Value: 45.125},
	{Time: at + 1e9, Point: "hwmon/coretemp/temp1", Missing: "the sensor is gone, or so"},
	{Time: at + 2e9, Point: "hwmon/coretemp/temp1", Value: math.NaN()},
	{Time: at + 3e9, Point: "hwmon/coretemp/temp1", Value: -0.5},
}

func TestSamples(t *testing.T) {
	for _, c := range []struct {
		format want.Format
		exp    string
	}{
		{want.Classic, "time,temperature\n1700000010123,45.125\n1700000013123,-0.5\n"},
		{want.CSV, `time,point,value,missing
2023-11-14T22:13:30.123456789Z,hwmon/coretemp/temp1,45.125,
2023-11-14T22:13:31.123456789Z,hwmon/coretemp/temp1,,"the sensor is gone, or so"
2023-11-14T22:13:32.123456789Z,hwmon/coretemp/temp1,,not a number
2023-11-14T22:13:33.123456789Z,hwmon/coretemp/temp1,-0.5,
`},
		{want.NDJSON, `{"time":"2023-11-14T22:13:30.123456789Z","point":"hwmon/coretemp/temp1","value":45.125}
{"time":"2023-11-14T22:13:31.123456789Z","point":"hwmon/coretemp/temp1","value":null,"missing":"the sensor is gone, or so"}
{"time":"2023-11-14T22:13:32.123456789Z","point":"hwmon/coretemp/temp1","value":null,"missing":"not a number"}
{"time":"2023-11-14T22:13:33.123456789Z","point":"hwmon/coretemp/temp1","value":-0.5}
`},
	} {
		if got := samples(t, c.format, "temperature", readings...); got != c.exp {
			t.Errorf("%s: got\n%s\nwant\n%s", c.format, got, c.exp)
		}
	}
	if got := samples(t, want.Classic, ""); got != "time,value\n" {
		t.Errorf("no samples: %q", got)
	}
	if got := samples(t, want.Classic, `IR, "5mm"`); got != "time,\"IR, \"\"5mm\"\"\"\n" {
		t.Errorf("an odd type name: %q", got)
	}
}

func TestFormatsRefused(t *testing.T) {
	for _, f := range []want.Format{want.Parquet, want.PcapNG, ""} {
		if _, err := NewCounters(io.Discard, f); !fault.Is(err, fault.Unsupported) {
			t.Errorf("NewCounters(%q): %v", f, err)
		}
		if _, err := NewSamples(io.Discard, f, ""); !fault.Is(err, fault.Unsupported) {
			t.Errorf("NewSamples(%q): %v", f, err)
		}
	}
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

func TestWriteError(t *testing.T) {
	boom := errors.New("disk full")
	c, err := NewCounters(brokenWriter{boom}, want.CSV)
	if err != nil {
		t.Fatal(err)
	}
	r := row()
	for range 1000 {
		err = c.Write(&r)
	}
	if !errors.Is(err, boom) || !errors.Is(c.Close(), boom) || len(c.buf) > flushAt {
		t.Errorf("Write = %v, Close = %v, %d octets kept", err, c.Close(), len(c.buf))
	}
}

func TestNoAllocs(t *testing.T) {
	r, v := row(), readings[0]
	for _, f := range []want.Format{want.Classic, want.CSV, want.NDJSON} {
		c, err := NewCounters(io.Discard, f)
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewSamples(io.Discard, f, "")
		if err != nil {
			t.Fatal(err)
		}
		write := func() {
			if c.Write(&r) != nil || s.Write(&v) != nil {
				t.Fatal("write failed")
			}
		}
		for range 2000 { // let the buffers grow
			write()
		}
		if n := testing.AllocsPerRun(1000, write); n != 0 {
			t.Errorf("%s: %v allocations a row, want 0", f, n)
		}
	}
}
