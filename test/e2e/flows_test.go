//go:build linux

package e2e

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"opentap/internal/await"
	"opentap/internal/nettest"
)

const classicFlowHeader = "ts,te,td,sa,da,sp,dp,pr,flg,fwd,stos,ipkt,ibyt,opkt,obyt,in,out,sas,das,smk,dmk,dtos,dir,nh,nhb,svln,dvln," +
	"ismc,odmc,idmc,osmc,mpls1,mpls2,mpls3,mpls4,mpls5,mpls6,mpls7,mpls8,mpls9,mpls10,cl,sl,al,ra,eng,exid,tr"

// talk makes n IP packets in a hundred flows, and tells their number of IP octets.
func talk(n int) (frames [][]byte, octets uint64) {
	for i := range n {
		p := nettest.Packet{SrcPort: uint16(2000 + i%100), DstPort: 53, Payload: numbered(i, 20+i%700), NoPad: true}
		switch i % 100 % 4 {
		case 1:
			p.Proto, p.TCPFlags, p.Seq = nettest.TCP, 0x10, uint32(i)
		case 2:
			p.Tags = []nettest.Tag{{TCI: 100}}
		case 3:
			p.Proto, p.ICMPType, p.ID, p.SrcPort, p.DstPort = nettest.ICMP, 8, 1, 0, 0
		}
		f := p.Bytes()
		frames = append(frames, f)
		octets += uint64(len(f) - 14 - 4*len(p.Tags))
	}
	return frames, octets
}

// columns reads CSV with a header.
func columns(t testing.TB, b []byte) (rows []map[string]string) {
	t.Helper()
	r := csv.NewReader(bytes.NewReader(b))
	r.FieldsPerRecord = -1
	all, err := r.ReadAll()
	if err != nil || len(all) == 0 {
		t.Fatalf("read CSV: %v\n%.500s", err, b)
	}
	for _, row := range all[1:] {
		v := map[string]string{}
		for i, cell := range row {
			if i < len(all[0]) {
				v[all[0][i]] = cell
			}
		}
		rows = append(rows, v)
	}
	return rows
}

func number(t testing.TB, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 64)
	if err != nil {
		t.Fatalf("%q is not a number", s)
	}
	return n
}

// The totals of the flow records are what was sent, in every format, and what other meters make of the same packets.
func TestNetnsNetflowTotals(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	frames, octets := talk(4000)
	d.create(m{"kind": "pcap", "id": "packets", "points": []string{"tap0"}})
	d.create(m{"kind": "netflow", "id": "flows", "points": []string{"tap0"}})
	l.Send(frames...)
	arp := nettest.ARP([6]byte{2, 0, 0, 0, 0, 1}, netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom4([4]byte{192, 0, 2, 9}))
	l.Send(arp, arp, arp) // no flow, and counted
	d.awaitCaptured("flows", 4003)

	// Flows that are still open are in what is retrieved now.
	running := columns(t, d.data("flows", "csv").Body)
	var pkts, octs uint64
	for _, r := range running {
		pkts, octs = pkts+number(t, r["packets"]), octs+number(t, r["octets"])
	}
	if pkts != 4000 || octs != octets {
		t.Errorf("while running: %d packets, %d octets; sent 4000 and %d", pkts, octs, octets)
	}

	d.awaitCaptured("packets", 4003)
	d.finish("packets")
	v := d.finish("flows")
	if a := v.Status.Ledger; !a.adds() || a.Seen != 4003 || a.Captured != 4003 {
		t.Errorf("ledger %+v, 4003 were sent", a)
	}

	classic := string(d.data("flows", "classic").Body)
	lines := strings.Split(strings.TrimSuffix(classic, "\n"), "\n")
	if lines[0] != classicFlowHeader {
		t.Errorf("classic header\n got %s\nwant %s", lines[0], classicFlowHeader)
	}
	if n := len(lines); lines[n-3] != "Summary" || lines[n-2] != "flows,bytes,packets,avg_bps,avg_pps,avg_bpp" {
		t.Errorf("classic summary %q", lines[n-3:])
	} else if f := strings.Split(lines[n-1], ","); number(t, f[0]) != uint64(n-4) || number(t, f[1]) != octets || number(t, f[2]) != 4000 {
		t.Errorf("classic totals %q; %d lines, %d octets, 4000 packets", lines[n-1], n-4, octets)
	}
	rows := columns(t, []byte(strings.Join(lines[:len(lines)-3], "\n")))
	pkts, octs = 0, 0
	perFlow := map[string]uint64{}
	for _, r := range rows {
		pkts, octs = pkts+number(t, r["ipkt"]), octs+number(t, r["ibyt"])
		perFlow[strings.Join([]string{r["pr"], r["sa"], r["da"], strings.TrimSpace(r["sp"])}, " ")] += number(t, r["ipkt"])
		for _, c := range []string{"sp", "dp", "td"} {
			if _, err := strconv.ParseFloat(strings.TrimSpace(r[c]), 64); err != nil {
				t.Errorf("%s is %q, which no client can parse", c, r[c])
			}
		}
	}
	if pkts != 4000 || octs != octets {
		t.Errorf("classic: %d packets, %d octets; sent 4000 and %d", pkts, octs, octets)
	}

	pkts, octs = 0, 0
	for _, r := range columns(t, d.data("flows", "csv").Body) {
		pkts, octs = pkts+number(t, r["packets"]), octs+number(t, r["octets"])
	}
	if pkts != 4000 || octs != octets {
		t.Errorf("csv: %d packets, %d octets; sent 4000 and %d", pkts, octs, octets)
	}
	pkts, octs = 0, 0
	for line := range bytes.Lines(d.data("flows", "ndjson").Body) {
		var r struct{ Packets, Octets uint64 }
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("ndjson: %v in %s", err, line)
		}
		pkts, octs = pkts+r.Packets, octs+r.Octets
	}
	if pkts != 4000 || octs != octets {
		t.Errorf("ndjson: %d packets, %d octets; sent 4000 and %d", pkts, octs, octets)
	}
	p := d.data("flows", "parquet")
	if len(p.Body) < 12 || string(p.Body[:4]) != "PAR1" || string(p.Body[len(p.Body)-4:]) != "PAR1" {
		t.Error("parquet has no magic")
	}
	file := d.file("flows.parquet")
	d.must("retrieve", "flows", "-w", file)
	if exec.Command("python3", "-c", "import pandas, pyarrow").Run() == nil {
		out := output(t, "python3", "-c", "import pandas,sys; f=pandas.read_parquet(sys.argv[1]); print(f['packets'].sum(), f['octets'].sum())", file)
		if out != fmt.Sprintf("4000 %d\n", octets) {
			t.Errorf("parquet: pandas finds %s; sent 4000 and %d", out, octets)
		}
	} else {
		t.Log("parquet was not read by pandas: no pyarrow")
	}

	pkts, octs = arrowSums(t, d.data("flows", "arrow").Body)
	if pkts != 4000 || octs != octets {
		t.Errorf("arrow: %d packets, %d octets; sent 4000 and %d", pkts, octs, octets)
	}

	// Another exporter and collector, from the packets themselves.
	path := d.file("packets.pcap")
	d.must("retrieve", "packets", "-w", path)
	t.Run("softflowd and nfdump", func(t *testing.T) {
		needTool(t, "softflowd", "nfcapd", "nfdump")
		total := meteredByNfdump(t, d, path)
		want := fmt.Sprintf("%d packets", 4000)
		if total["packets"] != 4000 || total["bytes"] != octets {
			t.Errorf("nfdump finds %v; ours has %s, %d octets", total, want, octets)
		}
	})
}

