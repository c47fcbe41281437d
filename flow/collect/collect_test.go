package collect

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"opentap/flow"
	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/packet"
	"opentap/wire/netflow"
	"opentap/wire/sflow"
)

// sink keeps what it is given.
type sink struct {
	mu       sync.Mutex
	records  map[netip.Addr][]flow.Record
	samples  int
	counters int
	appeared []netip.Addr
}

func newSink() *sink { return &sink{records: make(map[netip.Addr][]flow.Record)} }

func (s *sink) Record(a netip.Addr, r *flow.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[a] = append(s.records[a], *r)
}

func (s *sink) Sample(packet.Timestamp, *sflow.Datagram, *sflow.FlowSample, *packet.Parsed) {
	s.samples++
}

func (s *sink) Counters(packet.Timestamp, *sflow.Datagram, *sflow.CounterSample) { s.counters++ }

func (s *sink) Appeared(a netip.Addr) { s.appeared = append(s.appeared, a) }

func (s *sink) count(a netip.Addr) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records[a])
}

func newCollector(t testing.TB, cfg Config, s Sink, templates map[string]netflow.State) *Collector {
	t.Helper()
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1:0"
	}
	if cfg.Transport == "" {
		cfg.Transport = "udp"
	}
	c, err := New(cfg, s, templates, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var (
	exporterA = sessionKey{from: netip.MustParseAddrPort("192.0.2.1:9995")}
	began     = time.Unix(1_700_000_000, 0)
)

func (c *Collector) give(k sessionKey, b []byte, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.message(k, b, now)
}

// TestRealExporters takes what Open vSwitch sent in all three protocols through one collector.
func TestRealExporters(t *testing.T) {
	s := newSink()
	c := newCollector(t, Config{}, s, nil)
	now := began
	for _, file := range []string{"../../wire/netflow/testdata/netflow5-ovs.pcap", "../../wire/netflow/testdata/ipfix-ovs.pcap", "../../wire/sflow/testdata/sflow-ovs.pcap"} {
		for _, m := range nettest.Datagrams(t, file) {
			c.give(exporterA, m, now)
			now = now.Add(10 * time.Millisecond)
		}
	}
	c.advance(now.Add(time.Hour))
	e := c.Exporters()
	if len(e) != 1 || !slices.Equal(e[0].Protocols, []string{"netflow5", "ipfix", "sflow"}) || e[0].Messages != 9+228+222 || e[0].Samples != 1138 || e[0].Malformed+e[0].LostSamples > 0 {
		t.Fatalf("%+v", e)
	}
	var packets, sampled uint64
	for _, r := range s.records[exporterA.from.Addr()] {
		packets += r.Packets
		if r.Sampling > 1 {
			sampled += r.Packets
			if est := r.Estimate(); est.Packets != r.Packets*uint64(r.Sampling) {
				t.Errorf("%+v", r)
			}
		}
		if r.Last < r.First || r.Version != 4 && r.Version != 6 {
			t.Errorf("%+v", r)
		}
	}
	if uint64(len(s.records[exporterA.from.Addr()])) != e[0].Records || s.samples == 0 || s.counters == 0 || sampled == 0 || packets < 1000 {
		t.Errorf("%d records, %d packets, %d sampled, %d samples, %d counters: %+v", len(s.records[exporterA.from.Addr()]), packets, sampled, s.samples, s.counters, e[0])
	}
}

func encoder(t testing.TB, v netflow.Version) *netflow.Encoder {
	t.Helper()
	e, err := netflow.NewEncoder(netflow.EncoderConfig{Version: v, Boot: packet.TimestampOf(began.Add(-time.Hour))})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func flowOf(i int) netflow.Flow {
	at := packet.TimestampOf(began.Add(time.Duration(i) * time.Second))
	return netflow.Flow{First: at, Last: at + 1e9, IP: 4, Proto: 17, Src: netip.MustParseAddr("::ffff:10.0.0.1").As16(), Dst: netip.MustParseAddr("::ffff:10.0.0.2").As16(), SrcPort: uint16(i), DstPort: 53, Packets: 2, Octets: 200}
}

// TestTemplatesOutliveARestart: data that comes before the exporter declares its templates again is read.
func TestTemplatesOutliveARestart(t *testing.T) {
	for _, v := range []netflow.Version{netflow.V9, netflow.IPFIX} {
		enc := encoder(t, v)
		first, _ := enc.Append(nil, packet.TimestampOf(began), []netflow.Flow{flowOf(1)}, true, nil)
		second, _ := enc.Append(nil, packet.TimestampOf(began), []netflow.Flow{flowOf(2)}, false, nil)
		s := newSink()
		c := newCollector(t, Config{}, s, nil)
		c.give(exporterA, first, began)
		state, changed := c.State()
		if _, again := c.State(); !changed || again || len(state) != 1 {
			t.Fatalf("%s: %v, %v", v, changed, state)
		}
		next := newCollector(t, Config{}, s, state)
		next.give(exporterA, second, began)
		if n := s.count(exporterA.from.Addr()); n != 2 {
			t.Errorf("%s: %d records", v, n)
		}
	}
}

// TestLosses are counted, and told with their times.
func TestLosses(t *testing.T) {
	enc := encoder(t, netflow.IPFIX)
	s := newSink()
	c := newCollector(t, Config{}, s, nil)
	for i := range 30 {
		m, _ := enc.Append(nil, packet.TimestampOf(began), []netflow.Flow{flowOf(i)}, i == 0, nil)
		if i == 5 || i == 6 || i == 20 {
			continue
		}
		c.give(exporterA, m, began.Add(time.Duration(i)*time.Second))
	}
	e := c.Exporters()[0]
	l := c.Losses(exporterA.from.Addr())
	if e.LostRecords != 3 || len(l) != 2 || l[0].Records != 2 || !l[0].From.Equal(began.Add(4*time.Second)) || !l[0].To.Equal(began.Add(7*time.Second)) || l[1].Records != 1 {
		t.Errorf("%+v, %+v", e, l)
	}
}

// TestStrangers are counted and leave nothing behind.
func TestStrangers(t *testing.T) {
	s := newSink()
	c := newCollector(t, Config{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Exporters: 3, Sessions: 5}, s, nil)
	m, _ := encoder(t, netflow.V5).Append(nil, packet.TimestampOf(began), []netflow.Flow{flowOf(1)}, false, nil)
	c.give(sessionKey{from: netip.MustParseAddrPort("198.51.100.1:1")}, m, began)
	for _, junk := range [][]byte{nil, {0}, {1, 2, 3, 4}, {0, 7, 0, 0}, {0, 0, 0, 4}, []byte("GET / HTTP/1.1")} {
		c.give(exporterA, junk, began)
	}
	if len(c.Exporters()) != 0 {
		t.Fatalf("%+v", c.Exporters())
	}
	for i := range 20 {
		c.give(sessionKey{from: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 5)}), uint16(i))}, m, began)
	}
	st := c.Stats()
	if len(c.Exporters()) != 3 || len(c.sessions) != 5 || st.Denied != 1 || st.Foreign != 6 || st.Exhausted == 0 {
		t.Errorf("%d exporters, %d sessions, %+v", len(c.Exporters()), len(c.sessions), st)
	}
	c.advance(began.Add(2 * idleSession))
	if len(c.sessions) != 0 {
		t.Errorf("%d sessions that are silent are kept", len(c.sessions))
	}
}

