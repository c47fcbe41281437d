package collect

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/internal/await"
	"opentap/internal/nettest"
)

// liveExporter is a program that meters mon0 and sends what it finds to a collector. Each has an address of its own.
type liveExporter struct {
	name    string
	version int
	from    netip.Addr
	out     *os.File
}

// liveNet is a wire that is metered (mon0 in meters), and one from there to our collector (col0 in collecting).
type liveNet struct {
	t                  *testing.T
	meters, collecting *nettest.NS
	wire               *nettest.Sender
	exporters          []*liveExporter
	dir                string
}

func newLiveNet(t *testing.T) *liveNet {
	t.Helper()
	for _, tool := range []string{"pmacctd", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	n := &liveNet{t: t, meters: nettest.NewNS(t), collecting: nettest.NewNS(t)}
	far := nettest.NewNS(t)
	nettest.Veth(t, far, "gen0", n.meters, "mon0")
	nettest.Veth(t, n.meters, "exp0", n.collecting, "col0")
	n.wire = nettest.NewSender(t, far, "gen0")
	dir, err := os.MkdirTemp("", "live") // short, and without signs that configurations would not read as they are
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	n.dir = dir
	for i, version := range []int{5, 9, 10} {
		x := &liveExporter{name: fmt.Sprintf("pmacctd-%d", version), version: version}
		x.from = netip.AddrFrom4([4]byte{10, byte(i + 1), 0, 1})
		n.address(n.meters, "exp0", x.from)
		n.address(n.collecting, "col0", x.from.Next())
		n.exporters = append(n.exporters, x)
	}
	return n
}

func (n *liveNet) address(ns *nettest.NS, device string, a netip.Addr) {
	n.t.Helper()
	addr, err := netlink.ParseAddr(a.String() + "/24")
	if err == nil {
		err = ns.Netlink().AddrAdd(ns.Link(device), addr)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// start has the exporters meter all that comes, and waits until each has its socket on the wire. They have no filter: while
// libpcap sets one, packets are lost.
func (n *liveNet) start() {
	n.t.Helper()
	for _, x := range n.exporters {
		base := filepath.Join(n.dir, x.name)
		config := fmt.Sprintf("daemonize: false\npromisc: false\npcap_interface: mon0\npidfile: %s.pid\n"+
			"aggregate: src_host, dst_host, src_port, dst_port, proto, tos\nplugins: nfprobe\nnfprobe_receiver: %s:2055\nnfprobe_version: %d\n"+
			"nfprobe_timeouts: tcp=3:tcp.fin=3:tcp.rst=3:udp=3:icmp=3:general=3:maxlife=600:expint=1\n", base, x.from.Next(), x.version)
		if err := os.WriteFile(base+".conf", []byte(config), 0o600); err != nil {
			n.t.Fatal(err)
		}
		n.run(x, "pmacctd", "-f", base+".conf")
	}
	wire := strconv.Itoa(n.meters.Link("mon0").Attrs().Index)
	await.Until(n.t, "each exporter has its socket on the wire", func() bool {
		var table []byte
		n.meters.Do(func() { table, _ = os.ReadFile("/proc/thread-self/net/packet") })
		sockets := 0
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) > 5 && f[4] == wire && f[5] == "1" { // Iface, R
				sockets++
			}
		}
		return sockets >= len(n.exporters)
	})
}

func (n *liveNet) run(x *liveExporter, name string, args ...string) {
	n.t.Helper()
	var err error
	if x.out, err = os.Create(filepath.Join(n.dir, x.name+".out")); err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = x.out, x.out
	n.meters.Do(func() { err = cmd.Start() })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }()
		await.Until(n.t, x.name+" ends", func() bool {
			select {
			case <-done:
				return true
			default:
				return false
			}
		})
		_ = x.out.Close()
		if said, err := os.ReadFile(x.out.Name()); n.t.Failed() && err == nil {
			n.t.Logf("%s said: %.2000s", x.name, said)
		}
	})
}

// counted is where all that counts goes.
var counted = netip.AddrFrom4([4]byte{172, 17, 0, 1})

// send sends so many flows of UDP and TCP, of three packets each, and returns what they hold.
func (n *liveNet) send(first, flows int) (packets, octets uint64) {
	for i := first; i < first+flows; i++ {
		p := nettest.Packet{
			Src: netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}), Dst: counted,
			Proto: nettest.UDP, SrcPort: uint16(10000 + i), DstPort: 53, NoPad: true,
		}
		if i%2 == 0 {
			p.Proto, p.TCPFlags, p.DstPort = nettest.TCP, 0x10, 443
		}
		for k := range 3 {
			p.Payload = make([]byte, 10+i%50+100*k)
			f := p.Bytes()
			n.wire.Send(f)
			packets++
			octets += uint64(len(f) - 14)
		}
	}
	return packets, octets
}

// sums returns what the records of an exporter hold.
func (s *sink) sums(a netip.Addr) (records, packets, octets uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.records[a] {
		r := &s.records[a][i]
		if r.DstAddr() != counted {
			continue
		}
		records, packets, octets = records+1, packets+r.Packets+r.RevPackets, octets+r.Octets+r.RevOctets
	}
	return records, packets, octets
}

