// Package collect receives flow records and samples that exporters send: NetFlow 5 and 9, IPFIX and sFlow.
//
// Runs in: agent
//
// An exporter is known by the address that its messages come from. What comes over UDP tells by its first octets what it is,
// so that one port can take all protocols. Records go to a sink as flow.Record; packets that sFlow sampled are metered by a
// flow.Table for each sampling rate, so that a sample becomes part of a flow record that says how it was sampled. What an
// exporter can make us keep is bounded, and everything that is not taken is counted.
package collect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"opentap/flow"
	"opentap/packet"
	"opentap/wire/netflow"
	"opentap/wire/sflow"
)

// Config says what is listened to, and what may come.
type Config struct {
	Name      string
	Transport string         // udp; tcp and tls take IPFIX alone
	Address   string         // address:port
	TLS       *tls.Config    // of transport tls
	Allow     []netip.Prefix // who may send; none = anybody
	Flow      flow.Config    // how samples are metered: timeouts
	MaxFlows  int            // of the samples of one exporter and rate; 0 = 16384
	Exporters int            // addresses known at one time; 0 = 256
	Sessions  int            // ports of UDP, connections of TCP, of all exporters; 0 = 1024
	Buffer    int            // octets that the kernel holds for us; 0 = 16 MiB
}

const (
	defaultMaxFlows  = 1 << 14
	defaultExporters = 256
	defaultSessions  = 1024
	defaultBuffer    = 16 << 20
	maxRates         = 8                // sampling rates of an exporter that are metered apart
	idleSession      = time.Hour        // a session that says nothing so long is forgotten, and its templates with it
	sweepEvery       = time.Second      // how often flows are advanced
	idleConnection   = 30 * time.Minute // a connection that says nothing so long is closed
)

func (c *Config) check() error {
	if c.Transport != "udp" && c.Transport != "tcp" && c.Transport != "tls" {
		return fmt.Errorf("transport %q is none of udp, tcp, tls", c.Transport)
	}
	if _, err := netip.ParseAddrPort(c.Address); err != nil {
		return fmt.Errorf("address %q is not ADDRESS:PORT: %w", c.Address, err)
	}
	if c.Transport == "tls" && (c.TLS == nil || len(c.TLS.Certificates) == 0) {
		return errors.New("transport tls needs a certificate to show")
	}
	if c.MaxFlows < 0 || c.Exporters < 0 || c.Sessions < 0 || c.Buffer < 0 {
		return errors.New("a bound is negative")
	}
	_, err := flow.New(c.flow(0), func(*flow.Record) {})
	return err
}

func (c *Config) flow(rate uint32) flow.Config {
	f := c.Flow
	f.MaxFlows, f.Sampling, f.Bidirectional, f.Inner = c.MaxFlows, rate, false, false
	return f
}

// Sink takes what comes. Its methods are called by one goroutine at a time, and must neither wait nor call the Collector.
type Sink interface {
	// Record takes a flow record of an exporter. It is lent.
	Record(exporter netip.Addr, r *flow.Record)
	// Samples takes a packet sample of an sFlow agent as it came, with what its packet says; nothing may be kept.
	Sample(at packet.Timestamp, d *sflow.Datagram, s *sflow.FlowSample, p *packet.Parsed)
	// Counters takes the counters of an interface of an sFlow agent.
	Counters(at packet.Timestamp, d *sflow.Datagram, s *sflow.CounterSample)
	// Appeared tells of an exporter that was not known.
	Appeared(exporter netip.Addr)
}

// Collector is one listening address. Run is called once; all other methods may be called at any time.
type Collector struct {
	cfg  Config
	log  *slog.Logger
	sink Sink

	address atomic.Pointer[string] // where it really listens; for port 0

	mu        sync.Mutex
	exporters map[netip.Addr]*exporter
	sessions  map[sessionKey]*session
	restored  map[string]netflow.State // of sessions that have not spoken yet
	stats     Stats
	learnt    bool // a template came since State was last asked
	newest    packet.Timestamp

	// Used with mu held, for the datagram being read.
	from    *exporter
	dg      sflow.Datagram
	parsed  packet.Parsed
	rec     flow.Record
	at      packet.Timestamp
	onFlow  func(*netflow.Flow)
	onCount func(*sflow.CounterSample)
	onPkt   func(*sflow.FlowSample)
}

