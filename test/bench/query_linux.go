package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"opentap/capture/index"
	"opentap/capture/query"
	"opentap/capture/segment"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// The traffic that is searched: like that of the generator, requests and answers of so many clients of one server in turns.
const (
	queryFlows = 100_000
	queryFlow  = 12350 // the one that is looked for
	queryHost  = "10.0.48.62"
	queryPort  = 1024 + queryFlow&0x7fff
	queryTo    = "198.51.100.1"
	queryGap   = 40_000 // ns between packets

	queryLateHost = "192.0.2.77" // speaks queryLate packets, when 95 % of all are over
	queryLate     = 28

	tcpdumpMost = 10 // GB that it searches
)

// shape is a question in each tool's language.
type shape struct {
	name, filter, steno string
	part                bool // of a part of the time alone
	made                bool // of traffic that writeSearched makes alone
}

var shapes = []shape{
	{name: "one host", filter: "host " + queryHost, steno: "host " + queryHost},
	{
		name:   "one 5-tuple",
		filter: fmt.Sprintf("udp and host %s and port %d and host %s and port 443", queryHost, queryPort, queryTo),
		steno:  fmt.Sprintf("udp and host %s and port %d and host %s and port 443", queryHost, queryPort, queryTo),
	},
	{name: "one port, %s", filter: fmt.Sprintf("udp port %d", queryPort), steno: fmt.Sprintf("port %d", queryPort), part: true},
	{name: "all, %s", part: true, made: true},
	{name: "a host that speaks late and once", filter: "host " + queryLateHost, made: true},
}

// found is what our child tells.
type found struct {
	Packets uint64        `json:"packets"`
	First   time.Duration `json:"first"` // from the start of the program to the first packet on its way out; 0 = none
}

// query measures how fast few packets are found among many, in recordings of several sizes: the whole command, warm (the
// files are in the page cache) and cold (nothing of them is).
func (b *bench) query(ctx context.Context) error {
	for _, gb := range b.sizes {
		if err := b.querySize(ctx, gb); err != nil {
			return err
		}
	}
	if b.quick {
		b.note("-quick: stenographer is left out")
		return nil
	}
	return b.queryBeside(ctx)
}

func (b *bench) querySize(ctx context.Context, gb float64) error {
	octets := int64(gb * 1e9)
	var fs unix.Statfs_t
	if err := unix.Statfs(b.dir, &fs); err != nil {
		return err
	}
	dir, file := b.file("searched"), b.file("searched.pcap")
	switch free := int64(fs.Bavail) * fs.Bsize; {
	case free < octets+diskNeeded:
		b.note("queries in %g GB are left out: %d GiB are free", gb, free>>30)
		return nil
	case gb > tcpdumpMost || free < 2*octets+diskNeeded || !b.has("tcpdump"):
		b.note("tcpdump does not search %g GB: it takes too long, the disk is too small, or it is not there", gb)
		file = ""
	}
	defer os.RemoveAll(dir)
	defer os.Remove(file)
	packets, span, err := writeSearched(dir, file, octets)
	if err != nil {
		return err
	}
	from := flowsBegin + packet.Timestamp(4*span/10)
	return b.ask(ctx, &queryRun{
		size: fmt.Sprintf("%g GB, %.0f M packets", gb, float64(packets)/1e6), dir: dir, file: file, made: true,
		part: "one minute", from: from, to: from + packet.Timestamp(time.Minute),
	})
}

// queryRun is one body of packets in the tools' own forms.
type queryRun struct {
	size     string
	dir      string
	part     string           // of the time, in words
	from, to packet.Timestamp // of it
	made     bool             // by writeSearched
	file     string           // pcap, for tcpdump; "" = leave out
	steno    *steno           // nil = leave out
}