// nft runs one command of nftables where the collector is.
func (n *liveNet) nft(args ...string) []byte {
	n.t.Helper()
	var out []byte
	var err error
	n.collecting.Do(func() { out, err = exec.Command("nft", args...).CombinedOutput() })
	if err != nil {
		n.t.Skipf("needs nftables in the kernel: %v: %s", err, out)
	}
	return out
}

// lose has every third datagram of each exporter dropped, or none.
func (n *liveNet) lose(on bool) {
	n.t.Helper()
	if !on {
		n.nft("flush chain ip lossy input")
		return
	}
	n.nft("add table ip lossy; add chain ip lossy input { type filter hook input priority 0; }")
	for i, x := range n.exporters {
		n.nft(fmt.Sprintf("add counter ip lossy c%d; add rule ip lossy input ip saddr %s udp dport 2055 numgen inc mod 3 == 1 counter name c%d drop", i, x.from, i))
	}
}

// dropped returns how many datagrams of each exporter were.
func (n *liveNet) dropped() []uint64 {
	n.t.Helper()
	var list struct {
		Nftables []struct {
			Counter *struct {
				Name    string
				Packets uint64
			}
		}
	}
	if err := json.Unmarshal(n.nft("-j", "list", "counters", "table", "ip", "lossy"), &list); err != nil {
		n.t.Fatal(err)
	}
	out := make([]uint64, len(n.exporters))
	for _, o := range list.Nftables {
		if o.Counter != nil {
			i, err := strconv.Atoi(strings.TrimPrefix(o.Counter.Name, "c"))
			if err != nil {
				n.t.Fatal(err)
			}
			out[i] = o.Counter.Packets
		}
	}
	return out
}

// collect runs c where datagrams arrive, until the test ends.
func (n *liveNet) collect(c *Collector) {
	n.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is not for others
		if err := unix.Setns(n.collecting.Handle(), unix.CLONE_NEWNET); err != nil {
			ended <- err
			return
		}
		ended <- c.Run(ctx)
	}()
	n.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			n.t.Errorf("collect: %v", err)
		}
	})
	await.Until(n.t, "the collector listens", func() bool { return c.Address() != "" || len(ended) > 0 })
}

// TestNetnsLiveExporters has three pmacctd meter a wire and send to us, each in a version of its own, at the same time. What arrives is
// what was on the wire; and where datagrams are dropped on the way, what we say is missing is what is missing, for each of them.
func TestNetnsLiveExporters(t *testing.T) {
	n := newLiveNet(t)
	s := newSink()
	c := newCollector(t, Config{Address: "0.0.0.0:2055"}, s, nil)
	n.collect(c)
	n.start()
	const whole, lossy, last = 400, 600, 40
	packets, octets := n.send(0, whole)
	defer func() {
		if t.Failed() {
			t.Logf("%+v\n%+v", c.Stats(), c.Exporters())
		}
	}()
	for _, x := range n.exporters {
		await.Until(t, x.name+" has sent all", func() bool { _, p, _ := s.sums(x.from); return p >= packets })
		if r, p, o := s.sums(x.from); r != whole || p != packets || o != octets {
			t.Errorf("%s: %d records, %d packets, %d octets; on the wire were %d flows, %d, %d", x.name, r, p, o, whole, packets, octets)
		}
	}
	of := func(x *liveExporter) (e Exporter) {
		for _, e = range c.Exporters() {
			if e.Address == x.from {
				return e
			}
		}
		t.Fatalf("%s is not known", x.name)
		return e
	}
	for _, x := range n.exporters {
		if e := of(x); e.LostMessages+e.LostRecords+e.Malformed+e.Unknown+e.Waiting+e.Restarts != 0 {
			t.Errorf("%s, of which all arrived: %+v", x.name, e)
		}
	}

	n.lose(true)
	n.send(whole, lossy)
	await.Until(t, "datagrams of each were dropped", func() bool { return slices.Min(n.dropped()) >= 2 })
	n.lose(false)
	n.send(whole+lossy, last) // what is missing is seen by what comes after it
	for i, x := range n.exporters {
		await.Until(t, x.name+" has sent what came last", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			got := 0
			for k := range s.records[x.from] {
				if r := &s.records[x.from][k]; r.DstAddr() == counted && int(r.Src[14])<<8|int(r.Src[15]) >= whole+lossy {
					got++
				}
			}
			return got >= last
		})
		e, dropped := of(x), n.dropped()[i]
		r, _, _ := s.sums(x.from)
		t.Logf("%s: %d datagrams dropped; %d records of %d flows; %d messages and %d records missing", x.name, dropped, r, whole+lossy+last, e.LostMessages, e.LostRecords)
		if x.version == 9 {
			if e.LostMessages != dropped {
				t.Errorf("%s: %d messages missing, %d were dropped", x.name, e.LostMessages, dropped)
			}
		} else if r+e.LostRecords != whole+lossy+last {
			t.Errorf("%s: %d records, and %d missing; %d flows were on the wire", x.name, r, e.LostRecords, whole+lossy+last)
		}
		if len(c.Losses(x.from)) == 0 {
			t.Errorf("%s: nothing tells when it was", x.name)
		}
	}
}
