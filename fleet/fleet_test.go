package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"opentap/agentapi/agentpb"
	"opentap/audit"
	"opentap/auth"
	"opentap/cert"
	"opentap/fault"
	"opentap/internal/await"
	"opentap/member"
	"opentap/store"
	"opentap/store/mem"
	"opentap/want"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	admin = auth.Identity{Name: "admin", Role: "admin", Rights: auth.Everything}
	quiet = slog.New(slog.DiscardHandler)
)

// notes is an audit log that can fail.
type notes struct {
	mu   sync.Mutex
	all  []audit.Entry
	fail error
}

func (n *notes) Append(_ context.Context, e audit.Entry) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, e)
	return n.fail
}

// hub counts sessions, and holds each until it ends.
type hub struct {
	agentpb.UnimplementedHubServer
	now atomic.Int32
}

func (h *hub) Session(s grpc.BidiStreamingServer[agentpb.AgentMessage, agentpb.HubMessage]) error {
	h.now.Add(1)
	defer h.now.Add(-1)
	<-s.Context().Done()
	return s.Context().Err()
}

// hall is a controller's registry with its server.
type hall struct {
	*Registry
	t       *testing.T
	hub     *hub
	audit   *notes
	address string
	skew    atomic.Int64 // what its clock is ahead, nanoseconds
}

func newHall(t *testing.T, st store.Store, id string) *hall {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hall{t: t, hub: &hub{}, audit: &notes{}, address: l.Addr().String()}
	cfg := Config{ID: id, Name: id, Advertise: h.address, Life: time.Hour, Now: func() time.Time { return time.Now().Add(time.Duration(h.skew.Load())) }}
	if h.Registry, err = Open(t.Context(), cfg, st, h.audit, quiet); err != nil {
		t.Fatal(err)
	}
	srv := h.Server()
	agentpb.RegisterHubServer(srv, h.hub)
	agentpb.RegisterRelayServer(srv, agentpb.UnimplementedRelayServer{})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = srv.Serve(l) })
	running.Go(func() {
		if err := h.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { srv.Stop(); cancel(); running.Wait() })
	return h
}

func newStore(t *testing.T) store.Store {
	st := mem.New(mem.Config{})
	t.Cleanup(func() { _ = st.Close() })
	return st
}

// joinToken makes one that is good for an hour.
func (h *hall) joinToken(node string) string {
	h.t.Helper()
	j, err := h.CreateJoinToken(h.t.Context(), admin, want.JoinTokenRequest{Node: node})
	if err != nil {
		h.t.Fatal(err)
	}
	return j.Token
}