type sessionKey struct {
	from netip.AddrPort
	conn uint64 // of a connection; 0 = UDP
}

// session is one sender: a port, or a connection.
type session struct {
	exporter *exporter
	dec      *netflow.Decoder
	heard    time.Time
	before   netflow.Stats // as added up in the exporter
	saved    uint64        // Learnt, when it was kept
}

// exporter is all that comes from one address.
type exporter struct {
	addr   netip.Addr
	st     Exporter
	track  sflow.Tracker
	tables map[uint32]*flow.Table // by sampling rate
	losses []Loss
}

// Loss says that something did not arrive.
type Loss struct {
	From, To                   time.Time // between the messages around it
	Messages, Records, Samples uint64    // later ones may have taken some back: they had only been late
}

// Losses close to one another are told as one, and so are the oldest when there are many.
const (
	lossTogether = 10 * time.Second
	maxLosses    = 256
)

// lacks notes what came to be missing between before and now.
func (e *exporter) lacks(before, now time.Time, messages, records, samples uint64) {
	if int64(messages) <= 0 && int64(records) <= 0 && int64(samples) <= 0 { // nothing, or something that was late
		return
	}
	if n := len(e.losses); n > 0 && now.Sub(e.losses[n-1].To) < lossTogether {
		l := &e.losses[n-1]
		l.To = now
		l.Messages += messages
		l.Records += records
		l.Samples += samples
		return
	}
	if len(e.losses) >= maxLosses {
		a, b := &e.losses[0], &e.losses[1]
		b.From, b.Messages, b.Records, b.Samples = a.From, a.Messages+b.Messages, a.Records+b.Records, a.Samples+b.Samples
		e.losses = slices.Delete(e.losses, 0, 1)
	}
	e.losses = append(e.losses, Loss{before, now, messages, records, samples})
}

// Losses returns what an exporter's messages lacked, the oldest first.
func (c *Collector) Losses(addr netip.Addr) []Loss {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.exporters[addr]; e != nil {
		return slices.Clone(e.losses)
	}
	return nil
}

// Stats are what the listening address met, cumulative since New.
type Stats struct {
	Messages  uint64 // datagrams, and messages of connections
	Octets    uint64
	Denied    uint64 // messages and connections of addresses that may not send
	Exhausted uint64 // messages and connections of exporters and sessions too many
	Foreign   uint64 // messages that are none of any protocol
	Dropped   uint64 // datagrams that the kernel had no room for, because we were slow; it says so with the next that it has
}

// Exporter is how the messages of one address fare, cumulative since it was first heard.
type Exporter struct {
	Address   netip.Addr
	Since     time.Time
	Heard     time.Time
	Protocols []string // netflow5, netflow9, ipfix, sflow
	Messages  uint64
	Octets    uint64
	Malformed uint64 // messages, sets, samples
	Records   uint64 // given to the sink; of sFlow, flows of samples
	Samples   uint64 // packets that sFlow sampled
	Counters  uint64 // counter samples
	NotIP     uint64 // records and samples of packets that are not IP: they are in no flow record

	LostMessages uint64 // by the sequence numbers: datagrams of sFlow, messages of NetFlow 9
	LostRecords  uint64 // records of NetFlow 5 and IPFIX
	LostSamples  uint64 // samples of sFlow, those lost with their datagrams included
	Unsent       uint64 // what exporters say themselves they could not send: flows, samples
	Reordered    uint64
	Restarts     uint64
	Unknown      uint64 // data sets dropped for want of their template
	Waiting      uint64 // data sets that wait for it
	Templates    uint64 // declared
	Sampling     []uint32
}