// ask puts every shape to every tool, cold and warm, in turns.
func (b *bench) ask(ctx context.Context, q *queryRun) error {
	for _, cold := range []bool{true, false} {
		state := "warm"
		if cold {
			state = "cold"
			if err := dropCaches(); err != nil {
				b.note("cold queries are left out: %v", err)
				continue
			}
		}
		for _, s := range shapes {
			if s.made && !q.made {
				continue
			}
			name := s.name
			if s.part {
				name = fmt.Sprintf(name, q.part)
			}
			wall := row{task: fmt.Sprintf("query %s of %s, %s", name, q.size, state), unit: "ms", better: lower, digits: 1}
			first := row{task: "the same, first packet", unit: "ms", better: lower, digits: 1}
			ours, theirs, stenos := &series{tool: "opentap"}, &series{tool: "tcpdump -r"}, &series{tool: "stenoread"}
			begin := &series{tool: "opentap"}
			for range 3 {
				var want uint64
				for _, tool := range []string{"opentap", "tcpdump", "steno"} {
					if tool == "tcpdump" && q.file == "" || tool == "steno" && q.steno == nil {
						continue
					}
					if cold {
						if err := dropCaches(); err != nil {
							return err
						}
					}
					switch tool {
					case "opentap":
						from, to := packet.Timestamp(0), packet.Timestamp(0)
						if s.part {
							from, to = q.from, q.to
						}
						p, u, err := runSelf(ctx, childQuery, q.dir, s.filter, strconv.FormatInt(int64(from), 10), strconv.FormatInt(int64(to), 10))
						if err != nil {
							return err
						}
						var f found
						if err := json.Unmarshal(p.out.Bytes(), &f); err != nil {
							return err
						}
						if f.Packets == 0 {
							return fmt.Errorf("%q found nothing", s.filter)
						}
						want = f.Packets
						ours.add(u.wall.Seconds() * 1e3)
						begin.add(f.First.Seconds() * 1e3)
						ours.extra = fmt.Sprintf("%d packets", f.Packets)
					case "tcpdump":
						if s.part && theirs.extra == "" {
							theirs.extra = "cannot ask for a time: the whole"
						}
						_, u, err := runTool(ctx, "tcpdump", "-r", q.file, "--time-stamp-precision=nano", "-Z", "root", "-w", "/dev/null", s.filter)
						if err != nil {
							return err
						}
						theirs.add(u.wall.Seconds() * 1e3)
					case "steno":
						text := s.steno
						if s.part {
							text += fmt.Sprintf(" and after %s and before %s", q.from.Time().UTC().Format(time.RFC3339), q.to.Time().UTC().Format(time.RFC3339))
						}
						n, u, err := q.steno.read(ctx, text)
						if err != nil {
							return err
						}
						stenos.add(u.wall.Seconds() * 1e3)
						stenos.extra = fmt.Sprintf("%d packets", n)
					}
				}
				b.logf("%s, %s, %s: %d packets in %.1f ms", name, q.size, state, want, ours.values[len(ours.values)-1])
			}
			wall.series, first.series = []*series{ours}, []*series{begin}
			if len(theirs.values) > 0 {
				wall.series = append(wall.series, theirs)
			}
			if len(stenos.values) > 0 {
				wall.series = append(wall.series, stenos)
			}
			b.rows = append(b.rows, wall, first)
		}
	}
	return nil
}

// dropCaches writes what is dirty and empties the page cache (linux Documentation/admin-guide/sysctl/vm.rst).
func dropCaches() error {
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		if errors.Is(err, os.ErrPermission) {
			return errors.New("emptying the page cache needs root")
		}
		return err
	}
	return nil
}

// flowsBegin is the time of the first packet that writeSearched makes.
const flowsBegin = packet.Timestamp(1_700_000_000_000_000_000)