// host is an agent's membership.
func (h *hall) host() *member.Member {
	h.t.Helper()
	m, err := member.Open(member.Config{Dir: h.t.TempDir(), Controllers: []string{h.address}}, quiet)
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

const (
	idA = "00000000000000aa"
	idB = "00000000000000bb"
)

func (h *hall) joined(id, name string) *member.Member {
	h.t.Helper()
	m := h.host()
	if fresh, err := m.Join(h.t.Context(), h.joinToken(""), id, name); err != nil || !fresh {
		h.t.Fatalf("join: %v, %v", fresh, err)
	}
	return m
}

// session opens one and returns how it ends.
func session(t *testing.T, m *member.Member) (end func() error) {
	t.Helper()
	cc, err := m.Dial(t.Context())
	if err != nil {
		return func() error { return err }
	}
	t.Cleanup(func() { _ = cc.Close() })
	s, err := agentpb.NewHubClient(cc).Session(t.Context())
	return func() error {
		if err != nil {
			return err
		}
		_, err := s.Recv()
		return err
	}
}

func TestAHostJoinsAndIsKnownEverywhere(t *testing.T) {
	st := newStore(t)
	a, b := newHall(t, st, "a"), newHall(t, st, "b")
	if a.Authority() != b.Authority() || a.Epoch().ID != b.Epoch().ID {
		t.Fatal("two controllers of one store are two fleets")
	}
	m := a.joined(idA, "virgo")
	who, _, ok := m.Who()
	if !ok || who != (cert.Member{Kind: cert.AgentMember, ID: idA, Name: "virgo"}) {
		t.Errorf("it is %+v", who)
	}
	await.Until(t, "the other controller knows it", func() bool { return len(b.Members()) == 1 })
	await.Until(t, "each knows the other", func() bool { return len(a.Others()) == 1 && len(b.Others()) == 1 })
	end := session(t, m)
	sessions := func() int32 { return a.hub.now.Load() + b.hub.now.Load() }
	await.Until(t, "it has a session", func() bool { return sessions() == 1 })
	if _, err := b.Revoke(t.Context(), "virgo"); err != nil {
		t.Fatal(err)
	}
	if err := end(); err == nil {
		t.Error("the session of a revoked node goes on")
	}
	await.Until(t, "its session is over", func() bool { return sessions() == 0 })
	if err := session(t, m)(); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "was revoked on") {
		t.Errorf("a revoked node hears %v", err)
	}
	if n, err := b.Forget(t.Context(), idA); err != nil || n.Name != "virgo" {
		t.Errorf("forget by id: %+v, %v", n, err)
	}
	if err := session(t, m)(); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "no member") {
		t.Errorf("a forgotten node hears %v", err)
	}
}

func TestJoinTokens(t *testing.T) {
	h := newHall(t, newStore(t), "a")
	h.joined(idA, "virgo")
	used := h.joinToken("")
	if _, err := h.host().Join(t.Context(), used, idB, "libra"); err != nil {
		t.Fatal(err)
	}
	deleted := h.joinToken("")
	tok, _ := member.ParseToken(deleted)
	if err := h.DeleteJoinToken(t.Context(), tok.ID); err != nil {
		t.Fatal(err)
	}
	wrong, _ := member.ParseToken(h.joinToken(""))
	wrong.Secret = strings.Repeat("a", 52)
	for _, c := range []struct{ name, token, id, node, says string }{
		{"used", used, "00000000000000cc", "ara", "was used on"},
		{"deleted", deleted, "00000000000000cc", "ara", "not valid"},
		{"wrong secret", wrong.String(), "00000000000000cc", "ara", "not valid"},
		{"of another node", h.joinToken("virgo"), "00000000000000cc", "ara", "is for the node virgo"},
		{"a name that is taken", h.joinToken(""), "00000000000000cc", "virgo", "there is a node virgo already"},
		{"an id that is taken", h.joinToken(""), idA, "ara", "this host is the node virgo already"},
		{"its own id", h.joinToken(""), idA, "virgo", "this host is the node virgo already"},
		{"an id that is none", h.joinToken(""), "../../etc", "ara", "not the id of a node"},
		{"a name that is none", h.joinToken(""), "00000000000000cc", "a/b", "not allowed"},
	} {
		_, err := h.host().Join(t.Context(), c.token, c.id, c.node)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if got := len(h.Members()); got != 2 {
		t.Errorf("%d members", got)
	}
	// A host made anew takes its place with a token for it.
	again := h.host()
	if _, err := again.Join(t.Context(), h.joinToken("virgo"), "00000000000000dd", "virgo"); err != nil {
		t.Error(err)
	}
	ids := []string{}
	for _, m := range h.Members() {
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	if !slices.Equal(ids, []string{idB, "00000000000000dd"}) {
		t.Errorf("members are %v", ids)
	}
	h.skew.Store(int64(2 * time.Hour))
	if _, err := h.join(t.Context(), joining{token: h.joinToken(""), id: "00000000000000ee", name: "lyra"}, remoteOf(t.Context())); fault.KindOf(err) != fault.Invalid {
		t.Errorf("no request: %v", err)
	}
	list, err := h.JoinTokens(t.Context())
	if err != nil || len(list) == 0 || slices.ContainsFunc(list, func(j want.JoinToken) bool { return j.Token != "" }) {
		t.Errorf("%v, %v", list, err)
	}
	if err := h.DeleteJoinToken(t.Context(), "../authority"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a path for an id: %v", err)
	}
	for _, life := range []time.Duration{-1, MaxTokenLife + 1} {
		if _, err := h.CreateJoinToken(t.Context(), admin, want.JoinTokenRequest{Life: want.Duration(life)}); !fault.Is(err, fault.Invalid) {
			t.Errorf("life %s: %v", life, err)
		}
	}
}

// An answer that is lost is given again to the same key, and to no other.
func TestALostAnswerIsGivenAgain(t *testing.T) {
	h := newHall(t, newStore(t), "a")
	_, request, err := cert.Request()
	if err != nil {
		t.Fatal(err)
	}
	j := joining{token: h.joinToken(""), request: request, id: idA, name: "virgo"}
	for i := range 2 {
		if _, err := h.join(t.Context(), j, remoteOf(t.Context())); err != nil {
			t.Errorf("time %d: %v", i, err)
		}
	}
	_, j.request, _ = cert.Request()
	if _, err := h.join(t.Context(), j, remoteOf(t.Context())); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("another key: %v", err)
	}
}

// Who used a token once gets by it neither another node, nor in again after it was shut out.
func TestAUsedTokenOpensNothingElse(t *testing.T) {
	h := newHall(t, newStore(t), "a")
	_, request, err := cert.Request()
	if err != nil {
		t.Fatal(err)
	}
	j := joining{token: h.joinToken(""), request: request, id: idA, name: "virgo"}
	refused := func(when string, j joining) {
		t.Helper()
		if _, err := h.join(t.Context(), j, remoteOf(t.Context())); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("%s: %v", when, err)
		}
	}
	if _, err := h.join(t.Context(), j, remoteOf(t.Context())); err != nil {
		t.Fatal(err)
	}
	other := j
	other.id, other.name = idB, "libra"
	refused("as another node", other)
	other.name = j.name
	refused("as another host of that name", other)
	if _, err := h.Revoke(t.Context(), "virgo"); err != nil {
		t.Fatal(err)
	}
	refused("after it was revoked", j)
	if members := h.Members(); len(members) != 1 || members[0].Revoked.IsZero() {
		t.Errorf("members are %+v", members)
	}
	if _, err := h.Forget(t.Context(), "virgo"); err != nil {
		t.Fatal(err)
	}
	refused("after it was forgotten", j)
}