// New checks the configuration and listens to nothing. templates is what State gave to an earlier Collector.
func New(cfg Config, sink Sink, templates map[string]netflow.State, log *slog.Logger) (*Collector, error) {
	for _, d := range []struct {
		v   *int
		def int
	}{{&cfg.MaxFlows, defaultMaxFlows}, {&cfg.Exporters, defaultExporters}, {&cfg.Sessions, defaultSessions}, {&cfg.Buffer, defaultBuffer}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if cfg.Flow == (flow.Config{}) {
		cfg.Flow = flow.DefaultConfig()
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	c := &Collector{
		cfg: cfg, log: log, sink: sink, exporters: make(map[netip.Addr]*exporter), sessions: make(map[sessionKey]*session),
		restored: make(map[string]netflow.State, len(templates)),
	}
	for k, v := range templates {
		c.restored[k] = v
	}
	c.onFlow, c.onPkt, c.onCount = c.takeFlow, c.takeSample, c.takeCounters // once: a method value allocates
	return c, nil
}

// Run listens until ctx ends, and then returns nil; flows of samples that are open then are given to the sink.
func (c *Collector) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() { c.sweep(ctx) })
	err := c.listen(ctx, &work)
	if ctx.Err() != nil {
		err = nil
	}
	c.mu.Lock()
	for _, e := range c.exporters {
		for _, t := range e.tables {
			c.from = e
			t.Flush(flow.EndForced)
		}
	}
	c.mu.Unlock()
	return err
}

func (c *Collector) listen(ctx context.Context, work *sync.WaitGroup) error {
	if c.cfg.Transport == "udp" {
		return c.listenUDP(ctx)
	}
	return c.listenTCP(ctx, work)
}

func (c *Collector) listenUDP(ctx context.Context) error {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp", c.cfg.Address)
	if err != nil {
		return err
	}
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		return errors.Join(fmt.Errorf("listen on %s: not a UDP socket", c.cfg.Address), pc.Close())
	}
	if err := widen(conn, c.cfg.Buffer); err != nil {
		c.log.Warn("the kernel's buffer for what is collected stays small", "err", err)
	}
	if err := tellOverflow(conn); err != nil {
		c.log.Warn("what the kernel drops because we are slow is not counted", "err", err)
	}
	c.listening(conn.LocalAddr())
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close()
	b, control := make([]byte, 1<<16), make([]byte, overflowRoom)
	var dropped uint32 // as the kernel last said
	for {
		n, m, _, from, err := conn.ReadMsgUDPAddrPort(b, control)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		now := time.Now()
		c.mu.Lock()
		if sum := overflow(control[:m]); sum != 0 {
			c.stats.Dropped += uint64(sum - dropped)
			dropped = sum
		}
		_ = c.message(sessionKey{from: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}, b[:n], now) // it is counted
		c.mu.Unlock()
	}
}

func (c *Collector) listening(a net.Addr) {
	s := a.String()
	c.address.Store(&s)
	c.log.Info("collecting", "collector", c.cfg.Name, "transport", c.cfg.Transport, "address", s)
}

// Address is where the Collector listens; "" before it does.
func (c *Collector) Address() string {
	if p := c.address.Load(); p != nil {
		return *p
	}
	return ""
}

func (c *Collector) allowed(a netip.Addr) bool {
	return len(c.cfg.Allow) == 0 || slices.ContainsFunc(c.cfg.Allow, func(p netip.Prefix) bool { return p.Contains(a) })
}

// errDenied ends a connection of somebody who may not send.
var errDenied = errors.New("may not send")

// message takes one message. c.mu is held. An error is of a sender that cannot be listened to any more.
func (c *Collector) message(k sessionKey, b []byte, now time.Time) error {
	c.stats.Messages++
	c.stats.Octets += uint64(len(b))
	if !c.allowed(k.from.Addr()) {
		c.stats.Denied++
		return errDenied
	}
	if len(b) < 4 || b[0] != 0 || b[1] != 0 && b[1] != 5 && b[1] != 9 && b[1] != 10 || b[1] == 0 && (b[2] != 0 || b[3] != 5) {
		c.stats.Foreign++
		return nil
	}
	s, err := c.session(k, now)
	if err != nil {
		c.stats.Exhausted++
		return err
	}
	s.heard = now
	e := s.exporter
	was := e.st
	defer func() {
		e.lacks(was.Heard, now.UTC(), e.st.LostMessages-was.LostMessages, e.st.LostRecords-was.LostRecords, e.st.LostSamples-was.LostSamples)
	}()
	e.st.Heard = now.UTC()
	e.st.Messages++
	e.st.Octets += uint64(len(b))
	c.from, c.at = e, packet.TimestampOf(now)
	c.newest = max(c.newest, c.at)
	if b[1] == 0 {
		e.spoke("sflow")
		return c.datagram(e, b)
	}
	e.spoke(netflow.Version(b[1]).String())
	err = s.dec.Decode(b, c.onFlow)
	s.account()
	if s.dec.Learnt() != s.saved {
		s.saved, c.learnt = s.dec.Learnt(), true
	}
	if k.conn != 0 {
		return nil // what a message holds does not end its stream: messages say how long they are
	}
	return err
}