// meteredByNfdump meters a pcap file with softflowd, collects with nfcapd, and sums up with nfdump.
func meteredByNfdump(t *testing.T, d *daemon, path string) map[string]uint64 {
	dir := t.TempDir()
	collector := exec.Command("nfcapd", "-w", dir, "-p", "9995", "-b", "127.0.0.1", "-t", "3600")
	var err error
	d.ns.Do(func() { err = collector.Start() })
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = collector.Wait(); close(ended) }()
	defer func() { _ = collector.Process.Kill(); <-ended }()
	await.Until(t, "nfcapd listens", func() bool { return strings.Contains(d.exec("ss", "-Hlun").stdout, ":9995") })
	r := d.exec("softflowd", "-r", path, "-n", "127.0.0.1:9995", "-v", "9", "-d")
	if r.code != 0 {
		t.Skipf("softflowd does not read the file: %s", r.stderr)
	}
	// The collector writes its file when it is asked to end.
	await.Until(t, "nfcapd has taken every datagram", func() bool {
		f := strings.Fields(d.exec("ss", "-Hlun", "sport", "=", "9995").stdout)
		return len(f) > 1 && f[1] == "0"
	})
	_ = collector.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(await.Patience):
		t.Fatal("nfcapd does not end")
	}
	total := map[string]uint64{}
	files, _ := filepath.Glob(filepath.Join(dir, "nfcapd.2*"))
	for _, f := range files {
		out, _, _ := strings.Cut(output(t, "nfdump", "-r", f, "-o", "csv"), "\nSummary\n")
		for _, r := range columns(t, []byte(out)) {
			total["packets"] += number(t, r["ipkt"])
			total["bytes"] += number(t, r["ibyt"])
		}
	}
	return total
}

// arrowSums adds up packets and octets of an Arrow stream of flow records.
func arrowSums(t *testing.T, stream []byte) (packets, octets uint64) {
	t.Helper()
	r, err := ipc.NewReader(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	for r.Next() {
		rec := r.RecordBatch()
		sum := func(name string) (n uint64) {
			for _, v := range rec.Column(rec.Schema().FieldIndices(name)[0]).(*array.Uint64).Uint64Values() {
				n += v
			}
			return n
		}
		packets, octets = packets+sum("packets"), octets+sum("octets")
	}
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	return packets, octets
}
