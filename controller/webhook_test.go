package controller

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/want"
)

// Targets of the configuration are told when it begins and when it is over, and are followed nowhere; what the environment says of
// proxies means nothing.
func TestWebhooks(t *testing.T) {
	got := make(chan want.Detection, 8)
	elsewhere := make(chan struct{}, 8)
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere <- struct{}{} }))
	defer other.Close()
	t.Setenv("HTTP_PROXY", other.URL)
	t.Setenv("http_proxy", other.URL)
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
			return
		}
		var e want.Detection
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil || r.Method != "POST" {
			t.Error(err, r.Method)
		}
		got <- e
	}))
	defer target.Close()
	hooks := func(c *Config) {
		c.Webhooks = map[string]Webhook{"noc": {URL: target.URL}, "moved": {URL: target.URL + "/moved"}, "through": {URL: "http://noc.invalid/x", Proxy: target.URL}}
	}
	r := big()
	r.Then = &want.RuleAction{Webhook: "noc"}
	b, d := newDetector(t, r, hooks)
	d.cross(t, "n1", "10.0.0.1", false)
	if e := <-got; e.Keys["src"] != "10.0.0.1" || !e.Ended.IsZero() {
		t.Errorf("%+v", e)
	}
	d.cross(t, "n1", "10.0.0.1", true)
	if e := <-got; e.Ended.IsZero() {
		t.Errorf("%+v", e)
	}
	await.Until(t, "it says so", func() bool {
		list, err := b.Webhooks(t.Context(), alice)
		if err != nil || len(list) != 3 || list[1].Name != "noc" || list[1].Failed+list[1].Dropped != 0 {
			t.Fatalf("%v, %+v", err, list)
		}
		return list[1].Told == 2 && b.events(t)[0].Action.Webhook == "told"
	})
	r.Then.Webhook = "through"
	if _, _, err := b.SetRule(t.Context(), alice, r); err != nil {
		t.Fatal(err)
	}
	d.cross(t, "n1", "10.0.0.2", false)
	if e := <-got; e.Keys["src"] != "10.0.0.2" {
		t.Errorf("%+v", e)
	}
	r.Then.Webhook = "moved"
	if _, _, err := b.SetRule(t.Context(), alice, r); err != nil {
		t.Fatal(err)
	}
	d.cross(t, "n1", "10.0.0.3", false)
	await.Until(t, "it says that it was not told", func() bool { return strings.HasPrefix(b.events(t)[0].Action.Webhook, "not told: it answered 307") })
	if len(elsewhere) != 0 {
		t.Error("a redirection or the environment's proxy was followed")
	}
}

// A target that hangs keeps nobody waiting: others are told, flows are found, and what finds no room is counted.
func TestWebhookThatHangs(t *testing.T) {
	var asked atomic.Int32
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer slow.Close()
	defer close(release)
	got := make(chan struct{}, 1000)
	quick := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got <- struct{}{} }))
	defer quick.Close()
	r := big()
	r.Then = &want.RuleAction{Webhook: "slow"}
	b, d := newDetector(t, r, func(c *Config) {
		c.Webhooks = map[string]Webhook{"slow": {URL: slow.URL}, "quick": {URL: quick.URL}}
	})
	const flows = mostHooks + 10
	for i := range flows {
		d.cross(t, "n1", "10.0.1."+string(rune('0'+i/10))+string(rune('0'+i%10)), false)
	}
	await.Until(t, "all are found, and what is too much is dropped", func() bool {
		list, err := b.Webhooks(t.Context(), alice)
		return err == nil && len(b.events(t)) == flows && list[1].Dropped >= flows-mostHooks-1 && list[1].Waiting > 0
	})
	r.Then.Webhook = "quick"
	if _, _, err := b.SetRule(t.Context(), alice, r); err != nil {
		t.Fatal(err)
	}
	d.cross(t, "n1", "10.0.2.1", false)
	select {
	case <-got:
	case <-time.After(10 * time.Second):
		t.Error("a target waits for another")
	}
}

// What fails for a while is told in the end.
func TestWebhookIsTriedAgain(t *testing.T) {
	var asked atomic.Int32
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			http.Error(w, "not now", http.StatusServiceUnavailable)
		}
	}))
	defer target.Close()
	r := big()
	r.Then = &want.RuleAction{Webhook: "noc"}
	b, d := newDetector(t, r, func(c *Config) { c.Webhooks = map[string]Webhook{"noc": {URL: target.URL}} })
	d.cross(t, "n1", "10.0.0.1", false)
	await.Until(t, "it was told", func() bool { e := b.events(t); return len(e) == 1 && e[0].Action.Webhook == "told" })
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
}