// A certificate that was shut out stays so when its node joins again under the same id.
func TestARevokedCertificateDoesNotComeBack(t *testing.T) {
	h := newHall(t, newStore(t), "a")
	stolen := h.joined(idA, "virgo")
	if _, err := h.Revoke(t.Context(), "virgo"); err != nil {
		t.Fatal(err)
	}
	h.skew.Store(int64(time.Minute))
	again := h.host()
	if _, err := again.Join(t.Context(), h.joinToken("virgo"), idA, "virgo"); err != nil {
		t.Fatal(err)
	}
	if err := session(t, stolen)(); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "has joined again since") {
		t.Errorf("the old certificate hears %v", err)
	}
	session(t, again)
	await.Until(t, "the new one has a session", func() bool { return h.hub.now.Load() == 1 })
}

// A controller that was away hears of a revocation and of the host's joining again at once: the connection of the revoked
// certificate ends all the same.
func TestARevokedConnectionDoesNotSurviveItsNodesReturn(t *testing.T) {
	h := newHall(t, newStore(t), "a")
	stolen := h.joined(idA, "virgo")
	end := session(t, stolen)
	await.Until(t, "it has a session", func() bool { return h.hub.now.Load() == 1 })
	h.mu.Lock()
	n := h.nodes[idA]
	n.Enrolled = n.Enrolled.Add(time.Minute) // it was revoked and has joined again
	h.nodes[idA] = n
	h.touched = append(h.touched, idA)
	h.mu.Unlock()
	h.conns.check(h.Registry)
	if err := end(); err == nil {
		t.Error("its session goes on")
	}
}

