package parquetout

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"opentap/flow"
	"opentap/packet"
)

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
			r.Src[10], r.Src[11], r.SrcPort, r.DstPort = 0, 0, 0, 0
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

func TestReadBack(t *testing.T) {
	want := records(70000) // two row groups
	file := write(t, want)
	if again := write(t, want); !bytes.Equal(file, again) {
		t.Error("the same records gave other octets")
	}
	rows, err := parquet.Read[Row](bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(want) {
		t.Fatalf("%d rows, want %d", len(rows), len(want))
	}
	is := func(p *int32, v int32) bool { return p != nil && *p == v }
	for i := range want {
		r, g := &want[i], &rows[i]
		ok := g.First == int64(r.First) && g.Last == int64(r.Last) && g.DurationNS == int64(r.Duration()) && g.SrcAddr == r.SrcAddr().String() &&
			g.DstAddr == r.DstAddr().String() && g.Protocol == packet.ProtoName(r.Proto) && g.ProtocolNumber == int32(r.Proto) &&
			g.Packets == int64(r.Packets) && g.Octets == int64(r.Octets) && g.RevPackets == int64(r.RevPackets) && g.RevOctets == int64(r.RevOctets) &&
			g.EndReason == "idle" && g.PortsKnown == !r.PortsUnknown && g.Fragments == int64(r.Fragments) && g.IPVersion == int32(r.Version) &&
			g.SrcMAC != nil && (*g.SrcMAC)[:15] == "02:00:00:00:00:" && g.DstMAC == nil
		switch i % 4 {
		case 0:
			ok = ok && is(g.SrcPort, int32(r.SrcPort)) && is(g.DstPort, 443) && is(g.TCPFlags, 0x1b) && g.ICMPType == nil && g.RevTOS == nil && g.VLAN == nil
		case 1:
			ok = ok && g.SrcPort == nil && is(g.ICMPType, 8) && is(g.ICMPCode, 0) && g.TCPFlags == nil
		case 2:
			ok = ok && g.SrcPort == nil && g.DstPort == nil
		case 3:
			ok = ok && is(g.RevTCPFlags, 0x12) && is(g.RevTOS, 0) && is(g.VLAN, 100) && is(g.InnerVLAN, 7)
		}
		if !ok {
			t.Fatalf("row %d: %+v from %+v", i, *g, *r)
		}
	}
	t.Logf("%.1f octets a record", float64(len(file))/float64(len(want)))
}

func TestNoRecords(t *testing.T) {
	file := write(t, nil)
	rows, err := parquet.Read[Row](bytes.NewReader(file), int64(len(file)))
	if err != nil || len(rows) != 0 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
}

func TestSchemaHasAllColumns(t *testing.T) {
	if n := len(parquet.SchemaOf(Row{}).Columns()); n != columns {
		t.Errorf("%d columns in the schema, %d written", n, columns)
	}
}

func TestReadByPandas(t *testing.T) {
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import pandas, pyarrow").Run(); err != nil {
		t.Skipf("needs %s with pandas and pyarrow: %v", python, err)
	}
	path := filepath.Join(t.TempDir(), "flows.parquet")
	if err := os.WriteFile(path, write(t, records(1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command(python, "-c", `
import sys, pandas as pd
d = pd.read_parquet(sys.argv[1])
print(len(d), d.packets.sum(), str(d['first'].dtype), d.src_addr[4], d.src_port.notna().sum())
`, path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, got)
	}
	if want := "1000 499500 datetime64[ns, UTC] 10.0.0.4 500\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestWriteErrorComesBack(t *testing.T) {
	w := NewWriter(brokenWriter{})
	var err error
	for i, r := 0, records(1000); i < len(r) && err == nil; i++ {
		err = w.Write(&r[i])
	}
	if err == nil {
		err = w.Close()
	}
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error %v", err)
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
