package client_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	v1 "opentap/api/v1"

	"opentap/api/doortest"
	"opentap/api/httpapi"
	"opentap/client"
	"opentap/fault"
	"opentap/want"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newPair(t *testing.T, token string) (*doortest.Controller, *client.Client) {
	t.Helper()
	ctl := doortest.New()
	gate, err := httpapi.NewGate(httpapi.Config{Auth: doortest.Users()})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = gate.Server(gate.Handler(v1.New(ctl, v1.Config{Version: "1.2.3"})))
	srv.Start()
	c, err := client.New(client.Config{URL: srv.URL + "/", Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); srv.Close() })
	return ctl, c
}

func TestEveryCall(t *testing.T) {
	_, c := newPair(t, "admin")
	ctx := t.Context()
	if v, err := c.Version(ctx); err != nil || v.Version != "1.2.3" {
		t.Error(v, err)
	}
	if l, err := c.Points(ctx); err != nil || len(l) != 3 || l[0].SpeedBPS != 1e9 {
		t.Error(l, err)
	}
	if p, err := c.Point(ctx, "coretemp/Core 0"); err != nil || p.Unit != "Cel" {
		t.Error(p, err)
	}
	if v, err := c.Capabilities(ctx); err != nil || v.RetentionDefault != want.Duration(time.Hour) {
		t.Error(v, err)
	}
	if l, err := c.Nodes(ctx); err != nil || len(l) != 1 {
		t.Error(l, err)
	}
	if tok, err := c.CreateToken(ctx, want.TokenRequest{Name: "ci", Role: "viewer"}); err != nil || tok.Token == "" {
		t.Error(tok, err)
	}
	if l, err := c.Tokens(ctx); err != nil || len(l) != 1 {
		t.Error(l, err)
	}
	if tok, err := c.RevokeToken(ctx, "ci"); err != nil || tok.Revoked.IsZero() {
		t.Error(tok, err)
	}
	if f, e, err := c.CheckFilter(ctx, "tcp", true); err != nil || f != "(tcp)" || e == "" {
		t.Error(f, e, err)
	}
	for _, id := range []string{"plain", "a/b", "..", ".", "%2F?#", "ü ", "a;b=c&d"} {
		q := want.Request{ID: id, Kind: want.Packets, Duration: want.Duration(5 * time.Second), From: doortest.Epoch}
		if v, created, err := c.Create(ctx, q); err != nil || !created || v.ID != id {
			t.Fatal(id, v, created, err)
		}
		if _, created, err := c.Create(ctx, q); err != nil || created {
			t.Error(id, created, err)
		}
		if v, err := c.Capture(ctx, id); err != nil || v.ID != id || v.Status.Ledger.Seen != 150 {
			t.Error(id, v, err)
		}
		if v, err := c.Stop(ctx, id); err != nil || !v.Status.State.Final() {
			t.Error(id, v, err)
		}
		if l, err := c.Ledger(ctx, id); err != nil || l.ID != id || !l.Final || l.Ledger.Captured != 100 {
			t.Error(id, l, err)
		}
		if l, err := c.Captures(ctx); err != nil || len(l) != 1 {
			t.Error(l, err)
		}
		if err := c.Delete(ctx, id); err != nil {
			t.Error(id, err)
		}
		if _, err := c.Capture(ctx, id); !fault.Is(err, fault.NotFound) {
			t.Error(id, err)
		}
	}
}

