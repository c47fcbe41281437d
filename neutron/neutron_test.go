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
	pages  []string // of ports
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

type keeper struct{ got [][]tap.Port }

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
		`[{"id":"` + one + `","name":"web","project_id":"red","network_id":"n","mac_address":"FA:16:3E:00:00:01","binding:host_id":"host1"},{"id":"x","project_id":"red"}]`,
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
			{ID: one, Name: "web", Project: "red", Network: "n", MAC: "fa:16:3e:00:00:01", Node: "host1"},
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

func (f keeperFunc) SyncPorts(context.Context, []tap.Port) error { f(); return nil }

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