func (e *exporter) spoke(protocol string) {
	if !slices.Contains(e.st.Protocols, protocol) {
		e.st.Protocols = append(e.st.Protocols, protocol)
	}
}

var errExhausted = errors.New("too many exporters")

// session finds or makes the state of a sender. c.mu is held.
func (c *Collector) session(k sessionKey, now time.Time) (*session, error) {
	if s := c.sessions[k]; s != nil {
		return s, nil
	}
	if len(c.sessions) >= c.cfg.Sessions {
		return nil, errExhausted
	}
	a := k.from.Addr()
	e := c.exporters[a]
	if e == nil {
		if len(c.exporters) >= c.cfg.Exporters {
			return nil, errExhausted
		}
		e = &exporter{addr: a, tables: make(map[uint32]*flow.Table)}
		e.st.Address, e.st.Since = a, now.UTC()
		c.exporters[a] = e
		c.sink.Appeared(a)
	}
	s := &session{exporter: e, dec: netflow.NewDecoder(netflow.DecoderConfig{Stream: k.conn != 0}), heard: now}
	if k.conn == 0 {
		name := k.from.String()
		if st, ok := c.restored[name]; ok {
			if err := s.dec.Restore(st); err != nil {
				c.log.Warn("templates that were kept cannot be read; the exporter declares them again", "exporter", name, "err", err)
			}
			delete(c.restored, name)
		}
	}
	s.saved = s.dec.Learnt()
	c.sessions[k] = s
	return s, nil
}

// account adds to the exporter what the session's decoder met since the last time.
func (s *session) account() {
	now, was := s.dec.Stats(), s.before
	s.before = now
	e := &s.exporter.st
	e.Malformed += now.Malformed - was.Malformed
	e.Unsent += now.NotSentFlows - min(was.NotSentFlows, now.NotSentFlows)
	e.Restarts += now.Restarts - was.Restarts
	e.Unknown += now.Unknown - was.Unknown
	e.Waiting += now.Held - was.Held // modulo 2^64: it may fall
	e.Templates += now.Templates - was.Templates
	e.Reordered += now.Reordered - was.Reordered
	e.NotIP += now.NoFlow - was.NoFlow
	e.LostMessages += now.LostMessages - was.LostMessages
	e.LostRecords += now.LostRecords - was.LostRecords
}

// takeFlow turns what NetFlow or IPFIX says into a record of ours.
func (c *Collector) takeFlow(f *netflow.Flow) {
	e := c.from
	if f.IP != 4 && f.IP != 6 {
		e.st.NotIP++
		return
	}
	r := &c.rec
	*r = flow.Record{
		First: f.First, Last: f.Last, Src: f.Src, Dst: f.Dst, SrcPort: f.SrcPort, DstPort: f.DstPort, VLAN: f.VLAN, InnerVLAN: f.InnerVLAN,
		Proto: f.Proto, Version: f.IP, TOS: f.TOS, TCPFlags: f.TCPFlags, EndReason: endReason(f.EndReason), SrcMAC: f.SrcMAC, DstMAC: f.DstMAC,
		Packets: f.Packets, Octets: f.Octets, RevPackets: f.RevPackets, RevOctets: f.RevOctets, RevTCPFlags: f.RevTCPFlags, RevTOS: f.RevTOS,
		Sampling: f.Sampling,
	}
	if f.Proto == packet.ProtoICMP || f.Proto == packet.ProtoICMP6 {
		r.ICMPType, r.ICMPCode = uint8(f.ICMPTypeCode>>8), uint8(f.ICMPTypeCode)
		r.SrcPort, r.DstPort = 0, f.ICMPTypeCode
	}
	e.sampled(f.Sampling)
	e.st.Records++
	c.sink.Record(e.addr, r)
}

// endReason is flowEndReason as it was said, if it was.
func endReason(r uint8) flow.EndReason {
	if r == 0 || r > uint8(flow.EndLack) {
		return flow.EndUnsaid
	}
	return flow.EndReason(r)
}

