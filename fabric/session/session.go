// Package session holds OpenFlow connections: one Session a switch, and the Server that switches connect to.
//
// A Session negotiates the version, learns what the switch is, keeps the connection alive, and asks and tells. It knows
// nothing of what the rules are for.
//
// Runs in: controller
package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"opentap/wire/of13"
)

// Config bounds how long a switch may take.
type Config struct {
	Handshake time.Duration // for hello, features and descriptions together
	Answer    time.Duration // for any answer
	Echo      time.Duration // silence after which the switch is asked whether it lives, and again after which it is given up
	Switches  int           // connections at one time
	PacketIns int           // frames of one switch that are looked at, per second; whoever sends more is flooding
}

// DefaultConfig suits switches in one data centre.
func DefaultConfig() Config {
	return Config{Handshake: 10 * time.Second, Answer: 10 * time.Second, Echo: 5 * time.Second, Switches: 512, PacketIns: 5000}
}

// Handler hears what happens on sessions. Its methods are called one at a time for a session, from the goroutine that reads
// it: they must not wait for an answer of the same switch.
type Handler interface {
	Up(s *Session)              // the handshake is done; in a goroutine of its own, which may ask
	Down(s *Session, err error) // after Up alone; it ended
	PortChanged(s *Session, m *of13.PortStatus)
	PacketIn(s *Session, m *of13.PacketIn)
	RuleRemoved(s *Session, m *of13.FlowRemoved)
	Refused(remote net.Addr, err error) // a connection that never came up
}

// ErrClosed is the error of whoever waits on a session that ended.
var ErrClosed = errors.New("the connection to the switch has ended")

// maxParts bounds the messages of one multipart answer: a million rules come in some 2000.
const maxParts = 1 << 14

// Session is one connection with one switch. All methods may be called from any goroutine.
type Session struct {
	cfg     Config
	conn    net.Conn
	handler Handler
	log     *slog.Logger
	since   time.Time
	xid     atomic.Uint32
	heard   atomic.Int64  // Unix nanoseconds of the last octets from the switch
	came    atomic.Uint64 // frames that the switch sent us
	dropped atomic.Uint64 // those of them that were too many

	features of13.Features // since the handshake
	desc     of13.Desc

	writing sync.Mutex
	out     []byte // buffer of the writer

	mu      sync.Mutex
	ports   map[uint32]of13.Port
	pending map[uint32]*pending
	ended   bool
	done    chan struct{}
	why     error
}

// pending is a question without its answer.
type pending struct {
	parts  []*of13.MultipartReply
	answer chan answer
	index  int // of a mod in its commit
}

type answer struct {
	m     of13.Message
	parts []*of13.MultipartReply
	err   error
	index int
}

// New makes a session on a connection. It touches nothing; Run does.
func New(conn net.Conn, cfg Config, h Handler, log *slog.Logger) *Session {
	return &Session{
		cfg: cfg, conn: conn, handler: h, log: log.With("switch_address", conn.RemoteAddr().String()), since: time.Now(),
		ports: make(map[uint32]of13.Port), pending: make(map[uint32]*pending), done: make(chan struct{}),
	}
}

// Features is what the switch said in the handshake.
func (s *Session) Features() of13.Features { return s.features }

// Desc is what the switch says of itself; hostile text.
func (s *Session) Desc() of13.Desc { return s.desc }

// Since is when it connected.
func (s *Session) Since() time.Time { return s.since }

// Remote is the switch's address.
func (s *Session) Remote() net.Addr { return s.conn.RemoteAddr() }

// PacketIns returns how many frames the switch has sent us, and how many of them were too many to be looked at.
func (s *Session) PacketIns() (came, dropped uint64) { return s.came.Load(), s.dropped.Load() }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Ports are the switch's ports as last heard, by number.
func (s *Session) Ports() map[uint32]of13.Port {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[uint32]of13.Port, len(s.ports))
	for n, p := range s.ports {
		out[n] = p
	}
	return out
}

// Close ends the session for a reason; Run returns it.
func (s *Session) Close(why error) {
	s.mu.Lock()
	if s.why == nil {
		s.why = why
	}
	s.mu.Unlock()
	s.conn.Close()
}