// Who opens connections and says nothing keeps nobody else out.
func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	h := newHall(t, newStore(t), "a")
	m := h.joined(idA, "virgo")
	silent := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for range 4 * handshakes {
		c, err := silent.DialContext(t.Context(), "tcp", h.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	session(t, m) // before those give up, which takes them longer than eventually waits
	await.Until(t, "an agent has a session", func() bool { return h.hub.now.Load() == 1 })
}

// One node does not fill a controller with connections, and who has no certificate not with words.
func TestConnectionsAreBounded(t *testing.T) {
	h := newHall(t, newStore(t), "a")
	m := h.joined(idA, "virgo")
	for range 3 * connectionsOfNode {
		session(t, m)
	}
	await.Until(t, "the oldest have ended", func() bool {
		h.conns.mu.Lock()
		defer h.conns.mu.Unlock()
		return len(h.conns.all[idA]) == connectionsOfNode && h.hub.now.Load() == connectionsOfNode
	})
	host := h.host()
	if _, err := host.Join(t.Context(), strings.Repeat("x", 10), idB, "libra"); err == nil {
		t.Error("joined by no token")
	}
	cc, err := grpc.NewClient("passthrough:///"+h.address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	_, err = agentpb.NewEnrolmentClient(cc).Join(t.Context(), &agentpb.JoinRequest{Token: strings.Repeat("x", 8<<20)})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("eight million octets of a token: %v", err)
	}
}

func TestTriesAreLimitedAndWrittenDown(t *testing.T) {
	h := newHall(t, newStore(t), "a")
	var err error
	for range 40 {
		if _, err = h.join(t.Context(), joining{token: "nonsense", name: "virgo"}, remoteOf(t.Context())); fault.Is(err, fault.Exhausted) {
			break
		}
	}
	if !fault.Is(err, fault.Exhausted) {
		t.Errorf("after forty wrong tokens: %v", err)
	}
	if n := len(h.audit.all); n < 5 || n > 20 || h.audit.all[0].Outcome != audit.Denied {
		t.Errorf("%d entries in the audit log", n)
	}
	// Nobody joins whose joining cannot be written down.
	_, request, _ := cert.Request()
	h.audit.fail = errors.New("the disk is full")
	_, err = h.join(t.Context(), joining{token: h.joinToken(""), request: request, id: idA, name: "virgo"}, remoteOf(t.Context()))
	if !fault.Is(err, fault.Unavailable) || len(h.Members()) != 0 {
		t.Errorf("without an audit log: %v, %d members", err, len(h.Members()))
	}
}

func TestCertificatesEndAndAreRenewed(t *testing.T) {
	h := newHall(t, newStore(t), "a")
	m := h.joined(idA, "virgo")
	end := session(t, m)
	await.Until(t, "it has a session", func() bool { return h.hub.now.Load() == 1 })
	who, _, _ := m.Who()
	_, request, _ := cert.Request()
	h.skew.Store(int64(30 * time.Minute))
	leaf, err := h.renew(t.Context(), who, request)
	if err != nil || !leaf.NotAfter.After(time.Now().Add(80*time.Minute)) {
		t.Fatalf("renewed until %v, %v", leaf.NotAfter, err)
	}
	h.skew.Store(int64(70 * time.Minute)) // the first certificate has ended, the session has not
	time.Sleep(1200 * time.Millisecond)   // the watch has looked
	if h.hub.now.Load() != 1 {
		t.Error("the session ended though the certificate was renewed")
	}
	h.skew.Store(int64(100 * time.Minute))
	if err := end(); err == nil {
		t.Error("the session outlives its certificate")
	}
	if _, err := h.Revoke(t.Context(), "virgo"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.renew(t.Context(), who, request); !fault.Is(err, fault.Forbidden) {
		t.Errorf("a revoked node renews: %v", err)
	}
}

// Each member may call what is meant for it.
func TestCallsByKind(t *testing.T) {
	st := newStore(t)
	h, other := newHall(t, st, "a"), newHall(t, st, "b")
	agentCC, err := h.joined(idA, "virgo").Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer agentCC.Close()
	await.Until(t, "each knows the other", func() bool { return len(other.Others()) == 1 })
	ctlCC, err := other.Dial(other.Others()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer ctlCC.Close()
	follow := func(cc *grpc.ClientConn) error {
		s, err := agentpb.NewRelayClient(cc).Follow(t.Context(), &agentpb.FollowRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	sess := func(cc *grpc.ClientConn) error {
		s, err := agentpb.NewHubClient(cc).Session(t.Context())
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	if err := follow(agentCC); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an agent follows: %v", err)
	}
	if err := follow(ctlCC); status.Code(err) != codes.Unimplemented { // let in; nothing is behind the door here
		t.Errorf("a controller follows: %v", err)
	}
	if err := sess(ctlCC); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a controller has a session: %v", err)
	}
	if _, err := agentpb.NewEnrolmentClient(ctlCC).Renew(t.Context(), &agentpb.RenewRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a controller renews: %v", err)
	}
}

func TestTheStoreIsAccepted(t *testing.T) {
	st := newStore(t)
	a, b := newHall(t, st, "a"), newHall(t, st, "b")
	first := a.Epoch()
	changed := b.Changed()
	e, err := a.AcceptStore(t.Context(), admin, []string{"older"})
	if err != nil || e.ID == first.ID || !slices.Equal(e.Replaces, []string{first.ID, "older"}) || e.By != "admin" {
		t.Fatalf("%+v, %v", e, err)
	}
	<-changed
	await.Until(t, "the other controller knows it", func() bool { return b.Epoch().ID == e.ID })
	for i := range 2 * maxReplaced {
		if e, err = a.AcceptStore(t.Context(), admin, []string{fmt.Sprint(i)}); err != nil || len(e.Replaces) > maxReplaced {
			t.Fatalf("%d, %v", len(e.Replaces), err)
		}
	}
}

func TestWhatCannotBeReadIsLeftAlone(t *testing.T) {
	st := newStore(t)
	h := newHall(t, st, "a")
	for _, key := range []string{nodeKeys + "x", controllerKeys + "x", tokenKeys + "abcdefghijklmnop"} {
		if _, err := st.Txn(t.Context(), nil, []store.Op{store.Put(key, []byte("{"))}); err != nil {
			t.Fatal(err)
		}
	}
	h.joined(idA, "virgo")
	if n := len(h.Members()); n != 1 {
		t.Errorf("%d members", n)
	}
	if list, err := h.JoinTokens(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := Open(t.Context(), Config{ID: "c", Life: time.Second}, st, h.audit, quiet); err == nil {
		t.Error("certificates of a second")
	}
	h.skew.Store(int64(MaxTokenLife + 2*tidyAfter))
	if err := h.tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, _ := h.JoinTokens(t.Context()); len(list) != 0 {
		t.Errorf("old tokens: %v", list)
	}
}

// A controller that others took for gone says that it is there.
func TestAControllerThatIsNotGone(t *testing.T) {
	st := newStore(t)
	a, b := newHall(t, st, "a"), newHall(t, st, "b")
	await.Until(t, "each knows the other", func() bool { return len(a.Others()) == 1 && len(b.Others()) == 1 })
	before, err := st.Get(t.Context(), controllerKeys+"b")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.DropController(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "it is back", func() bool {
		now, err := st.Get(t.Context(), controllerKeys+"b")
		return err == nil && now.CreateRevision > before.CreateRevision
	})
	await.Until(t, "it is known", func() bool { return len(a.Others()) == 1 })
}