// sampled notes a rate.
func (e *exporter) sampled(rate uint32) {
	if rate > 1 && len(e.st.Sampling) < maxRates && !slices.Contains(e.st.Sampling, rate) {
		e.st.Sampling = append(e.st.Sampling, rate)
		slices.Sort(e.st.Sampling)
	}
}

// datagram takes one of sFlow.
func (c *Collector) datagram(e *exporter, b []byte) error {
	err := c.dg.Decode(b, c.onPkt, c.onCount)
	if err != nil {
		e.st.Malformed++
		return nil // UDP: the next may be sound
	}
	e.st.Malformed += uint64(c.dg.Damaged)
	was := e.track.Losses
	e.track.Datagram(&c.dg)
	now := e.track.Losses
	e.st.Reordered += now.Reordered - was.Reordered
	e.st.Restarts += now.Restarts - was.Restarts
	e.st.LostMessages += now.Datagrams - was.Datagrams // modulo 2^64: a late one takes back what it was counted for
	return nil
}

func (c *Collector) takeCounters(s *sflow.CounterSample) {
	c.from.st.Counters++
	c.sink.Counters(c.at, &c.dg, s)
}

// takeSample meters the packet of a sample.
func (c *Collector) takeSample(s *sflow.FlowSample) {
	e := c.from
	e.st.Samples++
	was := e.track.Losses
	e.track.Sample(&c.dg, s)
	now := e.track.Losses
	e.st.LostSamples += now.Samples - was.Samples
	e.st.Unsent += now.Drops - was.Drops
	p := &c.parsed
	p.Time = c.at
	if !s.Parse(p) {
		e.st.NotIP++
		return
	}
	c.sink.Sample(c.at, &c.dg, s, p)
	if !p.IsIP() {
		e.st.NotIP++
		return
	}
	rate := max(s.Rate, 1)
	e.sampled(rate)
	t := e.tables[rate]
	if t == nil {
		if len(e.tables) >= maxRates { // one that changes its rate all the time: the oldest are done with
			for k, old := range e.tables {
				old.Flush(flow.EndForced)
				delete(e.tables, k)
			}
		}
		var err error
		if t, err = flow.New(c.cfg.flow(rate), func(r *flow.Record) {
			e.st.Records++
			c.sink.Record(e.addr, r)
		}); err != nil {
			e.st.Malformed++
			return
		}
		e.tables[rate] = t
	}
	t.Add(p)
}

// sweep advances the flows of samples and forgets senders that are silent, until ctx ends.
func (c *Collector) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			c.advance(now)
		}
	}
}

func (c *Collector) advance(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := max(packet.TimestampOf(now), c.newest)
	for _, e := range c.exporters {
		for _, t := range e.tables {
			t.Advance(at)
		}
	}
	for k, s := range c.sessions {
		if k.conn == 0 && now.Sub(s.heard) > idleSession {
			c.forget(k, s)
		}
	}
}

// forget drops a sender. c.mu is held.
func (c *Collector) forget(k sessionKey, s *session) {
	s.exporter.st.Waiting -= s.dec.Stats().Held
	delete(c.sessions, k)
}

// Open calls fn with the flows of samples of an exporter that are not ended yet, as they are now. fn must not call the Collector.
func (c *Collector) Open(addr netip.Addr, fn func(*flow.Record)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.exporters[addr]; e != nil {
		for _, t := range e.tables {
			t.Snapshot(fn)
		}
	}
}

// Stats returns what was met until now.
func (c *Collector) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Exporters returns how all exporters fare, sorted by address.
func (c *Collector) Exporters() []Exporter {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Exporter, 0, len(c.exporters))
	for _, e := range c.exporters {
		st := e.st
		st.Protocols, st.Sampling = slices.Clone(st.Protocols), slices.Clone(st.Sampling)
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b Exporter) int { return a.Address.Compare(b.Address) })
	return out
}

// State returns the templates of all senders over UDP, by address and port, for New after a restart. changed is false when it
// holds no more than the last time.
func (c *Collector) State() (all map[string]netflow.State, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed = c.learnt
	c.learnt = false
	if !changed {
		return nil, false
	}
	all = make(map[string]netflow.State, len(c.sessions)+len(c.restored))
	for k, s := range c.restored {
		all[k] = s
	}
	for k, s := range c.sessions {
		if k.conn == 0 && s.dec.Learnt() > 0 {
			all[k.from.String()] = s.dec.State()
		}
	}
	return all, true
}
