package fleet

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"opentap/audit"
	"opentap/cert"
	"opentap/fault"
	"opentap/member"
	"opentap/store"
	"opentap/want"
)

// joining is what a host presents.
type joining struct {
	token   string
	request []byte // PKCS #10, DER
	id      string // of the node
	name    string
}

func checkNodeName(name string) error {
	if name == "" || len(name) > 64 || strings.TrimSpace(name) != name {
		return fault.Field("node", "a node's name has 1 to 64 octets and no space around")
	}
	for _, r := range name {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar || r == '/' {
			return fault.Field("node", "character %U is not allowed in a node's name", r)
		}
	}
	return nil
}

func isNodeID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 8 && strings.ToLower(s) == s
}

// join makes a host a member.
func (r *Registry) join(ctx context.Context, j joining, remote netip.AddrPort) (*x509.Certificate, error) {
	t, err := member.ParseToken(j.token)
	if err == nil {
		var leaf *x509.Certificate
		if leaf, err = r.joinWith(ctx, t, j, remote); err == nil {
			return leaf, nil
		}
	}
	if !fault.Is(err, fault.Unauthenticated) && !fault.Is(err, fault.Invalid) {
		return nil, err
	}
	if wait := r.wrong.Failed(remote.Addr(), r.now()); wait > 0 {
		return nil, &fault.Error{Kind: fault.Exhausted, Msg: "too many wrong join tokens from this address", RetryAfter: wait}
	}
	r.note(ctx, audit.Denied, j, remote, map[string]string{"reason": err.Error(), "token": t.ID})
	return nil, err
}

// note writes the audit entry of somebody joining, or trying to.
func (r *Registry) note(ctx context.Context, o audit.Outcome, j joining, remote netip.AddrPort, details map[string]string) error {
	e := audit.Entry{
		Actor: audit.Actor{Name: "node " + j.name, Via: "join token", Remote: remote.String()}, Action: "node.join", Object: j.name,
		Outcome: o, Details: details,
	}
	if err := r.audit.Append(context.WithoutCancel(ctx), e); err != nil {
		r.log.Error("a join could not be written to the audit log", "node", j.name, "err", err)
		return &fault.Error{Kind: fault.Unavailable, Msg: "refused, because the audit log cannot be written", Err: err, RetryAfter: 10 * time.Second}
	}
	return nil
}

func (r *Registry) joinWith(ctx context.Context, t member.Token, j joining, remote netip.AddrPort) (*x509.Certificate, error) {
	if err := checkNodeName(j.name); err != nil {
		return nil, err
	}
	if !isNodeID(j.id) {
		return nil, fault.Field("node_id", "%.40q is not the id of a node", j.id)
	}
	leaf, err := r.authority.Sign(j.request, cert.Member{Kind: cert.AgentMember, ID: j.id, Name: j.name}, r.cfg.Life, r.now())
	if err != nil {
		return nil, &fault.Error{Kind: fault.Invalid, Msg: "the certificate request is refused", Err: err}
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	key := hex.EncodeToString(sum[:])
	for noted := false; ; {
		tok, tokKV, err := r.token(ctx, t, key)
		if err != nil {
			return nil, err
		}
		if tok.Node != "" && tok.Node != j.name {
			return nil, fault.New(fault.Unauthenticated, "the join token is for the node %s", tok.Node)
		}
		compares, ops, err := r.place(ctx, tok, j)
		if err != nil {
			return nil, err
		}
		if !noted { // before the act
			if err := r.note(ctx, audit.Allowed, j, remote, map[string]string{"node_id": j.id, "token": t.ID, "made_by": tok.By}); err != nil {
				return nil, err
			}
			noted = true
		}
		now := r.now().UTC().Truncate(time.Second)
		n := want.Member{ID: j.id, Name: j.name, Enrolled: now, By: tok.By, Ends: leaf.NotAfter.UTC(), Serial: leaf.SerialNumber.Text(16)}
		if tok.Used.IsZero() {
			tok.Used = now
		}
		n.Enrolled = tok.Used // an answer that is given again is no other enrolment
		tok.UsedBy, tok.Key = j.name, key
		value := encode(n)
		ops = append(ops, store.Put(tokKV.Key, encode(tok)), store.Put(nodeKeys+n.ID, value), store.Put(nameKeys+n.Name, []byte(n.ID)))
		rev, err := r.store.Txn(ctx, append(compares, store.Unchanged(tokKV)), ops)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, unavailable("join", err)
		}
		r.learn(nodeKeys+n.ID, value, rev)
		r.log.Info("a node has joined", "node", n.Name, "id", n.ID, "remote", remote, "token", t.ID)
		return leaf, nil
	}
}

