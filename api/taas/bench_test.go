package taas_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"opentap/agentapi"
	"opentap/api/httpapi"
	"opentap/api/taas"
	"opentap/audit"
	"opentap/auth"
	"opentap/controller"
	"opentap/fault"
	"opentap/point"
	"opentap/store/mem"
	"opentap/tap"
	"opentap/want"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hub is an agent that makes real whatever is desired, and says so: one thing after the other, as an agent does, for an answer to what
// was desired before must not come last.
type hub struct {
	c    *controller.Controller
	turn sync.Mutex
}

func (h *hub) Kick(nodeID string) {
	go func() {
		h.turn.Lock()
		defer h.turn.Unlock()
		d, err := h.c.Desired(context.Background(), nodeID)
		if err != nil {
			return
		}
		states := []tap.Status{}
		for _, s := range d.Taps.Sources {
			states = append(states, tap.Status{ID: s.ID, State: tap.Active, Since: time.Now()})
		}
		for _, s := range d.Taps.Sinks {
			states = append(states, tap.Status{ID: s.ID, State: tap.Active, Since: time.Now()})
		}
		h.c.TapStates(nodeID, states)
		h.c.Actual(nodeID, d.Revision, nil, true)
	}()
}

func (h *hub) Open(context.Context, string, string, string, want.OpenOptions) (*want.Retrieval, error) {
	return nil, fault.New(fault.Unsupported, "no")
}

func (h *hub) Stream(context.Context, <-chan struct{}, string, string, want.LiveSpec, io.Writer) error {
	return fault.New(fault.Unsupported, "no")
}

type trail struct{}

func (trail) Append(context.Context, audit.Entry) error { return nil }

// users are tokens by their text.
type users map[string]auth.Identity

func (u users) Authenticate(_ context.Context, token string, remote netip.AddrPort) (auth.Identity, error) {
	id, ok := u[token]
	if !ok {
		return auth.Identity{}, fault.New(fault.Unauthenticated, "the token is not valid")
	}
	id.Remote = remote.String()
	return id, nil
}

func (users) Expiry(string) time.Time { return time.Time{} }

const member = auth.SeeMetadata | auth.Start | auth.ReadPayload | auth.Delete

// secret is what the tests' tokens have for a secret, as long as a real one.
const secret = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

var people = users{
	"alice":                         {Name: "alice", Project: "red", Role: "owner", Rights: member, Via: "token"},
	"bob":                           {Name: "bob", Project: "blue", Role: "owner", Rights: member, Via: "token"},
	"viewer":                        {Name: "viewer", Project: "red", Role: "viewer", Rights: auth.SeeMetadata, Via: "token"},
	"admin":                         {Name: "admin", Project: "default", Role: "admin", Rights: auth.Everything, Via: "token"},
	"ot_cccccccccccccccc_" + secret: {Name: "carol", Project: "red", Role: "owner", Rights: member, Via: "token"},
}

type bench struct {
	t   testing.TB
	ctl *controller.Controller
	url string
	// ports by name, as the admin sees them
	ports map[string]string
}

// newBench has a node with the devices eth1, eth2 and eth3, which are the administrator's, and r1 to r3 of the project red
// and b1 of blue.
func newBench(t testing.TB) *bench {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	cfg := controller.DefaultConfig()
	cfg.SettleWait = 2 * time.Second
	b := &bench{t: t, ctl: controller.New(cfg, mem.New(mem.Config{}), trail{}, log), ports: map[string]string{}}
	b.ctl.SetHub(&hub{c: b.ctl})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.ctl.Run(ctx) }()
	gate, err := httpapi.NewGate(httpapi.Config{Auth: people, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = gate.Server(gate.Handler(append(taas.New(b.ctl, people), other())...))
	srv.Start()
	b.url = srv.URL
	t.Cleanup(func() {
		srv.Close()
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if err := b.ctl.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	b.ctl.Joined(agentapi.Identity{NodeID: "n1", NodeName: "host1", Version: "test"})
	var points []point.Point
	for i, name := range []string{"eth1", "eth2", "eth3", "r1", "r2", "r3", "b1"} {
		points = append(points, point.Point{Name: name, Kind: point.Netdev, Present: true, Up: true, MTU: 1500, LinkType: 1, MAC: "02:00:00:00:00:0" + string(rune('1'+i))})
	}
	b.ctl.Inventory("n1", points, want.Node{Underlay: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
	b.until("the ports are known", func() bool {
		list, err := b.ctl.Ports(ctx, people["admin"])
		return err == nil && len(list) == len(points)
	})
	for _, name := range []string{"r1", "r2", "r3", "b1"} {
		project := map[byte]string{'r': "red", 'b': "blue"}[name[0]]
		if _, err := b.ctl.UpdatePort(ctx, people["admin"], name, tap.PortWish{Project: &project}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := b.ctl.Ports(ctx, people["admin"])
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		b.ports[p.Name] = p.ID
	}
	return b
}

func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// other is a door that has the root, as the classic one.
func other() httpapi.Door {
	return taas.WithVersions(httpapi.Door{Name: "other", Prefix: "/", Fail: func(w http.ResponseWriter, _ *http.Request, p httpapi.Problem) {
		_ = httpapi.WriteJSON(w, p.Status, map[string]string{"msg": p.Fault.Msg})
	}, Routes: []httpapi.Route{{Method: "GET", Path: "/{$}", Serve: func(w http.ResponseWriter, _ *http.Request) error {
		return httpapi.WriteJSON(w, http.StatusOK, map[string]string{"classic": "yes"})
	}}}})
}

type answer struct {
	status int
	header http.Header
	body   map[string]any
	text   string
}

// do sends a request with a token; "" = none. PORT:name in path and body becomes the port's id.
func (b *bench) do(token, method, path, body string, header ...string) answer {
	b.t.Helper()
	for name, id := range b.ports {
		path, body = strings.ReplaceAll(path, "PORT:"+name, id), strings.ReplaceAll(body, "PORT:"+name, id)
	}
	req, err := http.NewRequest(method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("X-Auth-Token", token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, text: string(text)}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &a.body); err != nil {
			b.t.Errorf("%s %s: %v: %s", method, path, err, text)
		}
	}
	return a
}

// at walks into the body.
func (a answer) at(path ...string) any {
	var v any = a.body
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

func (a answer) id(kind string) string {
	s, _ := a.at(kind, "id").(string)
	return s
}

// make posts and wants a 201.
func (b *bench) make(token, path, body string) answer {
	b.t.Helper()
	a := b.do(token, "POST", path, body)
	if a.status != http.StatusCreated {
		b.t.Fatalf("POST %s %s: %d %s", path, body, a.status, a.text)
	}
	return a
}

const (
	services = "/v2.0/taas/tap_services"
	flows    = "/v2.0/taas/tap_flows"
	mirrors  = "/v2.0/taas/tap_mirrors"
)

func (b *bench) service(token, port string) string {
	b.t.Helper()
	return b.make(token, services, `{"tap_service":{"name":"ts","port_id":"PORT:`+port+`"}}`).id("tap_service")
}

func (b *bench) flow(token, service, port string) string {
	b.t.Helper()
	return b.make(token, flows, `{"tap_flow":{"name":"tf","source_port":"PORT:`+port+`","tap_service_id":"`+service+`","direction":"BOTH"}}`).id("tap_flow")
}
