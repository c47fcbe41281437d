// Package export sends flow records to a collector as NetFlow version 5 or 9 or as IPFIX.
//
// Runs in: agent
//
// An Exporter takes records without ever waiting: what the collector or the way to it does not take in time stays in a
// queue of bounded length, and what the queue has no room for is dropped and counted. Over UDP nobody says what arrived;
// over TCP and TLS an exporter connects again by itself, sends the templates again, and sends again the message that the
// broken connection did not take. What the operating system had taken before a connection broke may be lost uncounted.
package export

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"opentap/flow"
	"opentap/packet"
	"opentap/wire/netflow"
)

// Config says where records go, and how.
type Config struct {
	Version   netflow.Version
	Transport string        // udp, tcp or tls; NetFlow only udp
	Address   string        // host:port
	TLS       *tls.Config   // of transport tls; nil = the system's roots
	Domain    uint32        // observation domain (IPFIX), source (version 9), engine (version 5)
	Message   int           // octets of a message at most; 0 = 1400, which fits an Ethernet MTU
	Biflow    bool          // IPFIX: both directions in one record
	Sampling  uint32        // interval of the records' packets
	Queue     int           // records that may wait; 0 = 65536
	Linger    time.Duration // a record waits this long for others to share its message; 0 = 1 s
	// Templates are sent again after this time and this many messages, over UDP (RFC 7011 section 8.4). 0 = 60 s and 200.
	TemplateEvery    time.Duration
	TemplateMessages int
}

// Defaults.
const (
	defaultQueue            = 1 << 16
	defaultLinger           = time.Second
	defaultTemplateEvery    = time.Minute
	defaultTemplateMessages = 200

	dialPatience  = 5 * time.Second
	writePatience = 10 * time.Second
	lastPatience  = 2 * time.Second // for what waits when the exporter is stopped
	maxBackoff    = 30 * time.Second
)

func (c *Config) check() error {
	switch {
	case c.Transport != "udp" && c.Transport != "tcp" && c.Transport != "tls":
		return fmt.Errorf("transport %q is none of udp, tcp, tls", c.Transport)
	case c.Transport != "udp" && c.Version != netflow.IPFIX:
		return fmt.Errorf("%s goes over udp alone; ipfix goes over %s", c.Version, c.Transport)
	case c.Queue < 0 || c.Linger < 0 || c.TemplateEvery < 0 || c.TemplateMessages < 0:
		return errors.New("a queue or a time is negative")
	case c.Message > 65000 && c.Transport == "udp":
		return fmt.Errorf("message size %d does not fit a UDP datagram", c.Message)
	}
	_, _, err := net.SplitHostPort(c.Address)
	return err
}

// Status is how an exporter fares: cumulative since New. Each record given to Export is in Sent, Waiting or one of the
// drops.
type Status struct {
	Connected  bool
	LastError  string // of the newest failure; "" when the last message went out
	Messages   uint64
	Octets     uint64 // of messages
	Sent       uint64 // records of ours; unless Biflow, one with both directions is two of the protocol
	Packets    uint64 // in Sent, both directions
	Waiting    int
	Full       uint64 // dropped: the queue was full
	Untakeable uint64 // dropped: the protocol cannot carry it (version 5: IPv6)
	Refused    uint64 // dropped: could not be sent over UDP, or waited when the exporter was stopped
	Lost       uint64 // packets in all that was dropped
	Reconnects uint64
	Saturated  uint64 // version 5: counters that did not fit
}

// Exporter is one collector's. Export and Status are safe for concurrent use with Run.
type Exporter struct {
	cfg  Config
	log  *slog.Logger
	enc  *netflow.Encoder
	wake chan struct{}

	mu    sync.Mutex
	queue []netflow.Flow // ring
	head  int
	n     int
	st    Status
	lostO uint64 // octets dropped

	conn      net.Conn
	listening sync.WaitGroup
	buf       []byte
	batch     []netflow.Flow
	templated time.Time
	since     int // messages since the templates
}

