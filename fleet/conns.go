package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"opentap/cert"
	"opentap/want"
)

// handshakes bounds the TLS handshakes under way at a time: each costs some hundred microseconds of a core, and when
// thousands of agents come at once the sessions that are there must not starve. Those of one address get a part of them, so
// that who opens connections and says nothing keeps nobody out.
const (
	handshakes        = 128 // most of them wait for the other end's octets
	handshakesOfOne   = handshakes / 2
	waitingOfOne      = 1024 // connections of one address that wait for their turn; more are closed at once
	connectionsOfNode = 8    // an agent has one, and for a moment two; more end the oldest
)

// What a connection without a certificate may do: it can join, and nothing else.
const (
	strangerLife   = time.Minute
	strangerOctets = 256 << 10
)

const (
	// handshakePatience is how long a connection may take from its first octet to the end of its handshake, waiting included.
	handshakePatience = 20 * time.Second

	// turnPatience is how long it may wait for its turn. Agents give up after ten seconds (member.Dial): who is let in later
	// is not there any more, and a controller that has too much to do would do it in vain. Who is sent away comes again, at a time of its own.
	turnPatience = 4 * time.Second
)

// serverCredentials are TLS for agents and controllers. A certificate that is shown must be good; one who shows none may join.
type serverCredentials struct {
	credentials.TransportCredentials
	reg   *Registry
	turns *turnstile
}

func (r *Registry) credentials() credentials.TransportCredentials {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: r.authority.Pool(), Time: r.now,
		SessionTicketsDisabled: true, // a resumed session would prove an old certificate
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return r.certificate() },
	}
	return &serverCredentials{credentials.NewTLS(cfg), r, newTurnstile()}
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	leave, err := c.turns.enter(addressOf(raw))
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		c.reg.log.Debug("a connection of an agent or controller was refused", "remote", raw.RemoteAddr(), "err", err)
		return nil, nil, err
	}
	state := info.(credentials.TLSInfo).State
	if len(state.PeerCertificates) == 0 {
		return newStranger(conn), info, nil
	}
	m, err := cert.MemberOf(state.PeerCertificates[0])
	if err != nil || m.Kind != cert.AgentMember {
		return conn, info, nil // what it may do is decided for each call
	}
	return c.reg.conns.add(m, state.PeerCertificates[0], conn), info, nil
}

// Clone implements credentials.TransportCredentials.
func (c *serverCredentials) Clone() credentials.TransportCredentials {
	return &serverCredentials{c.TransportCredentials.Clone(), c.reg, c.turns}
}

// conns are the connections of agents, so that they can be ended: when the membership is, and when a certificate runs out
// that was not renewed.
type conns struct {
	mu   sync.Mutex
	all  map[string]map[*conn]struct{} // by node id
	made uint64
}

type conn struct {
	net.Conn
	in     *conns
	member cert.Member
	number uint64    // the how manyth it is
	issued time.Time // its certificate
	ends   time.Time
}

func (c *conns) add(m cert.Member, leaf *x509.Certificate, raw net.Conn) net.Conn {
	k := &conn{Conn: raw, in: c, member: m, issued: cert.Issued(leaf), ends: leaf.NotAfter}
	if old := c.put(k); old != nil {
		_ = old.Close() // it is ours to end, and nobody waits for more
	}
	return k
}

// put takes a connection in, and returns the one that is to end for it; nil = none.
func (c *conns) put(k *conn) (old *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := k.member
	c.made++
	k.number = c.made
	if c.all == nil {
		c.all = make(map[string]map[*conn]struct{})
	}
	if c.all[m.ID] == nil {
		c.all[m.ID] = make(map[*conn]struct{})
	}
	if len(c.all[m.ID]) >= connectionsOfNode {
		for o := range c.all[m.ID] {
			if old == nil || o.number < old.number {
				old = o
			}
		}
	}
	c.all[m.ID][k] = struct{}{}
	return old
}

// Close implements net.Conn.
func (k *conn) Close() error {
	k.in.mu.Lock()
	if of := k.in.all[k.member.ID]; of != nil {
		delete(of, k)
		if len(of) == 0 {
			delete(k.in.all, k.member.ID)
		}
	}
	k.in.mu.Unlock()
	return k.Conn.Close()
}

// extend lets a node's connections live as long as its new certificate.
func (c *conns) extend(nodeID string, ends time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.all[nodeID] {
		if ends.After(k.ends) {
			k.ends = ends
		}
	}
}

// end closes the connections of a node, "" = of all, that ok does not like.
func (c *conns) end(nodeID string, ok func(*conn) bool) {
	var out []*conn
	pick := func(of map[*conn]struct{}) {
		for k := range of {
			if !ok(k) {
				out = append(out, k)
			}
		}
	}
	c.mu.Lock()
	if nodeID != "" {
		pick(c.all[nodeID])
	} else {
		for _, of := range c.all {
			pick(of)
		}
	}
	c.mu.Unlock()
	for _, k := range out {
		_ = k.Close() // it is ours to end, and nobody waits for more
	}
}

// check ends the connections of nodes whose entry has changed and that are members no more, or have joined again since.
func (c *conns) check(r *Registry) {
	r.mu.Lock()
	out := make(map[string]want.Member)
	for _, id := range r.touched {
		out[id] = r.nodes[id]
	}
	r.touched = r.touched[:0]
	r.mu.Unlock()
	for id, n := range out {
		c.end(id, func(k *conn) bool { return current(n, k.member, k.issued) == nil })
	}
}

// watch ends connections whose certificate has run out, until ctx ends.
func (c *conns) watch(ctx context.Context, r *Registry) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	tidied := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := r.now()
		c.end("", func(k *conn) bool { return now.Before(k.ends) })
		if now.Sub(tidied) > time.Hour {
			tidied = now
			if err := r.tidy(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("old join tokens are not forgotten for now", "err", err)
			}
		}
	}
}
