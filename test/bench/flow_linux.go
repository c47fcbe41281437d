package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"opentap/flow"
	"opentap/internal/nettest"
	"opentap/packet"
	"opentap/pcap"
)

// flowCase is a capture file to meter.
type flowCase struct {
	name           string
	packets, flows int
}

// metered is what a meter says of a file.
type metered struct {
	Packets uint64
	Octets  uint64 // of IP
	Records uint64
}

// flow measures meters that read a capture file from the page cache.
func (b *bench) flow(ctx context.Context) error {
	cases := []flowCase{{"10 k flows", 4_000_000, 10_000}, {"100 k flows", 4_000_000, 100_000}, {"1 M flows", 4_000_000, 1_000_000}}
	if b.quick {
		cases = []flowCase{{"100 k flows", 1_000_000, 100_000}}
	}
	for _, c := range cases {
		if err := b.flowCase(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) flowCase(ctx context.Context, c flowCase) error {
	path := b.file("flows.pcap")
	defer os.Remove(path)
	truth, err := writeFlows(path, c.packets, c.flows)
	if err != nil {
		return err
	}
	task := "flow metering of a file, " + c.name
	r := row{task: task, unit: "CPU s per M packets", better: lower, digits: 3}
	wall := row{task: task, unit: "M packets/s, whole command", better: higher, digits: 2}
	memory := row{task: task, unit: "octets per flow, whole process", better: lower}
	self := func(kind string, args ...string) func(ctx context.Context) (metered, usage, error) {
		return func(ctx context.Context) (m metered, u usage, err error) {
			p, u, err := runSelf(ctx, kind, args...)
			if err == nil {
				err = json.Unmarshal(p.out.Bytes(), &m)
			}
			return m, u, err
		}
	}
	meters := []struct {
		name  string
		meter func(context.Context) (metered, usage, error)
	}{
		{"opentap", self(childFlow, path, "1")},
		{"opentap --jobs 2", self(childFlow, path, "2")},
		{"idealised loop", self(childIdeal, path)},
		{"softflowd", func(ctx context.Context) (m metered, u usage, err error) {
			p, u, err := runTool(ctx, "softflowd", "-d", "-6", "-r", path, "-m", strconv.Itoa(4*c.flows), "-c", "none", "-p", b.file("softflowd.pid"))
			if err != nil {
				return m, u, err
			}
			m.Packets = number(softflowdPackets, append(p.out.Bytes(), p.err.Bytes()...))
			m.Records = number(softflowdFlows, append(p.out.Bytes(), p.err.Bytes()...))
			return m, u, nil
		}},
		{"nfpcapd", func(ctx context.Context) (m metered, u usage, err error) {
			dir := b.file("nfpcapd")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return m, u, err
			}
			defer os.RemoveAll(dir)
			if _, u, err = runTool(ctx, "nfpcapd", "-r", path, "-w", dir, "-B", strconv.Itoa(4*c.flows)); err != nil {
				return m, u, err
			}
			if _, err := exec.LookPath("nfdump"); err != nil {
				return m, u, nil
			}
			p, _, err := runTool(ctx, "nfdump", "-R", dir, "-I")
			if err != nil {
				return m, u, err
			}
			m.Packets, m.Octets, m.Records = number(nfdumpPackets, p.out.Bytes()), number(nfdumpOctets, p.out.Bytes()), number(nfdumpFlows, p.out.Bytes())
			return m, u, nil
		}},
	}
	for _, m := range meters {
		for _, r := range []*row{&r, &wall, &memory} {
			r.series = append(r.series, &series{tool: m.name})
		}
	}
	for n := range 3 {
		if n > 0 && b.late(0.9) {
			break
		}
		for i, m := range meters {
			s := r.series[i]
			if s.extra == "failed" || i > 2 && (b.quick && m.name == "nfpcapd" || !b.has(m.name)) {
				continue
			}
			got, u, err := m.meter(ctx)
			if err != nil {
				if i <= 2 || ctx.Err() != nil {
					return err
				}
				s.extra = "failed"
				b.note("%s failed: %v", m.name, err)
				continue
			}
			b.logf("%-9s %s %.3f CPU s/M, %.2f s, %d MiB, %+v, truth %+v", m.name, c.name, u.cpu.Seconds()/float64(c.packets)*1e6,
				u.wall.Seconds(), u.rss>>20, got, truth)
			s.add(u.cpu.Seconds() / float64(c.packets) * 1e6)
			s.extra = compare(got, truth)
			wall.series[i].add(float64(c.packets) / 1e6 / u.wall.Seconds())
			memory.series[i].add(float64(u.rss) / float64(c.flows))
			if i <= 2 && s.extra != exact(truth) {
				return fmt.Errorf("our totals are wrong: %+v, the file has %+v", got, truth)
			}
		}
	}
	b.rows = append(b.rows, r, wall)
	if c.flows >= 1_000_000 { // with fewer, what is there without any counts for too much
		b.rows = append(b.rows, memory)
	}
	return nil
}

func exact(truth metered) string { return fmt.Sprintf("exact, %d records", truth.Records) }

// compare says how a meter's totals differ from the truth. Totals it does not tell are not held against it.
func compare(got, truth metered) string {
	if got.Packets == 0 {
		return "totals not told"
	}
	if got.Packets != truth.Packets {
		return fmt.Sprintf("%d of %d packets, %d records", got.Packets, truth.Packets, got.Records)
	}
	if got.Octets != 0 && got.Octets != truth.Octets {
		return fmt.Sprintf("packets exact, %d of %d octets, %d records", got.Octets, truth.Octets, got.Records)
	}
	return fmt.Sprintf("exact, %d records", got.Records)
}

var (
	softflowdPackets = regexp.MustCompile(`(?m)Packets processed: (\d+)`)
	softflowdFlows   = regexp.MustCompile(`(?m)(?:Total|Flows) expired: (\d+)`)
	nfdumpPackets    = regexp.MustCompile(`(?m)^Packets: (\d+)`)
	nfdumpOctets     = regexp.MustCompile(`(?m)^Bytes: (\d+)`)
	nfdumpFlows      = regexp.MustCompile(`(?m)^Flows: (\d+)`)
)

func number(re *regexp.Regexp, text []byte) uint64 {
	m := re.FindSubmatch(text)
	if m == nil {
		return 0
	}
	n, _ := strconv.ParseUint(string(m[1]), 10, 64)
	return n
}

// runFlow meters a capture file with all fields, both directions in one record, and prints the totals of the records. It
// reads and meters as opentap meter does, and looks at each record instead of writing it.
func runFlow(path, jobs string) error {
	n, err := strconv.Atoi(jobs)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := pcap.NewReader(f)
	if err != nil {
		return err
	}
	cfg := flow.DefaultConfig()
	cfg.Bidirectional, cfg.MaxFlows = true, 4<<20
	var total metered
	sink := func(rec *flow.Record) {
		total.Packets += rec.Packets + rec.RevPackets
		total.Octets += rec.Octets + rec.RevOctets
		total.Records++
	}
	link := r.Interfaces()[0].Link
	next := func(fs *flow.Frames) (err error) {
		fs.Octets, err = r.NextBatch(fs.Octets, func(p *pcap.Packet) {
			fs.List = append(fs.List, flow.Frame{Time: p.Time, Link: link, Data: p.Data, OrigLen: p.OrigLen})
		})
		return err
	}
	if n > 1 {
		if _, err := flow.Parallel(cfg, n, next, sink); err != nil {
			return err
		}
	} else {
		m, err := flow.NewMeter(cfg, sink)
		if err != nil {
			return err
		}
		if err := m.AddAll(next); err != nil {
			return err
		}
		m.Flush(flow.EndForced)
	}
	return json.NewEncoder(os.Stdout).Encode(total)
}

// writeFlows makes a nanosecond pcap file in which packets belong to random ones of the flows, either direction, a
// microsecond apart: a quarter IPv6, half TCP, half of the shortest length, the rest longer.
func writeFlows(path string, packets, flows int) (metered, error) {
	truth := metered{}
	f, err := os.Create(path)
	if err != nil {
		return truth, err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	templates := flowTemplates()
	seen := make([]bool, flows)
	random := uint64(0x9e3779b97f4a7c15)
	buf := pcap.AppendClassicHeader(nil, packet.LinkEthernet, 65535, true)
	at := packet.TimestampOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	for i := range packets {
		random ^= random << 13
		random ^= random >> 7
		random ^= random << 17
		n := int(random>>33) % flows
		if !seen[n] {
			seen[n] = true
			truth.Records++
		}
		t := &templates[n%len(templates)][random&1][random>>1&1]
		t.set(uint32(n))
		buf = pcap.AppendClassicPacket(buf, at+packet.Timestamp(i)*1000, uint32(len(t.frame)), t.frame, true)
		truth.Packets++
		truth.Octets += uint64(t.octets)
		if _, err := w.Write(buf); err != nil {
			return truth, err
		}
		buf = buf[:0]
	}
	if err := w.Flush(); err != nil {
		return truth, err
	}
	return truth, f.Close()
}

// template is a frame in which the client's address and port are to be set.
type template struct {
	frame         []byte
	address, port int // offsets
	octets        int // of IP
}

func (t *template) set(n uint32) {
	binary.BigEndian.PutUint32(t.frame[t.address:], 10<<24|n)
	binary.BigEndian.PutUint16(t.frame[t.port:], uint16(1024+n%40000))
}

// flowTemplates are eight kinds of flow, each with both directions in two lengths. Checksums are left wrong: no meter
// looks at them.
func flowTemplates() [8][2][2]template {
	var all [8][2][2]template
	client4, server4 := netip.AddrFrom4([4]byte{10}), netip.AddrFrom4([4]byte{198, 51, 100, 1})
	client6, server6 := netip.MustParseAddr("2001:db8::a00:0"), netip.MustParseAddr("2001:db8:1::1")
	for kind := range all {
		for dir := range 2 {
			for size := range 2 {
				p := nettest.Packet{Src: client4, Dst: server4, Proto: nettest.UDP, SrcPort: 1024, DstPort: 443, TCPFlags: 0x10, NoPad: true}
				mark, other := client4.AsSlice(), server4
				if kind%4 == 3 {
					p.Src, p.Dst = client6, server6
					mark, other = client6.AsSlice(), server6
				}
				if kind&1 != 0 {
					p.Proto = nettest.TCP
				}
				if dir == 1 {
					p.Src, p.Dst, p.SrcPort, p.DstPort = p.Dst, p.Src, p.DstPort, p.SrcPort
				}
				p.Payload = make([]byte, 6+size*190)
				t := template{frame: p.Bytes()}
				ip, header := 14, 20
				if other.Is6() {
					header = 40
				}
				t.octets = len(t.frame) - ip
				t.address = ip + bytes.Index(t.frame[ip:], mark) + len(mark) - 4
				t.port = ip + header + 2*dir
				all[kind][dir][size] = t
			}
		}
	}
	return all
}
