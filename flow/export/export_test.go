package export

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"opentap/internal/await"
	"opentap/wire/netflow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func exporter(t *testing.T, c Config) *Exporter {
	t.Helper()
	c.Linger = 5 * time.Millisecond
	x, err := New(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// wantIdentity demands that each record given is somewhere.
func wantIdentity(t *testing.T, x *Exporter, given uint64) Status {
	t.Helper()
	s := x.Status()
	if s.Sent+uint64(s.Waiting)+s.Full+s.Untakeable+s.Refused != given {
		t.Errorf("%d records given, %+v", given, s)
	}
	return s
}

// message reads one IPFIX message from a stream.
func message(c net.Conn) ([]byte, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, err
	}
	b = append(b, make([]byte, int(binary.BigEndian.Uint16(b[2:]))-16)...)
	_, err := io.ReadFull(c, b[16:])
	return b, err
}

func sequence(b []byte) uint32   { return binary.BigEndian.Uint32(b[8:]) }
func hasTemplates(b []byte) bool { return len(b) > 16 && binary.BigEndian.Uint16(b[16:]) == 2 }

// dataRecords counts the flow records of a message by the lengths of its sets.
func dataRecords(b []byte) (n int) {
	for b = b[16:]; len(b) >= 4; b = b[binary.BigEndian.Uint16(b[2:]):] {
		switch size := int(binary.BigEndian.Uint16(b[2:])) - 4; binary.BigEndian.Uint16(b) {
		case 256:
			n += size / 67
		case 257:
			n += size / 91
		}
	}
	return n
}

// TestTCPReconnects breaks the connection: the exporter connects again, begins a new session with templates and sequence
// number 0, and loses no record of those that were given while there was none.
func TestTCPReconnects(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reconnects(t, l, Config{Version: netflow.IPFIX, Transport: "tcp", Address: l.Addr().String()})
}

func TestTLS(t *testing.T) {
	certFile, keyFile, roots := keyPair(t, t.TempDir())
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := Config{Version: netflow.IPFIX, Transport: "tls", Address: l.Addr().String(), TLS: &tls.Config{RootCAs: roots, ServerName: "collector"}}
	reconnects(t, l, c)

	// A stranger's certificate is not trusted, and nothing is sent.
	c.TLS = &tls.Config{ServerName: "collector"}
	x := exporter(t, c)
	go func() {
		if conn, err := l.Accept(); err == nil {
			_ = conn.(*tls.Conn).Handshake()
			_ = conn.Close()
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); x.Run(ctx) }()
	r := records(1, false)[0]
	x.Export(&r)
	await.Until(t, "refusal", func() bool { return x.Status().LastError != "" })
	_ = l.Close()
	cancel()
	<-done
	if s := wantIdentity(t, x, 1); s.Refused != 1 || s.Messages != 0 || s.Lost != r.Packets {
		t.Errorf("%+v", s)
	}
}

func reconnects(t *testing.T, l net.Listener, c Config) {
	t.Helper()
	x := exporter(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); x.Run(ctx) }()
	give := func(n int) {
		for _, r := range records(n, false) {
			x.Export(&r)
		}
	}
	for session := range 3 {
		give(100)
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		records := 0
		for first := true; records < 100; first = false {
			m, err := message(conn)
			if err != nil {
				t.Fatal(err)
			}
			// Of the data records before this message, one was the exporter's own statistics.
			want := uint32(0)
			if !first {
				want = uint32(records + 1)
			}
			if hasTemplates(m) != first || sequence(m) != want {
				t.Fatalf("session %d: templates %v, sequence %d, want %d", session, hasTemplates(m), sequence(m), want)
			}
			records += dataRecords(m)
		}
		_ = conn.Close()
		await.Until(t, "noticing", func() bool { // it may be connected again already
			s := x.Status()
			return (!s.Connected || s.Reconnects > uint64(session)) && s.Waiting == 0
		})
	}
	cancel()
	<-done
	if s := wantIdentity(t, x, 300); s.Sent != 300 || s.Reconnects < 2 || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
}

// TestNobodyThere fills the queue while there is no collector: everything is accounted for, and Export never waits.
func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	x := exporter(t, Config{Version: netflow.IPFIX, Transport: "tcp", Address: address, Queue: 50})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); x.Run(ctx) }()
	var packets uint64
	for _, r := range records(200, true) {
		packets += r.Packets + r.RevPackets
		x.Export(&r)
	}
	if s := wantIdentity(t, x, 200); s.Full != 150 || s.Waiting != 50 {
		t.Errorf("%+v", s)
	}
	cancel()
	<-done
	if s := wantIdentity(t, x, 200); s.Refused != 50 || s.Lost != packets || s.Packets != 0 {
		t.Errorf("%+v, want %d packets lost", s, packets)
	}
}

// TestTemplatesAreSentAgain over UDP, by the number of messages and by time.
func TestTemplatesAreSentAgain(t *testing.T) {
	sock, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	x := exporter(t, Config{Version: netflow.IPFIX, Transport: "udp", Address: sock.LocalAddr().String(), TemplateMessages: 3, TemplateEvery: time.Hour})
	for _, r := range records(300, false) {
		x.Export(&r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x.Run(ctx)
	n := x.Status().Messages
	b := make([]byte, 2000)
	for i := range n {
		size, _, err := sock.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := hasTemplates(b[:size]), i%3 == 0; got != want {
			t.Errorf("message %d: templates %v", i, got)
		}
	}
	if n < 6 {
		t.Errorf("%d messages", n)
	}
	if s := wantIdentity(t, x, 300); s.Sent != 300 {
		t.Errorf("%+v", s)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []Config{
		{Version: netflow.V9, Transport: "tcp", Address: "a:1"},
		{Version: netflow.IPFIX, Transport: "sctp", Address: "a:1"},
		{Version: netflow.IPFIX, Transport: "udp", Address: "a"},
		{Version: 3, Transport: "udp", Address: "a:1"},
		{Version: netflow.IPFIX, Transport: "udp", Address: "a:1", Queue: -1},
		{Version: netflow.V5, Transport: "udp", Address: "a:1", Biflow: true},
	} {
		if _, err := New(c, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

func TestExportDoesNotAllocate(t *testing.T) {
	x := exporter(t, Config{Version: netflow.V9, Transport: "udp", Address: "127.0.0.1:9", Queue: 100})
	r := records(1, true)[0]
	if n := testing.AllocsPerRun(1000, func() { x.Export(&r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