// Run speaks with the switch until ctx ends or the connection does, and joins what it started. The error says why it ended;
// nil when ctx did.
func (s *Session) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		s.conn.Close()
	})
	in := bufio.NewReaderSize(s.conn, 1<<16)
	if err := s.hello(in); err != nil {
		s.finish(err)
		s.handler.Refused(s.Remote(), err)
		return err
	}
	up := make(chan struct{})
	wg.Go(func() {
		if err := s.introduce(ctx); err != nil {
			s.Close(fmt.Errorf("handshake: %w", err))
			return
		}
		close(up)
		s.handler.Up(s)
	})
	wg.Go(func() { s.keepAlive(ctx) })
	err := s.read(in)
	s.mu.Lock()
	if s.why != nil {
		err = s.why
	}
	s.mu.Unlock()
	s.finish(err)
	select {
	case <-up:
		s.handler.Down(s, err)
	default:
		s.handler.Refused(s.Remote(), err)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// hello negotiates the version (section 6.3.1).
func (s *Session) hello(in *bufio.Reader) error {
	_ = s.conn.SetReadDeadline(time.Now().Add(s.cfg.Handshake))
	if _, err := s.Send(&of13.Hello{Versions: []uint8{of13.Version}}); err != nil {
		return err
	}
	head, err := in.Peek(of13.HeaderLen)
	if err != nil {
		return fmt.Errorf("wait for the switch's hello: %w", err)
	}
	// Whoever speaks another protocol would be waited for: what looks like a length may be anything.
	if h := of13.ParseHeader(head); h.Version == 0 || h.Version > 0x3f || h.Length > 1024 || h.Type != of13.TypeHello && h.Type != of13.TypeError {
		return fmt.Errorf("the connection begins with octets %x, not with a hello: this is no OpenFlow switch", head)
	}
	h, m, err := readMessage(in)
	if err != nil {
		return fmt.Errorf("read the switch's hello: %w", err)
	}
	if e, ok := m.(*of13.Error); ok {
		return e
	}
	hello, ok := m.(*of13.Hello)
	if !ok {
		return fmt.Errorf("the connection begins with %s, not with a hello: this is no OpenFlow switch", h.Type)
	}
	if _, err := of13.Negotiate(h.Version, hello, of13.Version); err != nil {
		_, _ = s.Send(&of13.Error{Class: of13.ErrHelloFailed, Code: 0, Data: []byte("OpenFlow 1.3 is needed")})
		return fmt.Errorf("%w: allow it there (of Open vSwitch: ovs-vsctl set bridge NAME protocols=OpenFlow13)", err)
	}
	_ = s.conn.SetReadDeadline(time.Time{})
	s.heard.Store(time.Now().UnixNano())
	return nil
}

// introduce asks what the switch is. It runs beside the reader.
func (s *Session) introduce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Handshake)
	defer cancel()
	m, err := s.Ask(ctx, &of13.Bare{Kind: of13.TypeFeaturesRequest})
	if err != nil {
		return fmt.Errorf("features: %w", err)
	}
	f, ok := m.(*of13.Features)
	if !ok {
		return fmt.Errorf("features: the answer is %s", m.Type())
	}
	if f.Auxiliary != 0 {
		return errors.New("auxiliary connections are not used")
	}
	s.features = *f
	if _, err := s.Send(&of13.SwitchConfig{MissSendLen: 0xffff}); err != nil {
		return err
	}
	parts, err := s.Multipart(ctx, of13.Ask(of13.PartDesc))
	if err != nil {
		return fmt.Errorf("description: %w", err)
	}
	for _, p := range parts {
		if p.Desc != nil {
			s.desc = *p.Desc
		}
	}
	if parts, err = s.Multipart(ctx, of13.Ask(of13.PartPortDesc)); err != nil {
		return fmt.Errorf("ports: %w", err)
	}
	s.mu.Lock()
	for _, part := range parts {
		for _, p := range part.Ports {
			if _, newer := s.ports[p.Number]; !newer { // a port-status that came meanwhile is newer
				s.ports[p.Number] = p
			}
		}
	}
	s.mu.Unlock()
	return nil
}

// keepAlive asks a silent switch whether it lives (section 6.3.2), and closes when it does not say.
func (s *Session) keepAlive(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Echo / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.done:
			return
		case <-ctx.Done():
			return
		}
		switch silence := time.Since(time.Unix(0, s.heard.Load())); {
		case silence > 2*s.cfg.Echo:
			s.Close(fmt.Errorf("the switch has said nothing for %s", silence.Round(time.Millisecond)))
			return
		case silence > s.cfg.Echo:
			_, _ = s.Send(&of13.Echo{})
		}
	}
}

// Alive asks the switch whether it lives, and waits for the answer.
func (s *Session) Alive(ctx context.Context) error {
	_, err := s.Ask(ctx, &of13.Echo{})
	return err
}

func readMessage(in *bufio.Reader) (of13.Header, of13.Message, error) {
	var head [of13.HeaderLen]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return of13.Header{}, nil, err
	}
	h := of13.ParseHeader(head[:])
	if h.Length < of13.HeaderLen {
		return h, nil, fmt.Errorf("a %s of %d octets", h.Type, h.Length)
	}
	b := make([]byte, h.Length)
	copy(b, head[:])
	if _, err := io.ReadFull(in, b[of13.HeaderLen:]); err != nil {
		return h, nil, err
	}
	return of13.Decode(b)
}