// New checks the configuration and connects to nothing.
func New(cfg Config, log *slog.Logger) (*Exporter, error) {
	if cfg.Queue == 0 {
		cfg.Queue = defaultQueue
	}
	if cfg.Linger == 0 {
		cfg.Linger = defaultLinger
	}
	if cfg.TemplateEvery == 0 {
		cfg.TemplateEvery = defaultTemplateEvery
	}
	if cfg.TemplateMessages == 0 {
		cfg.TemplateMessages = defaultTemplateMessages
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("exporter to %s: %w", cfg.Address, err)
	}
	// The clock that versions 5 and 9 count on begins a day before, so that packets from before the start have a time.
	enc, err := netflow.NewEncoder(netflow.EncoderConfig{
		Version: cfg.Version, Domain: cfg.Domain, MaxMessage: cfg.Message,
		Boot: packet.TimestampOf(time.Now().Add(-24 * time.Hour)), Sampling: cfg.Sampling, Biflow: cfg.Biflow,
	})
	if err != nil {
		return nil, err
	}
	return &Exporter{cfg: cfg, log: log, enc: enc, wake: make(chan struct{}, 1), queue: make([]netflow.Flow, cfg.Queue)}, nil
}

// Export puts a record into the queue; r is not kept. It never waits and allocates nothing.
func (x *Exporter) Export(r *flow.Record) {
	f := FlowOf(r)
	x.mu.Lock()
	switch {
	case !x.enc.Takes(&f):
		x.drop(&f, &x.st.Untakeable)
	case x.n == len(x.queue):
		x.drop(&f, &x.st.Full)
	default:
		x.queue[(x.head+x.n)%len(x.queue)] = f
		x.n++
	}
	x.mu.Unlock()
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// drop books a record that will not be sent. x.mu is held.
func (x *Exporter) drop(f *netflow.Flow, why *uint64) {
	*why++
	x.st.Lost += f.Packets + f.RevPackets
	x.lostO += f.Octets + f.RevOctets
}

// FlowOf says in the protocols' words what a record says.
func FlowOf(r *flow.Record) netflow.Flow {
	f := netflow.Flow{
		First: r.First, Last: r.Last, Src: r.Src, Dst: r.Dst, IP: r.Version, Proto: r.Proto, TOS: r.TOS, TCPFlags: r.TCPFlags,
		EndReason: uint8(r.EndReason), SrcPort: r.SrcPort, DstPort: r.DstPort, VLAN: r.VLAN, InnerVLAN: r.InnerVLAN, SrcMAC: r.SrcMAC, DstMAC: r.DstMAC,
		Packets: r.Packets, Octets: r.Octets, RevPackets: r.RevPackets, RevOctets: r.RevOctets, RevTCPFlags: r.RevTCPFlags, RevTOS: r.RevTOS, Sampling: r.Sampling,
	}
	if (r.Proto == packet.ProtoICMP || r.Proto == packet.ProtoICMP6) && !r.PortsUnknown {
		f.ICMPTypeCode = uint16(r.ICMPType)<<8 | uint16(r.ICMPCode)
	}
	return f
}

// Status returns the accounts so far.
func (x *Exporter) Status() Status {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.st
	s.Waiting = x.n
	return s
}

// Run sends until ctx ends; then it tries for a moment to send what waits, and returns.
func (x *Exporter) Run(ctx context.Context) {
	defer x.close()
	backoff, failed := time.Second, false
	timer := time.NewTimer(x.cfg.Linger)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-timer.C:
		case <-x.wake:
			if failed || x.Status().Waiting < batchLen { // they can wait for others, or must
				continue
			}
		}
		wait := x.cfg.Linger
		if err := x.sendAll(ctx); err != nil && ctx.Err() == nil {
			x.fail(err)
			wait, backoff, failed = backoff, min(2*backoff, maxBackoff), true
		} else {
			backoff, failed = time.Second, false
		}
		timer.Reset(wait)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastPatience)
	defer cancel()
	if x.Status().Waiting > 0 {
		if err := x.sendAll(last); err != nil {
			x.fail(err)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for ; x.n > 0; x.n-- {
		x.drop(&x.queue[x.head], &x.st.Refused)
		x.head = (x.head + 1) % len(x.queue)
	}
}

// fail notes an error; a new one is logged.
func (x *Exporter) fail(err error) {
	x.mu.Lock()
	same := x.st.LastError == err.Error()
	x.st.LastError = err.Error()
	x.mu.Unlock()
	if !same {
		x.log.Warn("cannot send flow records", "to", x.cfg.Address, "err", err)
	}
}

// most records that one message can hold, so that a batch always fills one.
const batchLen = 1024

// Over UDP, so many datagrams go out at once, and then none for a while: a collector's socket holds few more.
const (
	udpBurst = 64
	udpPause = 5 * time.Millisecond
)

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sendAll sends messages until the queue is empty, and templates when they are due.
func (x *Exporter) sendAll(ctx context.Context) error {
	if x.batch == nil {
		x.batch = make([]netflow.Flow, 0, batchLen)
	}
	if err := x.connect(ctx); err != nil {
		return err
	}
	for burst := 1; ; burst++ {
		if x.cfg.Transport == "udp" && burst%udpBurst == 0 {
			if err := pause(ctx, udpPause); err != nil {
				return err
			}
		}
		x.mu.Lock()
		n := min(x.n, batchLen)
		x.batch = x.batch[:n]
		for i := range n {
			x.batch[i] = x.queue[(x.head+i)%len(x.queue)]
		}
		stats := netflow.ExportStats{
			Messages: x.st.Messages, Octets: x.st.Octets, Records: x.st.Sent,
			NotSentFlows: x.st.Full + x.st.Untakeable + x.st.Refused, NotSentPackets: x.st.Lost, NotSentOcts: x.lostO,
		}
		x.mu.Unlock()
		now := time.Now()
		templates := x.cfg.Version != netflow.V5 && (x.templated.IsZero() ||
			x.cfg.Transport == "udp" && (now.Sub(x.templated) >= x.cfg.TemplateEvery || x.since >= x.cfg.TemplateMessages))
		if n == 0 && !templates {
			return nil
		}
		var with *netflow.ExportStats
		if templates {
			with = &stats
		}
		var took int
		x.buf, took = x.enc.Append(x.buf[:0], packet.TimestampOf(now), x.batch, templates, with)
		err := x.write(ctx)
		if err != nil && x.cfg.Transport != "udp" {
			x.close()
			return err // the records stay in the queue
		}
		if templates && err == nil {
			x.templated, x.since = now, 0
		}
		x.since++
		x.book(took, err)
		if err != nil {
			return err
		}
	}
}

// book takes records from the queue that were sent, or with an error were not.
func (x *Exporter) book(took int, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err == nil {
		x.st.Messages++
		x.st.Octets += uint64(len(x.buf))
		x.st.LastError = ""
		x.st.Saturated = x.enc.Saturated
	}
	for i := range took {
		f := &x.batch[i]
		if err != nil {
			x.drop(f, &x.st.Refused)
			continue
		}
		x.st.Sent++
		x.st.Packets += f.Packets + f.RevPackets
	}
	x.head = (x.head + took) % len(x.queue)
	x.n -= took
}

// write sends the message in buf. Over UDP an error may be an earlier datagram's: it is tried twice.
func (x *Exporter) write(ctx context.Context) error {
	deadline := time.Now().Add(writePatience)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := x.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	_, err := x.conn.Write(x.buf)
	if err != nil && x.cfg.Transport == "udp" {
		_, err = x.conn.Write(x.buf)
	}
	return err
}

func (x *Exporter) connect(ctx context.Context) error {
	if x.conn != nil {
		if x.Status().Connected {
			return nil
		}
		x.close() // the collector has gone
	}
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	var conn net.Conn
	var err error
	if x.cfg.Transport == "tls" {
		conn, err = (&tls.Dialer{Config: x.cfg.TLS}).DialContext(ctx, "tcp", x.cfg.Address)
	} else {
		conn, err = new(net.Dialer).DialContext(ctx, x.cfg.Transport, x.cfg.Address)
	}
	if err != nil {
		return err
	}
	x.conn = conn
	x.mu.Lock()
	if x.st.Messages > 0 {
		x.st.Reconnects++
	}
	x.st.Connected = true
	x.mu.Unlock()
	if x.cfg.Transport != "udp" {
		x.enc.Reset()
		x.templated = time.Time{}
		// A collector says nothing; but that it has gone is only heard by who listens.
		x.listening.Go(func() {
			_, _ = io.Copy(io.Discard, conn)
			x.mu.Lock()
			x.st.Connected = false // the next message connects again
			x.mu.Unlock()
			_ = conn.Close()
		})
	}
	return nil
}

func (x *Exporter) close() {
	if x.conn != nil {
		_ = x.conn.Close() // nothing is buffered in it
		x.conn = nil
		x.listening.Wait()
	}
	x.mu.Lock()
	x.st.Connected = false
	x.mu.Unlock()
}