// TestTLS takes IPFIX of exporters that trust our certificate, and nothing of those that do not speak TLS.
func TestTLS(t *testing.T) {
	web := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer web.Close()
	s := newSink()
	c := newCollector(t, Config{Transport: "tls", TLS: &tls.Config{Certificates: web.TLS.Certificates}}, s, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	await.Until(t, "the socket", func() bool { return c.Address() != "" })
	plain, err := net.Dial("tcp", c.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	enc := encoder(t, netflow.IPFIX)
	m, _ := enc.Append(nil, packet.TimestampOf(began), []netflow.Flow{flowOf(0)}, true, nil)
	if _, err := plain.Write(m); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, plain); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	conn, err := tls.Dial("tcp", c.Address(), web.Client().Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(m); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the record", func() bool { return s.count(netip.MustParseAddr("127.0.0.1")) == 1 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	conn.Close()
}

// TestSockets receives over UDP and TCP, and ends when it is told.
func TestSockets(t *testing.T) {
	for _, transport := range []string{"udp", "tcp"} {
		s := newSink()
		c := newCollector(t, Config{Transport: transport}, s, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		await.Until(t, "the socket", func() bool { return c.Address() != "" })
		conn, err := net.Dial(transport, c.Address())
		if err != nil {
			t.Fatal(err)
		}
		enc := encoder(t, netflow.IPFIX)
		for i := range 100 {
			m, _ := enc.Append(nil, packet.TimestampOf(began), []netflow.Flow{flowOf(i)}, i == 0, nil)
			if transport == "tcp" { // a stream has no edges
				if _, err := conn.Write(m[:7]); err != nil {
					t.Fatal(err)
				}
				m = m[7:]
			}
			if _, err := conn.Write(m); err != nil {
				t.Fatal(err)
			}
		}
		await.Until(t, "100 records", func() bool { return s.count(netip.MustParseAddr("127.0.0.1")) == 100 })
		if transport == "tcp" {
			if _, err := conn.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("a stream of something else is not closed")
			}
		}
		conn.Close()
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it does not end")
		}
		if e := c.Exporters(); len(e) != 1 || e[0].LostRecords != 0 || len(c.sessions) != 0 && transport == "tcp" {
			t.Errorf("%s: %+v, %d sessions", transport, e, len(c.sessions))
		}
	}
}

// TestDatagramsWithoutRoom has a collector be slow: what the kernel drops meanwhile is counted, to the last datagram.
func TestDatagramsWithoutRoom(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux, which counts the datagrams that it drops")
	}
	s := newSink()
	c := newCollector(t, Config{Transport: "udp", Buffer: 8 << 10}, s, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	await.Until(t, "the socket", func() bool { return c.Address() != "" })
	conn, err := net.Dial("udp", c.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := uint64(0)
	send := func() {
		if _, err := conn.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		sent++
	}
	c.mu.Lock()
	for range 200 {
		send()
	}
	c.mu.Unlock()
	await.Until(t, "all are accounted for", func() bool {
		st := c.Stats()
		if st.Messages+st.Dropped == sent {
			return true
		}
		send() // the kernel says what it dropped with the next that it has
		return false
	})
	if st := c.Stats(); st.Dropped < 150 {
		t.Errorf("%+v of %d", st, sent)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []Config{{Transport: "sctp", Address: "127.0.0.1:1"}, {Transport: "udp", Address: "nowhere"}, {Transport: "tls", Address: "127.0.0.1:1"}, {Transport: "udp", Address: "127.0.0.1:1", Exporters: -1}} {
		if _, err := New(cfg, newSink(), nil, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// TestTakingDoesNotAllocate: what is known is taken without allocations, but for the sink's.
func TestTakingDoesNotAllocate(t *testing.T) {
	c := newCollector(t, Config{}, quiet{}, nil)
	enc := encoder(t, netflow.IPFIX)
	first, _ := enc.Append(nil, packet.TimestampOf(began), []netflow.Flow{flowOf(1)}, true, nil)
	c.give(exporterA, first, began)
	second, _ := enc.Append(nil, packet.TimestampOf(began), []netflow.Flow{flowOf(2)}, false, nil)
	samples := nettest.Datagrams(t, "../../wire/sflow/testdata/sflow-ovs.pcap")
	for _, m := range samples {
		c.give(exporterA, m, began)
	}
	for name, m := range map[string][]byte{"ipfix": second, "sflow": samples[40]} {
		if n := testing.AllocsPerRun(100, func() { c.give(exporterA, m, began) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// quiet takes nothing.
type quiet struct{}

func (quiet) Record(netip.Addr, *flow.Record) {}
func (quiet) Sample(packet.Timestamp, *sflow.Datagram, *sflow.FlowSample, *packet.Parsed) {
}
func (quiet) Counters(packet.Timestamp, *sflow.Datagram, *sflow.CounterSample) {}
func (quiet) Appeared(netip.Addr)                                              {}