// place finds out whether the fleet has room for a node of this id and name. A node that is there already is replaced by a
// token that was made for it, or by the very host that used the token before.
func (r *Registry) place(ctx context.Context, tok joinToken, j joining) (compares []store.Compare, ops []store.Op, err error) {
	get := func(key string) (store.KV, error) {
		kv, err := r.store.Get(ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			kv, err = store.KV{Key: key}, nil
		}
		if err != nil {
			return kv, unavailable("join", err)
		}
		compares = append(compares, store.Unchanged(kv))
		return kv, nil
	}
	again := tok.Node == j.name || !tok.Used.IsZero() && tok.UsedBy == j.name
	node, err := get(nodeKeys + j.id)
	if err != nil {
		return nil, nil, err
	}
	name, err := get(nameKeys + j.name)
	if err != nil {
		return nil, nil, err
	}
	var had want.Member
	if node.Value != nil {
		if err := json.Unmarshal(node.Value, &had); err != nil {
			return nil, nil, err
		}
	}
	// A used token gives an answer again, and no more: it enrols no second node, and undoes no revocation.
	if !tok.Used.IsZero() && (had.Name != j.name || tok.UsedBy != j.name || !had.Revoked.IsZero() || !had.Enrolled.Equal(tok.Used)) {
		return nil, nil, fault.New(fault.Unauthenticated, "the join token was used on %s, by node %s", tok.Used.Format(time.RFC3339), tok.UsedBy)
	}
	if node.Value != nil {
		if !again || had.Name != j.name {
			return nil, nil, &fault.Error{
				Kind: fault.Conflict, Field: "node", Msg: "this host is the node " + had.Name + " already",
				Hint: "to give it another name have it forgotten first (opentap node forget " + had.Name + "); to join as that node it takes a token made by opentap node join-token --node " + had.Name,
			}
		}
	}
	if name.Value != nil && string(name.Value) != j.id {
		if !again {
			return nil, nil, taken("there is a node "+j.name+" already, which is another host", j.name)
		}
		ops = append(ops, store.Delete(nodeKeys+string(name.Value)))
	}
	return compares, ops, nil
}

func taken(msg, name string) error {
	return &fault.Error{
		Kind: fault.Conflict, Field: "node", Msg: msg,
		Hint: "name this host otherwise (node: in its configuration), or let it join as that node with a token made by opentap node join-token --node " + name,
	}
}

// renew makes a new certificate for a member.
func (r *Registry) renew(ctx context.Context, m cert.Member, request []byte) (*x509.Certificate, error) {
	leaf, err := r.authority.Sign(request, m, r.cfg.Life, r.now())
	if err != nil {
		return nil, &fault.Error{Kind: fault.Invalid, Msg: "the certificate request is refused", Err: err}
	}
	for {
		kv, err := r.store.Get(ctx, nodeKeys+m.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, unavailable("renew", err)
		}
		var n want.Member
		if err == nil {
			if err := json.Unmarshal(kv.Value, &n); err != nil {
				return nil, err
			}
		}
		if err := standing(n, m); err != nil {
			return nil, err
		}
		n.Ends, n.Serial = leaf.NotAfter.UTC(), leaf.SerialNumber.Text(16)
		value := encode(n)
		rev, err := r.store.Txn(ctx, []store.Compare{store.Unchanged(kv)}, []store.Op{store.Put(kv.Key, value)})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, unavailable("renew", err)
		}
		r.conns.extend(m.ID, leaf.NotAfter)
		r.learn(kv.Key, value, rev)
		r.log.Debug("a node's certificate was renewed", "node", n.Name, "ends", n.Ends)
		return leaf, nil
	}
}

// standing says why an agent with a good certificate may not come in; n is its entry, the zero want.Member if there is none.
func standing(n want.Member, m cert.Member) error {
	switch {
	case n.ID != m.ID || n.Name != m.Name:
		return &fault.Error{Kind: fault.Forbidden, Msg: "the node " + m.Name + " is no member of this fleet (any more)", Hint: "let it join again with a new join token"}
	case !n.Revoked.IsZero():
		return &fault.Error{
			Kind: fault.Forbidden, Msg: "the membership of node " + n.Name + " was revoked on " + n.Revoked.Format(time.RFC3339),
			Hint: "let it join again with a token made by opentap node join-token --node " + n.Name,
		}
	}
	return nil
}

// clockSlack is by how much the times of a certificate and of an enrolment may differ that belong together.
const clockSlack = 5 * time.Second

// current is standing for who shows a certificate made at a time: one of an enrolment before the last is good no more, or a
// revoked certificate would come back when its node joins again.
func current(n want.Member, m cert.Member, issued time.Time) error {
	if err := standing(n, m); err != nil {
		return err
	}
	if issued.Before(n.Enrolled.Add(-clockSlack)) {
		return &fault.Error{Kind: fault.Forbidden, Msg: "the node " + m.Name + " has joined again since this certificate was made", Hint: "let it join again with a token made by opentap node join-token --node " + m.Name}
	}
	return nil
}

// member looks a member up: in the copy, and in the store when the copy knows nothing good, for it may be a moment late.
func (r *Registry) member(ctx context.Context, m cert.Member, issued time.Time) error {
	r.mu.Lock()
	n := r.nodes[m.ID]
	r.mu.Unlock()
	err := current(n, m, issued)
	if err == nil {
		return nil
	}
	kv, gerr := r.store.Get(ctx, nodeKeys+m.ID)
	switch {
	case errors.Is(gerr, store.ErrNotFound):
		return current(want.Member{}, m, issued)
	case gerr != nil:
		return unavailable("look a node up", gerr)
	}
	n = want.Member{}
	if json.Unmarshal(kv.Value, &n) != nil {
		return err
	}
	if err = current(n, m, issued); err == nil { // otherwise the connection would end before the answer is heard
		r.learn(kv.Key, kv.Value, kv.ModRevision)
	}
	return err
}
