package session

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"opentap/wire/of13"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// events is a Handler that tells what it heard.
type events struct {
	up      chan *Session
	down    chan error
	refused chan error
	ports   chan *of13.PortStatus
}

func newEvents() *events {
	return &events{make(chan *Session, 10), make(chan error, 10), make(chan error, 10), make(chan *of13.PortStatus, 10)}
}

func (e *events) Up(s *Session)                              { e.up <- s }
func (e *events) Down(_ *Session, err error)                 { e.down <- err }
func (e *events) PortChanged(_ *Session, m *of13.PortStatus) { e.ports <- m }
func (e *events) PacketIn(*Session, *of13.PacketIn)          {}
func (e *events) RuleRemoved(*Session, *of13.FlowRemoved)    {}
func (e *events) Refused(_ net.Addr, err error)              { e.refused <- err }

// serve runs a server until the test ends.
func serve(t *testing.T, cfg Config, e *events, wrap func(net.Listener) net.Listener) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if wrap != nil {
		l = wrap(l)
	}
	serveOn(t, cfg, e, l)
	return addr
}

// serveOn does so on a listener.
func serveOn(t *testing.T, cfg Config, h Handler, l net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = NewServer(cfg, h, slog.New(slog.NewTextHandler(io.Discard, nil))).Run(ctx, l) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// fake is a switch that answers as it is told.
type fake struct {
	conn   net.Conn
	answer func(h of13.Header, m of13.Message) []of13.Message // nil = as a good switch does
	mu     sync.Mutex
}

func (f *fake) send(xid uint32, m of13.Message) {
	b, err := of13.Append(nil, xid, m)
	if err != nil {
		panic(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _ = f.conn.Write(b)
}

// good is what a good switch answers.
func good(m of13.Message) []of13.Message {
	switch m := m.(type) {
	case *of13.Bare:
		switch m.Kind {
		case of13.TypeFeaturesRequest:
			return []of13.Message{&of13.Features{DatapathID: 7, Tables: 1}}
		case of13.TypeBarrierRequest:
			return []of13.Message{&of13.Bare{Kind: of13.TypeBarrierReply}}
		}
	case *of13.Echo:
		if !m.Reply {
			return []of13.Message{&of13.Echo{Reply: true, Data: m.Data}}
		}
	case *of13.MultipartRequest:
		switch m.Part {
		case of13.PartDesc:
			return []of13.Message{&of13.MultipartReply{Part: m.Part, Desc: &of13.Desc{Software: "fake"}}}
		case of13.PartPortDesc: // in two parts
			return []of13.Message{
				&of13.MultipartReply{Part: m.Part, More: true, Ports: []of13.Port{{Number: 1, Name: "one"}}},
				&of13.MultipartReply{Part: m.Part, Ports: []of13.Port{{Number: 2, Name: "two"}}},
			}
		}
		return []of13.Message{&of13.MultipartReply{Part: m.Part}}
	}
	return nil
}

// run speaks until the connection ends.
func (f *fake) run() {
	f.send(1, &of13.Hello{Versions: []uint8{1, 4}})
	for {
		head := make([]byte, of13.HeaderLen)
		if _, err := io.ReadFull(f.conn, head); err != nil {
			return
		}
		h := of13.ParseHeader(head)
		b := append(head, make([]byte, int(h.Length)-len(head))...)
		if _, err := io.ReadFull(f.conn, b[of13.HeaderLen:]); err != nil {
			return
		}
		_, m, err := of13.Decode(b)
		if err != nil {
			panic(err)
		}
		var out []of13.Message
		if f.answer != nil {
			out = f.answer(h, m)
		} else {
			out = good(m)
		}
		for _, a := range out {
			f.send(h.XID, a)
		}
	}
}

func connect(t *testing.T, addr string, answer func(of13.Header, of13.Message) []of13.Message) *fake {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{conn: conn, answer: answer}
	done := make(chan struct{})
	go func() { defer close(done); f.run() }()
	t.Cleanup(func() { conn.Close(); <-done })
	return f
}

func get[T any](t *testing.T, what string, c chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("no %s", what)
	}
	panic("not reached")
}

func quick() Config {
	c := DefaultConfig()
	c.Handshake, c.Answer = 2*time.Second, 2*time.Second
	return c
}

func TestHandshake(t *testing.T) {
	e := newEvents()
	f := connect(t, serve(t, quick(), e, nil), nil)
	s := get(t, "switch", e.up)
	if s.Features().DatapathID != 7 || s.Desc().Software != "fake" || len(s.Ports()) != 2 || s.Ports()[2].Name != "two" {
		t.Errorf("%+v %+v %+v", s.Features(), s.Desc(), s.Ports())
	}
	f.send(0, &of13.PortStatus{Reason: of13.PortDeleted, Port: of13.Port{Number: 1}})
	get(t, "port", e.ports)
	if len(s.Ports()) != 1 {
		t.Errorf("%+v", s.Ports())
	}
	if err := s.Alive(context.Background()); err != nil {
		t.Error(err)
	}
	if err := s.Barrier(context.Background()); err != nil {
		t.Error(err)
	}
	f.conn.Close()
	if err := get(t, "end", e.down); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := s.Ask(context.Background(), &of13.Echo{}); err == nil {
		t.Error("a switch that is gone answers")
	}
}

func TestRefusalsComeWithTheirMessage(t *testing.T) {
	e := newEvents()
	connect(t, serve(t, quick(), e, nil), func(_ of13.Header, m of13.Message) []of13.Message {
		if f, ok := m.(*of13.FlowMod); ok && f.Priority%2 == 1 {
			return []of13.Message{&of13.Error{Class: of13.ErrFlowModFailed, Code: 1}}
		}
		if _, ok := m.(*of13.Experimenter); ok {
			return []of13.Message{&of13.Error{Class: of13.ErrBadRequest, Code: 3}}
		}
		return good(m)
	})
	s := get(t, "switch", e.up)
	var msgs []of13.Message
	for i := range 600 { // more than are under way at a time
		msgs = append(msgs, &of13.FlowMod{Priority: uint16(i)})
	}
	err := s.Commit(context.Background(), msgs)
	var m *ModError
	if !errors.As(err, &m) || m.Index != 1 || strings.Count(err.Error(), "table is full") != 300 {
		t.Errorf("%.200v", err)
	}
	if atomic, err := s.CommitAtomic(context.Background(), msgs[:1]); err != nil || atomic {
		t.Errorf("without bundles: %v, %v", atomic, err)
	}
}

func TestSwitchesThatMisbehave(t *testing.T) {
	for _, tt := range []struct {
		name, has string
		answer    func(f *fake) func(of13.Header, of13.Message) []of13.Message
	}{
		{"says nothing", "handshake", func(*fake) func(of13.Header, of13.Message) []of13.Message {
			return func(of13.Header, of13.Message) []of13.Message { return nil }
		}},
		{"answers something else", "answer is", func(*fake) func(of13.Header, of13.Message) []of13.Message {
			return func(h of13.Header, m of13.Message) []of13.Message {
				if m.Type() == of13.TypeFeaturesRequest {
					return []of13.Message{&of13.Bare{Kind: of13.TypeBarrierReply}}
				}
				return good(m)
			}
		}},
		{"answers another question", "asked for statistics", func(*fake) func(of13.Header, of13.Message) []of13.Message {
			return func(h of13.Header, m of13.Message) []of13.Message {
				if m.Type() == of13.TypeMultipartRequest {
					return []of13.Message{&of13.MultipartReply{Part: of13.PartTable}}
				}
				return good(m)
			}
		}},
		{"refuses", "not permitted", func(*fake) func(of13.Header, of13.Message) []of13.Message {
			return func(h of13.Header, m of13.Message) []of13.Message {
				if m.Type() == of13.TypeFeaturesRequest {
					return []of13.Message{&of13.Error{Class: of13.ErrBadRequest, Code: 5}}
				}
				return good(m)
			}
		}},
		{"never ends its answer", "parts", func(*fake) func(of13.Header, of13.Message) []of13.Message {
			return func(h of13.Header, m of13.Message) []of13.Message {
				if r, ok := m.(*of13.MultipartRequest); ok && r.Part == of13.PartPortDesc {
					var out []of13.Message
					for range maxParts + 1 {
						out = append(out, &of13.MultipartReply{Part: r.Part, More: true})
					}
					return out
				}
				return good(m)
			}
		}},
	} {
		e := newEvents()
		connect(t, serve(t, quick(), e, nil), tt.answer(nil))
		if err := get(t, "refusal: "+tt.name, e.refused); err == nil || !strings.Contains(err.Error(), tt.has) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.has)
		}
	}
}