func TestErrorsComeBack(t *testing.T) {
	ctl, c := newPair(t, "admin")
	for _, sent := range []*fault.Error{
		{Kind: fault.Invalid, Msg: "m", Field: "filter", Hint: "h", Pos: 3},
		{Kind: fault.Forbidden, Msg: "m"},
		{Kind: fault.Conflict, Msg: "m"},
		{Kind: fault.Unsupported, Msg: "m", Hint: "h"},
		{Kind: fault.Exhausted, Msg: "m"},
		{Kind: fault.Unavailable, Msg: "m", RetryAfter: 3 * time.Second},
		{Kind: fault.NotReady, Msg: "m", RetryAfter: time.Second},
	} {
		ctl.Fail["Points"] = sent
		_, err := c.Points(t.Context())
		var got *fault.Error
		if !errors.As(err, &got) || *got != *sent {
			t.Errorf("sent %+v, got %+v", sent, err)
		}
	}
	_, wrong := newPair(t, "wrong")
	if _, err := wrong.Points(t.Context()); !fault.Is(err, fault.Unauthenticated) {
		t.Error(err)
	}
	nobody, err := client.New(client.Config{URL: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	var lost *client.ConnectError
	if _, err := nobody.Points(t.Context()); !errors.As(err, &lost) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := nobody.Points(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, bad := range []string{"", "127.0.0.1:2020", "ftp://x", "http://", "http://user:pw@x", "http://x?token=y", "http://x#y"} {
		if _, err := client.New(client.Config{URL: bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestForeignServers meets answers that are not ours.
func TestForeignServers(t *testing.T) {
	var seen []string
	var mu sync.Mutex
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.URL.Path)
		mu.Unlock()
		switch r.URL.Path {
		case "/v1/version":
			_, _ = w.Write([]byte("<html>"))
		case "/v1/points":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		default:
			http.Error(w, "bad gateway", http.StatusBadGateway)
		}
	}))
	defer srv.Close()
	c, err := client.New(client.Config{URL: srv.URL, Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Version(t.Context()); err == nil {
		t.Error("a page was taken for a version")
	}
	if _, err := c.Points(t.Context()); err == nil {
		t.Error("a redirect was taken for an answer")
	}
	if _, err := c.Nodes(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if slices.Contains(seen, "/elsewhere") {
		t.Error("the redirect was followed")
	}
}

// memory is an io.WriterAt.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(m.b) {
		m.b = append(m.b, make([]byte, need-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func TestDownload(t *testing.T) {
	ctl, c := newPair(t, "admin")
	ctx := t.Context()
	ctl.Payload = bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if _, _, err := c.Create(ctx, want.Request{ID: "x", Kind: want.Packets}); err != nil {
		t.Fatal(err)
	}
	t.Run("whole", func(t *testing.T) {
		var m memory
		var p client.Part
		last := int64(-1)
		err := c.Download(ctx, "x", want.Pcap, &m, &p, func(p client.Part) error {
			if p.Offset < last {
				t.Error("went backwards")
			}
			last = p.Offset
			return nil
		})
		if err != nil || !bytes.Equal(m.b, ctl.Payload) || p.Offset != p.Size || last != p.Size {
			t.Error(len(m.b), p, err)
		}
		if err := c.Download(ctx, "x", want.Pcap, &m, &p, nil); err != nil || p.Restarted || !bytes.Equal(m.b, ctl.Payload) {
			t.Error("again:", p, err)
		}
	})
	t.Run("broken again and again", func(t *testing.T) {
		ctl.Broken = 300_000
		defer func() { ctl.Broken = 0 }()
		var m memory
		var p client.Part
		if err := c.Download(ctx, "x", want.Pcap, &m, &p, nil); err != nil || !bytes.Equal(m.b, ctl.Payload) {
			t.Error(len(m.b), p, err)
		}
		var b bytes.Buffer
		p = client.Part{}
		if err := c.Download(ctx, "x", want.Pcap, &client.Sequential{W: &b}, &p, nil); err != nil || !bytes.Equal(b.Bytes(), ctl.Payload) {
			t.Error(b.Len(), p, err)
		}
	})
	t.Run("another snapshot", func(t *testing.T) {
		m := memory{b: []byte("old old old")}
		p := client.Part{Offset: 5, Size: 11, ETag: "gone"}
		if err := c.Download(ctx, "x", want.Pcap, &m, &p, nil); err != nil || !p.Restarted || !bytes.Equal(m.b, ctl.Payload) {
			t.Error(len(m.b), p, err)
		}
		p = client.Part{Offset: 5, Size: 11, ETag: "gone"}
		if err := c.Download(ctx, "x", want.Pcap, &client.Sequential{W: &bytes.Buffer{}}, &p, nil); !fault.Is(err, fault.Conflict) {
			t.Error(err)
		}
	})
	t.Run("size unknown", func(t *testing.T) {
		ctl.Unsized = true
		defer func() { ctl.Unsized = false }()
		var m memory
		var p client.Part
		if err := c.Download(ctx, "x", want.Pcap, &m, &p, nil); err != nil || !bytes.Equal(m.b, ctl.Payload) || p.Size != -1 {
			t.Error(len(m.b), p, err)
		}
	})
	t.Run("given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		var m memory
		var p client.Part
		err := c.Download(ctx, "x", want.Pcap, &m, &p, func(p client.Part) error {
			if p.Offset > 0 {
				cancel()
			}
			return nil
		})
		cancel()
		if !errors.Is(err, context.Canceled) || p.Offset == 0 || p.ETag == "" {
			t.Error(p, err)
		}
		if err := c.Download(t.Context(), "x", want.Pcap, &m, &p, nil); err != nil || !bytes.Equal(m.b, ctl.Payload) {
			t.Error("gone on:", p, err)
		}
	})
	// The server learns that a reader has gone after the reader does.
	for deadline := time.Now().Add(10 * time.Second); ctl.Held() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d retrievals are still held", ctl.Held())
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	_, c := newPair(t, "admin")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			v, _, err := c.Create(t.Context(), want.Request{Kind: want.Packets})
			if err != nil {
				t.Error(err)
				return
			}
			var p client.Part
			if err := c.Download(t.Context(), v.ID, want.PcapNG, &memory{}, &p, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
