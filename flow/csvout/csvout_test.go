package csvout

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"opentap/flow"
	"opentap/packet"
)

func v4(last byte) [16]byte { return [16]byte{10: 255, 11: 255, 12: 10, 15: last} }

func samples() []flow.Record {
	t := packet.Timestamp(1_700_000_000_123_456_789)
	return []flow.Record{
		{
			First: t, Last: t.Add(1900 * time.Millisecond), Src: v4(1), Dst: v4(2), SrcPort: 1234, DstPort: 80, Proto: 6, Version: 4, TOS: 16,
			TCPFlags: 0x1b, Packets: 20, Octets: 1200, RevPackets: 3, RevOctets: 120, RevTCPFlags: 0x12, RevTOS: 8, VLAN: 100, InnerVLAN: 7,
			SrcMAC: packet.MAC{2, 0, 0, 0, 0, 1}, DstMAC: packet.MAC{2, 0, 0, 0, 0, 0xab}, EndReason: flow.EndOfFlow,
		},
		{
			First: t.Add(time.Second), Last: t.Add(time.Second), Src: v4(1), Dst: v4(3), Proto: 1, Version: 4, DstPort: 8 << 8, ICMPType: 8,
			Packets: 1, Octets: 84, EndReason: flow.EndIdle,
		},
		{
			First: t, Last: t, Src: [16]byte{0: 0xfd, 15: 1}, Dst: [16]byte{0: 0xfd, 15: 2}, Proto: 17, Version: 6, PortsUnknown: true,
			Packets: 2, Octets: 2000, Fragments: 2, EndReason: flow.EndActive,
		},
		{First: -1, Last: 0, Src: v4(1), Dst: v4(4), Proto: 255, Version: 4, Packets: 1, Octets: 20, EndReason: flow.EndLack},
	}
}

type writer interface {
	Write(*flow.Record) error
	Close() error
}