// writeSearched makes an indexed recording of about so many octets, and unless file is "" a pcap file with the same packets:
// IMIX of queryFlows flows, and near the end a few packets of a host that never spoke before.
func writeSearched(dir, file string, octets int64) (packets int, span time.Duration, err error) {
	cfg := segment.DefaultConfig(dir)
	cfg.NoSync = true
	cfg.Interface = pcap.Interface{Name: "bench", Link: packet.LinkEthernet}
	w, err := segment.Create(cfg)
	if err != nil {
		return 0, 0, err
	}
	twin, finish, err := newTwin(file)
	if err != nil {
		return 0, 0, err
	}
	defer finish()
	buf := pcap.AppendClassicHeader(nil, packet.LinkEthernet, 65535, true)
	lengths := []int{60, 590, 60, 60, 590, 1514, 60, 590, 60, 60, 590, 60}
	frame := make([]byte, 1514)
	copy(frame[12:], []byte{8, 0, 0x45})
	frame[23] = 17
	late := 0
	for written := int64(0); written < octets; packets++ {
		n := uint32(packets / 2 % queryFlows)
		client, server, port, service := uint32(10<<24|n), uint32(198<<24|51<<16|100<<8|1), uint16(1024+n&0x7fff), uint16(443)
		if late < queryLate && written > octets/20*19 {
			client = 192<<24 | 2<<8 | 77 // queryLateHost
			late++
		}
		if packets%2 == 1 {
			client, server, port, service = server, client, service, port
		}
		d := frame[:lengths[packets%len(lengths)]]
		binary.BigEndian.PutUint16(d[16:], uint16(len(d)-14))
		binary.BigEndian.PutUint32(d[26:], client)
		binary.BigEndian.PutUint32(d[30:], server)
		binary.BigEndian.PutUint16(d[34:], port)
		binary.BigEndian.PutUint16(d[36:], service)
		ts := flowsBegin + packet.Timestamp(packets)*queryGap
		for !w.Append(ts, uint32(len(d)), d, pcap.DirectionIn) {
			if err := w.Flush(); err != nil {
				return 0, 0, err
			}
		}
		if buf = pcap.AppendClassicPacket(buf, ts, uint32(len(d)), d, true); len(buf) > 1<<20 {
			if _, err := twin.Write(buf); err != nil {
				return 0, 0, err
			}
			buf = buf[:0]
		}
		written += int64(len(d) + 36)
	}
	if err := w.Close(ledger.Account{}); err != nil {
		return 0, 0, err
	}
	if _, err := twin.Write(buf); err != nil {
		return 0, 0, err
	}
	return packets, time.Duration(packets) * queryGap, finish()
}

// newTwin makes the file of the same packets for the peers; with "" it is nowhere.
func newTwin(file string) (io.Writer, func() error, error) {
	if file == "" {
		return io.Discard, func() error { return nil }, nil
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}

// runQuery writes the packets that a filter takes to /dev/null, as opentap query -w does.
func runQuery(dir, text, from, to string, began time.Time) error {
	expr, err := filter.Parse(text)
	if err != nil {
		return err
	}
	m, err := cbpf.NewMatcher(expr, cbpf.Options{Link: packet.LinkEthernet})
	if err != nil {
		return err
	}
	w := query.Window{}
	if expr.Root != nil {
		w.Match, w.Need = m.Match, index.Necessary(expr, packet.LinkEthernet, false)
	}
	for text, t := range map[string]*packet.Timestamp{from: &w.From, to: &w.To} {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return err
		}
		*t = packet.Timestamp(n)
	}
	p, err := query.New([]query.Source{{Name: "bench", Interface: pcap.Interface{Name: "bench", Link: packet.LinkEthernet}, Dir: dir}}, w, query.PcapNG, query.Meta{})
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	out := &firstByte{w: null, began: began}
	if err := p.WriteTo(context.Background(), out, 0, -1); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(found{Packets: p.Result().Packets, First: out.first})
}

// firstByte notes when the first packet passes: what comes before are a section and an interface, of less than 256 octets.
type firstByte struct {
	w     io.Writer
	began time.Time
	n     int
	first time.Duration
}

func (f *firstByte) Write(p []byte) (int, error) {
	if f.n += len(p); f.n > 256 && f.first == 0 {
		f.first = time.Since(f.began)
	}
	return f.w.Write(p)
}
