package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"opentap/packet"
	"opentap/pcap"
)

// traceFile writes a capture file: 300 UDP packets of three flows, both directions, an ARP frame, a cut and a broken one.
func traceFile(t *testing.T) string {
	t.Helper()
	b := pcap.AppendClassicHeader(nil, packet.LinkEthernet, 65535, true)
	at := packet.Timestamp(1_700_000_000e9)
	add := func(frame []byte, orig int) {
		at += 1_000_000
		b = pcap.AppendClassicPacket(b, at, uint32(orig), frame, true)
	}
	for i := range 300 {
		f := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 100, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 4, 0, 0, 53, 0, 80, 0, 0}
		f[29], f[33] = byte(1+i%3), 9
		if i%2 == 1 { // the way back
			f[29], f[33] = f[33], f[29]
			f[34], f[35], f[36], f[37] = f[36], f[37], f[34], f[35]
		}
		add(f, 114)
	}
	add(append(make([]byte, 12), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), 42)
	add([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0}, 114)
	add(append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x41}, make([]byte, 40)...), 114)
	path := filepath.Join(t.TempDir(), "trace.pcap")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func command(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	var o, e bytes.Buffer
	if got := run(args, strings.NewReader(""), &o, &e); got != code {
		t.Fatalf("opentap %v: exit %d, want %d\n%s", args, got, code, e.String())
	}
	return o.String(), e.String()
}

func TestMeter(t *testing.T) {
	trace := traceFile(t)
	out, told := command(t, 0, "meter", trace)
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil || len(rows) != 7 {
		t.Fatalf("%d rows, %v:\n%s", len(rows), err, out)
	}
	sum := func(column string, factor uint64) (total uint64) {
		for i, name := range rows[0] {
			if name == column {
				for _, r := range rows[1:] {
					n, _ := strconv.ParseUint(r[i], 10, 64)
					total += n
				}
			}
		}
		return total / factor
	}
	if sum("packets", 1) != 300 || sum("octets", 1) != 30000 {
		t.Errorf("%d packets, %d octets", sum("packets", 1), sum("octets", 1))
	}
	for _, want := range []string{"303 packets: 300 metered (30000 octets of IP), 1 not IP, 1 truncated, 1 malformed", "6 records"} {
		if !strings.Contains(told, want) {
			t.Errorf("summary lacks %q:\n%s", want, told)
		}
	}
	for _, jobs := range []string{"1", "2", "3"} {
		again, _ := command(t, 0, "meter", "--jobs", jobs, "-q", trace)
		if again != out {
			t.Errorf("--jobs %s gives other octets", jobs)
		}
	}
	out, _ = command(t, 0, "meter", "-q", "--biflow", "--sampling", "10", "--community-id", trace, trace)
	if rows, err = csv.NewReader(strings.NewReader(out)).ReadAll(); err != nil || len(rows) != 4 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	if sum("packets", 10)+sum("rev_packets", 10) != 600 || rows[1][len(rows[1])-1] != "10" || !strings.HasPrefix(rows[1][len(rows[1])-2], "1:") {
		t.Errorf("%v", rows)
	}
}

func TestMeterFiles(t *testing.T) {
	trace := traceFile(t)
	for _, name := range []string{"out.csv", "out.ndjson", "out.parquet", "out.arrow"} {
		path := filepath.Join(t.TempDir(), name)
		command(t, 0, "meter", "-q", "-w", path, trace)
		b, err := os.ReadFile(path)
		begin := map[string]string{"out.csv": "first,", "out.ndjson": `{"first"`, "out.parquet": "PAR1", "out.arrow": "\xff\xff\xff\xff"}[name]
		if err != nil || !bytes.HasPrefix(b, []byte(begin)) {
			t.Errorf("%s: %v %.20q", name, err, b)
		}
	}
	// A damaged file: what is before the damage is kept, and the exit code says so.
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut.pcap")
	if err := os.WriteFile(cut, b[:len(b)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "out.csv")
	for jobs := 1; jobs <= 2; jobs++ {
		_, told := command(t, 1, "meter", "-w", path, "--jobs", fmt.Sprint(jobs), cut)
		if b, err := os.ReadFile(path); err != nil || bytes.Count(b, []byte("\n")) != 7 || !strings.Contains(told, "302 packets") || !strings.Contains(told, "ends inside") {
			t.Errorf("jobs %d: %v\n%s", jobs, err, told)
		}
		os.Remove(path)
	}
	dir := t.TempDir()
	command(t, 1, "meter", "-w", filepath.Join(dir, "x.csv"), filepath.Join(dir, "missing.pcap"))
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	command(t, 2, "meter", "-o", "table", trace)
	command(t, 2, "meter", "--idle", "0s", trace)
	command(t, 2, "meter", "--inner", "--outer", trace)
}

func TestFlows(t *testing.T) {
	trace := traceFile(t)
	table := filepath.Join(t.TempDir(), "flows.csv")
	command(t, 0, "meter", "-q", "-w", table, trace)
	for _, source := range []string{trace, table} {
		out, told := command(t, 0, "flows", "top", "--by", "src", "--metric", "packets", "-n", "2", "-o", "csv", source)
		if want := "src,bytes,packets,flows,share\n10.0.0.9,15000,150,3,50.0%\n10.0.0.1,5000,50,1,16.7%\n"; out != want || !strings.Contains(told, "6 records: 30000 bytes, 300 packets") {
			t.Errorf("%s:\n%s%s", source, out, told)
		}
		out, _ = command(t, 0, "flows", "top", "-q", "--by", "proto,dport", "--filter", "src host 10.0.0.9", "-o", "csv", source)
		if want := "proto,dport,bytes,packets,flows,share\nUDP,1024,15000,150,3,100.0%\n"; out != want {
			t.Errorf("%s:\n%s", source, out)
		}
		out, _ = command(t, 0, "flows", "series", "--step", "100ms", "-o", "csv", source)
		if want := "time,bytes,packets,flows\n2023-11-14T22:13:20Z,"; !strings.HasPrefix(out, want) || strings.Count(out, "\n") != 5 {
			t.Errorf("%s:\n%s", source, out)
		}
	}
	_, told := command(t, 2, "flows", "top", "--filter", "tcp[0] = 1", trace)
	if !strings.Contains(told, "does not know octets") {
		t.Error(told)
	}
	command(t, 2, "flows", "top", "--by", "colour", trace)
	command(t, 2, "flows", "series", "--step", "0s", trace)
	command(t, 2, "flows", "top", "--from", "yesterday", trace)
}