// read hands out what comes, until the connection ends. A message that makes no sense ends it: what follows would not
// either.
func (s *Session) read(in *bufio.Reader) error {
	var second time.Time // in which frames are counted
	frames := 0
	for {
		h, m, err := readMessage(in)
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return ErrClosed
			}
			return err
		}
		s.heard.Store(time.Now().UnixNano())
		switch m := m.(type) {
		case *of13.Echo:
			if !m.Reply {
				if err := s.send(h.XID, &of13.Echo{Reply: true, Data: m.Data}); err != nil {
					return err
				}
				continue
			}
			s.answer(h.XID, answer{m: m})
		case *of13.PortStatus:
			s.mu.Lock()
			if m.Reason == of13.PortDeleted {
				delete(s.ports, m.Port.Number)
			} else if _, known := s.ports[m.Port.Number]; known || len(s.ports) < maxPorts {
				s.ports[m.Port.Number] = m.Port
			}
			s.mu.Unlock()
			s.handler.PortChanged(s, m)
		case *of13.PacketIn:
			s.came.Add(1)
			if now := time.Now(); now.Sub(second) >= time.Second {
				second, frames = now, 0
			}
			if frames++; frames > s.cfg.PacketIns {
				s.dropped.Add(1)
				continue
			}
			s.handler.PacketIn(s, m)
		case *of13.FlowRemoved:
			s.handler.RuleRemoved(s, m)
		case *of13.Error:
			if !s.answer(h.XID, answer{err: m}) {
				level := slog.LevelWarn
				if m.Slave() { // of a frame that was on its way when another controller was elected
					level = slog.LevelDebug
				}
				s.log.Log(context.Background(), level, "the switch refused something", "err", m)
			}
		case *of13.MultipartReply:
			s.collect(h.XID, m)
		case *of13.Hello:
		default:
			s.answer(h.XID, answer{m: m})
		}
	}
}

// maxPorts is more than any switch has: one that lies must not fill our memory.
const maxPorts = 1 << 16

// answer gives a question its answer; false when nobody asked.
func (s *Session) answer(xid uint32, a answer) bool {
	s.mu.Lock()
	p := s.pending[xid]
	delete(s.pending, xid)
	s.mu.Unlock()
	if p == nil {
		return false
	}
	a.index = p.index
	p.answer <- a // has room
	return true
}

// collect gathers the parts of an answer.
func (s *Session) collect(xid uint32, m *of13.MultipartReply) {
	s.mu.Lock()
	p := s.pending[xid]
	if p == nil {
		s.mu.Unlock()
		return
	}
	p.parts = append(p.parts, m)
	complete, long := !m.More, len(p.parts) > maxParts
	parts := p.parts
	s.mu.Unlock()
	switch {
	case long:
		s.answer(xid, answer{err: fmt.Errorf("the answer has more than %d parts", maxParts)})
	case complete:
		s.answer(xid, answer{parts: parts})
	}
}

// finish wakes whoever waits.
func (s *Session) finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	if s.why == nil {
		s.why = err
	}
	close(s.done)
}

// Send sends a message that has no answer, and returns its number.
func (s *Session) Send(m of13.Message) (uint32, error) {
	xid := s.xid.Add(1)
	return xid, s.send(xid, m)
}

func (s *Session) send(xid uint32, m of13.Message) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	b, err := of13.Append(s.out[:0], xid, m)
	if err != nil {
		return err
	}
	s.out = b
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.cfg.Answer))
	if _, err := s.conn.Write(b); err != nil {
		s.conn.Close() // half a message may have gone: nothing can follow
		return fmt.Errorf("send %s: %w", m.Type(), err)
	}
	return nil
}

// expect registers a question before it is sent.
func (s *Session) expect(ch chan answer, index int) uint32 {
	xid := s.xid.Add(1)
	s.mu.Lock()
	s.pending[xid] = &pending{answer: ch, index: index}
	s.mu.Unlock()
	return xid
}

func (s *Session) forget(xids ...uint32) {
	s.mu.Lock()
	for _, x := range xids {
		delete(s.pending, x)
	}
	s.mu.Unlock()
}

func (s *Session) wait(ctx context.Context, ch chan answer) (answer, error) {
	timer := time.NewTimer(s.cfg.Answer)
	defer timer.Stop()
	select {
	case a := <-ch:
		return a, a.err
	case <-s.done:
		return answer{}, ErrClosed
	case <-ctx.Done():
		return answer{}, ctx.Err()
	case <-timer.C:
		return answer{}, fmt.Errorf("no answer within %s", s.cfg.Answer)
	}
}

// Ask sends a question and returns its answer. A refusal is an *of13.Error.
func (s *Session) Ask(ctx context.Context, m of13.Message) (of13.Message, error) {
	ch := make(chan answer, 1)
	xid := s.expect(ch, 0)
	defer s.forget(xid)
	if err := s.send(xid, m); err != nil {
		return nil, err
	}
	a, err := s.wait(ctx, ch)
	if err == nil && a.m == nil {
		err = errors.New("the answer is of another kind")
	}
	return a.m, err
}

// Multipart asks for statistics and returns all parts of the answer.
func (s *Session) Multipart(ctx context.Context, m *of13.MultipartRequest) ([]*of13.MultipartReply, error) {
	ch := make(chan answer, 1)
	xid := s.expect(ch, 0)
	defer s.forget(xid)
	if err := s.send(xid, m); err != nil {
		return nil, err
	}
	a, err := s.wait(ctx, ch)
	for _, p := range a.parts {
		if p.Part != m.Part && err == nil {
			err = fmt.Errorf("asked for statistics of kind %d, the switch answered kind %d", m.Part, p.Part)
		}
	}
	return a.parts, err
}