func write(t *testing.T, w writer, records []flow.Record) {
	t.Helper()
	for i := range records {
		if err := w.Write(&records[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestClassicText(t *testing.T) {
	var b bytes.Buffer
	write(t, NewClassic(&b), samples()[:3])
	const mpls = "0-0-0,0-0-0,0-0-0,0-0-0,0-0-0,0-0-0,0-0-0,0-0-0,0-0-0,0-0-0,    0.000,    0.000,    0.000,0.0.0.0,0/0,0,"
	const no = "00:00:00:00:00:00"
	want := ClassicHeader + "\n" +
		"2023-11-14 22:13:20,2023-11-14 22:13:22,1.900,10.0.0.1,10.0.0.2,1234,80,TCP,...AP.SF,0,16,20,1200,3,120,0,0,0,0,0,0,8,0,0.0.0.0,0.0.0.0,100,0,02:00:00:00:00:01," + no + ",02:00:00:00:00:ab," + no + "," + mpls + "2023-11-14 22:13:22.023\n" +
		"2023-11-14 22:13:21,2023-11-14 22:13:21,0.000,10.0.0.1,10.0.0.3,0,8.0,ICMP,........,0,0,1,84,0,0,0,0,0,0,0,0,0,0,0.0.0.0,0.0.0.0,0,0," + strings.Repeat(no+",", 4) + mpls + "2023-11-14 22:13:21.123\n" +
		"2023-11-14 22:13:20,2023-11-14 22:13:20,0.000,fd00::1,fd00::2,0,0,UDP,........,0,0,2,2000,0,0,0,0,0,0,0,0,0,0,0.0.0.0,0.0.0.0,0,0," + strings.Repeat(no+",", 4) + mpls + "2023-11-14 22:13:20.123\n" +
		"Summary\nflows,bytes,packets,avg_bps,avg_pps,avg_bpp\n3,3404,26,14332,13,130\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestClassicWithoutRecords(t *testing.T) {
	var b bytes.Buffer
	write(t, NewClassic(&b), nil)
	if want := ClassicHeader + "\nSummary\nflows,bytes,packets,avg_bps,avg_pps,avg_bpp\n0,0,0,0,0,0\n"; b.String() != want {
		t.Errorf("got %q", b.String())
	}
}

// TestClassicIsReadAsClientsRead does what the first OpenTap's Python client does with the answer.
func TestClassicIsReadAsClientsRead(t *testing.T) {
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import pandas").Run(); err != nil {
		t.Skipf("needs %s with pandas: %v", python, err)
	}
	var b bytes.Buffer
	write(t, NewClassic(&b), samples())
	cmd := exec.Command(python, "-c", `
import sys, pandas as pd
df = pd.read_csv(sys.stdin)
df = df[:-3]
df = df[['ts','te','td','sa','da','sp','dp','pr','ipkt','ibyt']]
df.columns = ['first','last','duration','srcaddr','dstaddr','srcport','dstport','prot','dPkts','dOctets']
df['first'] = pd.to_datetime(df['first'], utc=True)
df['last'] = pd.to_datetime(df['last'], utc=True)
df['duration'] = df['duration'].astype(float) * 1000
for c in ('srcport', 'dstport'):
    df[c] = pd.to_numeric(df[c])
print(len(df), df['dPkts'].astype(int).sum(), df['dOctets'].astype(int).sum(), df['duration'][0], df['srcport'][0], df['dstport'][1], df['prot'][1], df['srcaddr'][2], df['first'][0])
`)
	cmd.Stdin = &b
	got, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, got)
	}
	if want := "4 24 3304 1900.0 1234 8.0 ICMP fd00::1 2023-11-14 22:13:20+00:00\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestClassicHeaderIsNfdumps(t *testing.T) {
	nfdump, err := exec.LookPath("nfdump")
	if err != nil {
		t.Skip("needs nfdump")
	}
	// nfdump prints its header only for a file that holds flows; the text stands in the program as it is.
	text, err := exec.Command("grep", "-c", "-a", "-F", ClassicHeader, nfdump).Output()
	if err != nil || strings.TrimSpace(string(text)) == "0" {
		t.Errorf("nfdump does not know the header: %v", err)
	}
}

func TestCSV(t *testing.T) {
	var b bytes.Buffer
	write(t, NewCSV(&b, Options{CommunityID: true}), samples())
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{
		Columns[:],
		strings.Split("2023-11-14T22:13:20.123456789Z,2023-11-14T22:13:22.023456789Z,1900.000000,4,10.0.0.1,10.0.0.2,1234,80,TCP,6,,,...AP.SF,16,20,1200,3,120,...A..S.,8,0,true,100,7,02:00:00:00:00:01,02:00:00:00:00:ab,end_of_flow,", ","),
		strings.Split("2023-11-14T22:13:21.123456789Z,2023-11-14T22:13:21.123456789Z,0.000000,4,10.0.0.1,10.0.0.3,,,ICMP,1,8,0,,0,1,84,0,0,,,0,true,,,,,idle,", ","),
		strings.Split("2023-11-14T22:13:20.123456789Z,2023-11-14T22:13:20.123456789Z,0.000000,6,fd00::1,fd00::2,,,UDP,17,,,,0,2,2000,0,0,,,2,false,,,,,active,", ","),
		strings.Split("1969-12-31T23:59:59.999999999Z,1970-01-01T00:00:00.000000000Z,0.000001,4,10.0.0.1,10.0.0.4,,,255,255,,,,0,1,20,0,0,,,0,true,,,,,lack_of_resources,", ","),
	}
	if len(rows) != len(want) {
		t.Fatalf("%d rows", len(rows))
	}
	for i, row := range rows {
		if i > 0 {
			if !strings.HasPrefix(row[27], "1:") {
				t.Errorf("community id %q", row[27])
			}
			row[27] = ""
			want[i] = append(want[i], "1")
		}
		if got, want := strings.Join(row, ","), strings.Join(want[i], ","); got != want {
			t.Errorf("row %d\n got %s\nwant %s", i, got, want)
		}
	}
	b.Reset()
	write(t, NewCSV(&b, Options{}), nil)
	if want := strings.Replace(strings.Join(Columns[:], ","), ",community_id", "", 1) + "\n"; b.String() != want {
		t.Errorf("without records: %q", b.String())
	}
}

// TestNDJSONSaysWhatCSVSays compares the two forms member by member.
func TestNDJSONSaysWhatCSVSays(t *testing.T) {
	var a, b bytes.Buffer
	write(t, NewCSV(&a, Options{CommunityID: true}), samples())
	write(t, NewNDJSON(&b, Options{CommunityID: true}), samples())
	rows, err := csv.NewReader(&a).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(&b)
	dec.UseNumber()
	for n, row := range rows[1:] {
		var m map[string]any
		if err := dec.Decode(&m); err != nil {
			t.Fatal(err)
		}
		if len(m) != len(Columns) {
			t.Errorf("row %d has %d members", n, len(m))
		}
		for i, name := range Columns {
			text := ""
			switch v := m[name].(type) {
			case string:
				text = v
			case json.Number:
				text = v.String()
			case bool:
				text = map[bool]string{true: "true", false: "false"}[v]
			}
			if text != row[i] {
				t.Errorf("row %d, %s: NDJSON %q, CSV %q", n, name, text, row[i])
			}
		}
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Errorf("more than the rows: %v", err)
	}
}

func TestWritersDoNotAllocate(t *testing.T) {
	records := samples()
	for name, w := range map[string]writer{"classic": NewClassic(io.Discard), "csv": NewCSV(io.Discard, Options{}), "ndjson": NewNDJSON(io.Discard, Options{})} {
		i := 0
		if n := testing.AllocsPerRun(10000, func() {
			if err := w.Write(&records[i%len(records)]); err != nil {
				t.Fatal(err)
			}
			i++
		}); n != 0 {
			t.Errorf("%s: %v allocations a record", name, n)
		}
	}
}

type brokenWriter struct{ err error }

func (b brokenWriter) Write([]byte) (int, error) { return 0, b.err }

func TestWriteErrorIsSticky(t *testing.T) {
	w := NewClassic(brokenWriter{io.ErrClosedPipe})
	r := samples()[0]
	var err error
	for n := 0; err == nil && n < 1000; n++ {
		err = w.Write(&r)
	}
	if !errors.Is(err, io.ErrClosedPipe) || !errors.Is(w.Write(&r), io.ErrClosedPipe) || !errors.Is(w.Close(), io.ErrClosedPipe) {
		t.Errorf("error %v", err)
	}
	if cap(w.b) > 2*bufSize {
		t.Errorf("buffer grew to %d", cap(w.b))
	}
}

func BenchmarkWrite(b *testing.B) {
	records := samples()
	for name, w := range map[string]writer{"classic": NewClassic(io.Discard), "csv": NewCSV(io.Discard, Options{}), "ndjson": NewNDJSON(io.Discard, Options{})} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := w.Write(&records[0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
