package arrowout

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"opentap/flow"
	"opentap/flow/csvout"
	"opentap/packet"
)

// records returns n records that differ, of four sorts in turn: TCP, ICMP, fragments over IPv6, TCP both ways in VLANs.
func records(n int) []flow.Record {
	out := make([]flow.Record, n)
	for i := range out {
		r := &out[i]
		*r = flow.Record{
			First: packet.Timestamp(1_700_000_000_123_456_789 + int64(i)*1e6), Version: 4, Proto: 6, SrcPort: uint16(i), DstPort: 443,
			TCPFlags: 0x1b, Packets: uint64(i), Octets: uint64(i) * 100, EndReason: flow.EndIdle, Src: [16]byte{10: 255, 11: 255, 12: 10},
			SrcMAC: packet.MAC{2, 0, 0, 0, 0, byte(i)},
		}
		r.Last = r.First.Add(time.Duration(i) * time.Millisecond)
		binary.BigEndian.PutUint16(r.Src[14:], uint16(i))
		r.Dst = r.Src
		switch i % 4 {
		case 1:
			r.Proto, r.ICMPType, r.TCPFlags, r.SrcPort, r.DstPort = 1, 8, 0, 0, 2048
		case 2:
			r.Version, r.Src[0], r.Dst[0], r.Proto, r.PortsUnknown, r.Fragments = 6, 0xfd, 0xfd, 17, true, 3
			r.Src[10], r.Src[11], r.SrcPort, r.DstPort, r.Sampling = 0, 0, 0, 0, 10
		case 3:
			r.RevPackets, r.RevOctets, r.RevTCPFlags, r.VLAN, r.InnerVLAN = 5, 500, 0x12, 100, 7
		}
	}
	return out
}

func write(t *testing.T, records []flow.Record) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	for i := range records {
		if err := w.Write(&records[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestReadBack compares the stream, read by the library's reader, with the CSV of the same records, cell by cell.
func TestReadBack(t *testing.T) {
	want := records(2*batch + 5)
	stream := write(t, want)
	if again := write(t, want); !bytes.Equal(stream, again) {
		t.Error("the same records gave other octets")
	}
	rows := csvRows(t, want)
	r, err := ipc.NewReader(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	at, batches := 0, 0
	for r.Next() {
		rec := r.RecordBatch()
		batches++
		for c := range int(rec.NumCols()) {
			name, col := rec.ColumnName(c), rec.Column(c)
			for i := range int(rec.NumRows()) {
				got, want := cell(col, i), rows[at+i][name]
				switch name {
				case "duration_ns":
					ms, frac, _ := strings.Cut(rows[at+i]["duration_ms"], ".")
					want = strings.TrimLeft(ms+frac, "0")
					if want == "" {
						want = "0"
					}
				case "tcp_flags", "rev_tcp_flags":
					want = flagsNumber(want)
				}
				if got != want {
					t.Fatalf("record %d, %s: %q, want %q", at+i, name, got, want)
				}
			}
		}
		at += int(rec.NumRows())
	}
	if r.Err() != nil || at != len(want) || batches != 3 {
		t.Errorf("%d records in %d batches, %v", at, batches, r.Err())
	}
	t.Logf("%.1f octets a record", float64(len(stream))/float64(len(want)))
}

// csvRows gives the cells of the CSV by their column's name.
func csvRows(t *testing.T, records []flow.Record) []map[string]string {
	t.Helper()
	var b bytes.Buffer
	w := csvout.NewCSV(&b, csvout.Options{})
	for i := range records {
		if err := w.Write(&records[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	names := strings.Split(lines[0], ",")
	out := make([]map[string]string, 0, len(lines)-1)
	for _, line := range lines[1:] {
		row := make(map[string]string, len(names))
		for i, v := range strings.Split(line, ",") {
			row[names[i]] = v
		}
		out = append(out, row)
	}
	return out
}

// cell writes a value as CSV does.
func cell(col arrow.Array, i int) string {
	if col.IsNull(i) {
		return ""
	}
	if ts, ok := col.(*array.Timestamp); ok {
		return ts.Value(i).ToTime(arrow.Nanosecond).UTC().Format("2006-01-02T15:04:05.000000000Z")
	}
	return col.ValueStr(i)
}

// flagsNumber turns CEUAPRSF with dots into the octet.
func flagsNumber(s string) string {
	if s == "" {
		return ""
	}
	v := 0
	for _, c := range s {
		v <<= 1
		if c != '.' {
			v |= 1
		}
	}
	return strconv.Itoa(v)
}

func TestNoRecords(t *testing.T) {
	r, err := ipc.NewReader(bytes.NewReader(write(t, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	if r.Next() || r.Err() != nil || r.Schema().NumFields() != schema().NumFields() {
		t.Errorf("%v, %v", r.Schema(), r.Err())
	}
}

func TestReadByPyarrow(t *testing.T) {
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import pyarrow").Run(); err != nil {
		t.Skipf("needs %s with pyarrow: %v", python, err)
	}
	path := filepath.Join(t.TempDir(), "flows.arrow")
	if err := os.WriteFile(path, write(t, records(1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command(python, "-c", `
import sys, pyarrow.ipc as ipc
d = ipc.open_stream(sys.argv[1]).read_all()
print(d.num_rows, sum(d['rev_packets'].to_pylist()), d.schema.field('first').type, d['src_addr'][4], d['src_port'].null_count)
`, path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, got)
	}
	if want := "1000 1250 timestamp[ns, tz=UTC] 10.0.0.4 500\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestWriteErrorComesBack(t *testing.T) {
	for _, n := range []int{0, 1000, batch + 1} {
		w := NewWriter(brokenWriter{})
		var err error
		for i, r := 0, records(n); i < len(r) && err == nil; i++ {
			err = w.Write(&r[i])
		}
		if err == nil {
			err = w.Close()
		}
		if !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%d records: error %v", n, err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	r := records(1 << 16)
	w := NewWriter(io.Discard)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := w.Write(&r[i&0xffff]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