func TestMalformedMessagesEndTheSession(t *testing.T) {
	for name, octets := range map[string][]byte{
		"a length below a header": {4, 10, 0, 4, 0, 0, 0, 0},
		"another version":         {1, 10, 0, 8, 0, 0, 0, 0},
		"a message cut short":     {4, 10, 0, 12, 0, 0, 0, 0, 1, 2, 3, 4},
		"a match of nonsense":     append([]byte{4, 10, 0, 40, 0, 0, 0, 0}, bytes.Repeat([]byte{0xff}, 32)...),
	} {
		e := newEvents()
		f := connect(t, serve(t, quick(), e, nil), nil)
		get(t, "switch", e.up)
		f.mu.Lock()
		_, _ = f.conn.Write(octets)
		f.mu.Unlock()
		if err := get(t, "end: "+name, e.down); err == nil || errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSilentSwitchIsGivenUp(t *testing.T) {
	cfg := quick()
	cfg.Echo = 100 * time.Millisecond
	e := newEvents()
	silent := false
	var mu sync.Mutex
	connect(t, serve(t, cfg, e, nil), func(_ of13.Header, m of13.Message) []of13.Message {
		mu.Lock()
		defer mu.Unlock()
		if silent {
			return nil
		}
		return good(m)
	})
	s := get(t, "switch", e.up)
	select { // it answers echoes, and so it stays
	case err := <-e.down:
		t.Fatal(err)
	case <-time.After(500 * time.Millisecond):
	}
	mu.Lock()
	silent = true
	mu.Unlock()
	if err := get(t, "end", e.down); err == nil || !strings.Contains(err.Error(), "said nothing") {
		t.Error(err)
	}
	<-s.Done()
}

func TestTooManySwitches(t *testing.T) {
	cfg := quick()
	cfg.Switches = 1
	e := newEvents()
	addr := serve(t, cfg, e, nil)
	connect(t, addr, nil)
	get(t, "switch", e.up)
	connect(t, addr, nil)
	if err := get(t, "refusal", e.refused); !strings.Contains(err.Error(), "too many") {
		t.Error(err)
	}
}

// authority makes certificates.
func authority(t *testing.T) (pool *x509.CertPool, issue func(name string) tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, _ = x509.ParseCertificate(der)
	pool = x509.NewCertPool()
	pool.AddCert(ca)
	return pool, func(name string) tls.Certificate {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &k.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
	}
}

func TestTLS(t *testing.T) {
	pool, issue := authority(t)
	_, stranger := authority(t)
	e := newEvents()
	server := &tls.Config{Certificates: []tls.Certificate{issue("controller")}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	addr := serve(t, quick(), e, func(l net.Listener) net.Listener { return tls.NewListener(l, server) })
	dial := func(c tls.Certificate) net.Conn {
		raw, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Client(raw, &tls.Config{Certificates: []tls.Certificate{c}, RootCAs: pool, ServerName: "controller"})
	}
	f := &fake{conn: dial(issue("switch"))}
	done := make(chan struct{})
	go func() { defer close(done); f.run() }()
	get(t, "switch", e.up)
	f.conn.Close()
	<-done
	bad := dial(stranger("switch"))
	defer bad.Close()
	_, _ = bad.Write([]byte{4, 0, 0, 8, 0, 0, 0, 0})
	if err := get(t, "refusal", e.refused); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a stranger: %v", err)
	}
}
