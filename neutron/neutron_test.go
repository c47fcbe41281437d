package neutron

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"opentap/tap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cloud is as much of Keystone and Neutron as a reader asks for.
type cloud struct {
	srv    *httptest.Server
	asked  []string // bodies of POST /v3/auth/tokens
	broken bool
	pages  []string         // of ports
	ports  http.HandlerFunc // set: it answers instead
}

func newCloud(t *testing.T) *cloud {
	c := &cloud{pages: []string{`[]`}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v3/auth/tokens", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		c.asked = append(c.asked, string(b))
		if strings.Contains(string(b), "wrong") {
			http.Error(w, `{"error":{"code":401,"title":"Unauthorized","message":"no"}}`, http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-Subject-Token", "tok")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"token": map[string]any{"catalog": []any{map[string]any{
			"type": "network", "endpoints": []any{map[string]any{"interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": c.srv.URL}},
		}}}})
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"versions":[{"id":"v2.0","status":"CURRENT","links":[{"rel":"self","href":"`+c.srv.URL+`/v2.0/"}]}]}`)
	})
	mux.HandleFunc("GET /v2.0/ports", func(w http.ResponseWriter, r *http.Request) {
		if c.ports != nil {
			c.ports(w, r)
			return
		}
		if r.Header.Get("X-Auth-Token") != "tok" || c.broken {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		page, links := c.pages[0], ""
		if r.URL.Query().Get("marker") != "" {
			page = c.pages[1]
		} else if len(c.pages) > 1 {
			links = `,"ports_links":[{"rel":"next","href":"` + c.srv.URL + `/v2.0/ports?marker=x"}]`
		}
		_, _ = io.WriteString(w, `{"ports":`+page+links+`}`)
	})
	c.srv = httptest.NewServer(mux)
	t.Cleanup(c.srv.Close)
	return c
}

type keeper struct {
	got      [][]tap.Port
	disputed chan struct{}
}

func (k *keeper) Disputed() <-chan struct{} { return k.disputed }

func (k *keeper) SyncPorts(_ context.Context, list []tap.Port) error {
	k.got = append(k.got, list)
	return nil
}

const (
	one = "11111111-1111-4111-8111-111111111111"
	two = "22222222-2222-4222-8222-222222222222"
)

func TestPortsAreRead(t *testing.T) {
	c, k := newCloud(t), &keeper{}
	c.pages = []string{
		`[{"id":"` + one + `","name":"web","project_id":"red","network_id":"44444444-4444-4444-8444-444444444444","mac_address":"FA:16:3E:00:00:01","binding:host_id":"host1"},{"id":"x","project_id":"red"}]`,
		`[{"id":"` + two + `","name":"","tenant_id":"blue","mac_address":"fa:16:3e:00:00:02"},{"id":"33333333-3333-4333-8333-333333333333","project_id":""}]`,
	}
	for name, cfg := range map[string]Config{
		"application credential": {AuthURL: c.srv.URL + "/v3", CredentialID: "id", CredentialSecret: "secret"},
		"user":                   {AuthURL: c.srv.URL + "/v3/", Username: "u", Password: "p", Project: "service"},
	} {
		r, err := New(cfg, k, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Look(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r.http.CloseIdleConnections()
		want := []tap.Port{
			{ID: one, Name: "web", Project: "red", Network: "44444444-4444-4444-8444-444444444444", MAC: "fa:16:3e:00:00:01", Node: "host1"},
			{ID: two, Project: "blue", MAC: "fa:16:3e:00:00:02"},
		}
		if got := k.got[len(k.got)-1]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

func TestALookThatFailsHandsNothingOver(t *testing.T) {
	c, k := newCloud(t), &keeper{}
	r, err := New(Config{AuthURL: c.srv.URL + "/v3", CredentialID: "id", CredentialSecret: "wrong"}, k, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer r.http.CloseIdleConnections()
	if err := r.Look(t.Context()); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong secret: %v", err)
	}
	r.cfg.CredentialSecret, c.broken = "right", true
	if err := r.Look(t.Context()); err == nil {
		t.Error("a broken Neutron was believed")
	}
	c.broken, c.pages = false, []string{`{"not":"a list"}`}
	if err := r.Look(t.Context()); err == nil {
		t.Error("nonsense was believed")
	}
	if len(k.got) != 0 {
		t.Errorf("handed over: %+v", k.got)
	}
}

func TestRunLooksAgain(t *testing.T) {
	c := newCloud(t)
	looks := make(chan int, 10)
	n := 0
	r, err := New(Config{AuthURL: c.srv.URL + "/v3", CredentialID: "id", CredentialSecret: "s", Every: time.Millisecond}, keeperFunc(func() {
		n++
		select {
		case looks <- n:
		default:
		}
	}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	for seen := 0; seen < 3; {
		select {
		case seen = <-looks:
		case <-time.After(20 * time.Second):
			t.Fatal("it does not look again")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type keeperFunc func()

func (f keeperFunc) Disputed() <-chan struct{} { return nil }

func (f keeperFunc) SyncPorts(context.Context, []tap.Port) error { f(); return nil }

// When a host says that it has a port which is on another one there, it is looked soon again, for it may have moved.
func TestADisputedPortIsLookedAtSoon(t *testing.T) {
	c, k := newCloud(t), &counted{looks: make(chan int, 10), disputed: make(chan struct{}, 1)}
	r, err := New(Config{AuthURL: c.srv.URL + "/v3", CredentialID: "id", CredentialSecret: "s", Every: time.Hour}, k, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	look := func() int {
		select {
		case n := <-k.looks:
			return n
		case <-time.After(20 * time.Second):
			t.Fatal("it does not look")
			return 0
		}
	}
	look()
	k.disputed <- struct{}{}
	look()
	look() // Neutron knows of a move a moment after the host does
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// counted tells of each look.
type counted struct {
	n        int
	looks    chan int
	disputed chan struct{}
}

func (k *counted) SyncPorts(context.Context, []tap.Port) error {
	k.n++
	k.looks <- k.n
	return nil
}

func (k *counted) Disputed() <-chan struct{} { return k.disputed }

// The token goes to nobody else, and an answer without end is none.
func TestNeutronIsBelievedWithinBounds(t *testing.T) {
	var stolen atomic.Value
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stolen.Store(r.Header.Get("X-Auth-Token"))
		_, _ = io.WriteString(w, `{"ports":[]}`)
	}))
	t.Cleanup(thief.Close)
	for name, answer := range map[string]http.HandlerFunc{
		"sends elsewhere": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, thief.URL, http.StatusFound) },
		"never ends": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"ports":[{"name":"`)
			line := strings.Repeat("x", 1<<20)
			for err := error(nil); err == nil; {
				_, err = io.WriteString(w, line)
			}
		},
	} {
		c, k := newCloud(t), &keeper{}
		c.ports = answer
		r, err := New(Config{AuthURL: c.srv.URL + "/v3", CredentialID: "id", CredentialSecret: "s"}, k, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Look(t.Context()); err == nil {
			t.Errorf("%s: believed", name)
		}
		r.http.CloseIdleConnections()
	}
	if got := stolen.Load(); got != nil {
		t.Errorf("another host got the token %q", got)
	}
}

func TestWrongConfigurations(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no address":         {AuthURL: "keystone", CredentialID: "x"},
		"nobody":             {AuthURL: "https://k"},
		"two":                {AuthURL: "https://k", CredentialID: "x", Username: "u", Project: "p"},
		"user, no project":   {AuthURL: "https://k", Username: "u"},
		"no authority there": {AuthURL: "https://k", CredentialID: "x", CAFile: "/nonexistent"},
	} {
		if _, err := New(cfg, nil, nil); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
