package parquetout

import (
	"bytes"
	"math"
	"testing"

	"github.com/parquet-go/parquet-go"

	"opentap/sensor"
	"opentap/sensor/ifcount"
)

func TestCounters(t *testing.T) {
	r := ifcount.Row{Time: 1_700_000_000_000_000_001, Point: "enp1s0", Up: true, IfIndex: 2}
	n := uint64(0) // zero is a value, not a null
	r.Each(func(_ string, v *uint64) { *v = n; n++ })
	gone := ifcount.Row{Time: 2, Point: "enp1s0", Missing: "gone"}

	var b bytes.Buffer
	w := NewCounters(&b)
	for _, row := range []ifcount.Row{r, gone} {
		if err := w.Write(&row); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := parquet.OpenFile(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	// The columns are named and ordered as in the plain CSV, and hold what the field of that name holds.
	columns := f.Schema().Columns()
	if len(columns) != 6+ifcount.NumStats+1 {
		t.Fatalf("%d columns, want %d", len(columns), 6+ifcount.NumStats+1)
	}
	rows := make([]parquet.Row, 2)
	reader := f.RowGroups()[0].Rows()
	defer func() { _ = reader.Close() }()
	if n, _ := reader.ReadRows(rows); n != 2 {
		t.Fatalf("%d rows, want 2", n)
	}
	for i, name := range ifcount.Names() {
		if columns[6+i][0] != name {
			t.Errorf("column %d is %s, want %s", 6+i, columns[6+i][0], name)
		}
		if got := rows[0][6+i]; got.IsNull() || got.Uint64() != uint64(i) {
			t.Errorf("%s = %v, want %d", name, got, i)
		}
		if got := rows[1][6+i]; !got.IsNull() {
			t.Errorf("%s of a missing row = %v, want null", name, got)
		}
	}
	if rows[0][0].Int64() != int64(r.Time) || !rows[0][2].Boolean() || rows[0][3].Boolean() || rows[1][6+ifcount.NumStats].String() != "gone" {
		t.Errorf("rows are %v", rows)
	}
}

func TestSamples(t *testing.T) {
	var b bytes.Buffer
	w := NewSamples(&b)
	const many = rowsPerGroup + 10
	for i := range many {
		v := sensor.Sample{Time: 1, Point: "s", Value: float64(i)}
		switch i {
		case 1:
			v.Missing = "gone"
		case 2:
			v.Value = math.NaN()
		}
		if err := w.Write(&v); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	rows, err := parquet.Read[sampleRow](bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil || len(rows) != many {
		t.Fatalf("%d rows, %v; want %d", len(rows), err, many)
	}
	if *rows[0].Value != 0 || rows[0].Missing != nil || rows[1].Value != nil || *rows[1].Missing != "gone" || *rows[2].Missing != "not a number" || *rows[many-1].Value != many-1 {
		t.Errorf("rows begin %+v", rows[:3])
	}
}
