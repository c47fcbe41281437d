package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"time"

	"opentap/fault"
	"opentap/store"
)

const (
	sessionKeys = "auth/sessions/" // + id → sessionRecord
	sessionLife = 12 * time.Hour
	// sessionsMax bounds the sessions of one token; the oldest ends when there are more.
	sessionsMax = 32
	// sessionTrust is how long a session is taken as known without asking the store: so long one that was ended at
	// another controller can go on here.
	sessionTrust = 10 * time.Second

	codeLife = 10 * time.Minute
	codesMax = 64
)

// Session is a browser's visit: it stands for a token without being one, so that no page ever holds a token. It ends with
// its token, when it expires, and when it is closed.
type Session struct {
	Text    string // for the cookie; exists nowhere else
	Expires time.Time
	Holder  Identity
}

// Code opens one session within a few minutes: it can travel in a URL, where a token must not.
type Code struct {
	Text    string
	Expires time.Time
}

// sessionRecord is a session in the store.
type sessionRecord struct {
	ID      string    `json:"id"`
	Token   string    `json:"token"`  // id of the token it stands for
	Hash    string    `json:"sha256"` // of the secret, hex; see record
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Who     *visitor  `json:"who,omitempty"` // set: it stands for no token
}

// sessions is what this controller knows about them. Safe for concurrent use; the zero value is ready.
type sessions struct {
	mu    sync.Mutex
	known map[string]knownSession
	codes map[[sha256.Size]byte]code
}

type knownSession struct {
	r    sessionRecord
	hash [sha256.Size]byte
	seen time.Time
}

// code opens a session for the holder of a token, or for who.
type code struct {
	token   string    // id
	who     *visitor  // set: there is no token
	ends    time.Time // with who: the session ends no later
	expires time.Time
}

// OpenSession opens one for who presents a token, or a code of MakeCode, which is used up by that. Errors are those of
// Authenticate.
func (a *Authenticator) OpenSession(ctx context.Context, text string, remote netip.AddrPort) (Session, error) {
	var tokenID string
	if strings.HasPrefix(text, "oc_") {
		c, ok := a.redeem(text)
		if !ok {
			if wait := a.wrong.failed(remote.Addr(), a.now()); wait > 0 {
				return Session{}, &fault.Error{Kind: fault.Exhausted, Msg: "too many wrong codes from this address", RetryAfter: wait}
			}
			return Session{}, &fault.Error{Kind: fault.Unauthenticated, Msg: "the code is not valid: it was used, or is too old", Hint: "have a new one made by: opentap dashboard"}
		}
		if c.who != nil {
			return a.openVisit(ctx, c.who, c.ends, remote)
		}
		tokenID = c.token
	} else {
		if text == "" {
			return Session{}, fault.New(fault.Unauthenticated, "a token is needed")
		}
		id, err := a.Authenticate(ctx, text, remote)
		if err != nil {
			return Session{}, err
		}
		var ours bool
		if tokenID, _, ours = split(text); !ours {
			return a.OpenSessionFor(ctx, id, remote)
		}
	}
	holder, expires, err := a.holder(tokenID, remote)
	if err != nil {
		return Session{}, err
	}
	if err := a.tidy(ctx, tokenID); err != nil {
		return Session{}, unavailable("open session", err)
	}
	now := a.now().UTC().Truncate(time.Second)
	id, text, hash := mint()
	r := sessionRecord{ID: id, Token: tokenID, Hash: hash, Created: now, Expires: now.Add(sessionLife)}
	if !expires.IsZero() && expires.Before(r.Expires) {
		r.Expires = expires
	}
	value, err := json.Marshal(r)
	if err != nil {
		return Session{}, err
	}
	if _, err := a.store.Txn(ctx, []store.Compare{store.Absent(sessionKeys + id)}, []store.Op{store.Put(sessionKeys+id, value)}); err != nil {
		return Session{}, unavailable("open session", err)
	}
	return Session{Text: "os" + strings.TrimPrefix(text, "ot"), Expires: r.Expires, Holder: holder}, nil
}

// UseSession says who the holder of a session is. An error is a *fault.Error of kind Unauthenticated, or Unavailable.
func (a *Authenticator) UseSession(ctx context.Context, text string, remote netip.AddrPort) (Identity, error) {
	id, secret, ok := splitSession(text)
	if !ok {
		return Identity{}, ended()
	}
	k, err := a.session(ctx, id)
	if err != nil {
		return Identity{}, err
	}
	sum := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(sum[:], k.hash[:]) != 1 || !a.now().Before(k.r.Expires) {
		return Identity{}, ended()
	}
	if k.r.Who != nil {
		return k.r.Who.identity(remote)
	}
	who, _, err := a.holder(k.r.Token, remote)
	return who, err
}

// CloseSession ends one. Ending what is no session is no error.
func (a *Authenticator) CloseSession(ctx context.Context, text string) error {
	id, secret, ok := splitSession(text)
	if !ok {
		return nil
	}
	k, err := a.session(ctx, id)
	if err != nil {
		if fault.Is(err, fault.Unauthenticated) {
			return nil
		}
		return err
	}
	if sum := sha256.Sum256([]byte(secret)); subtle.ConstantTimeCompare(sum[:], k.hash[:]) != 1 {
		return nil
	}
	if _, err := a.store.Txn(ctx, nil, []store.Op{store.Delete(sessionKeys + id)}); err != nil {
		return unavailable("close session", err)
	}
	a.visits.mu.Lock()
	delete(a.visits.known, id)
	a.visits.mu.Unlock()
	return nil
}

// MakeCode makes a code for the holder of a token or a session. Codes are known to this controller alone, and not after a
// restart.
func (a *Authenticator) MakeCode(ctx context.Context, text string, remote netip.AddrPort) (Code, error) {
	if id, _, ok := splitSession(text); ok {
		if _, err := a.UseSession(ctx, text, remote); err != nil {
			return Code{}, err
		}
		k, err := a.session(ctx, id)
		if err != nil {
			return Code{}, err
		}
		return a.codeFor(code{token: k.r.Token, who: k.r.Who, ends: k.r.Expires})
	}
	if text == "" {
		return Code{}, fault.New(fault.Unauthenticated, "a token is needed")
	}
	id, err := a.Authenticate(ctx, text, remote)
	if err != nil {
		return Code{}, err
	}
	if tokenID, _, ours := split(text); ours {
		return a.codeFor(code{token: tokenID})
	}
	return a.codeFor(code{who: visitorOf(id), ends: a.now().Add(foreignSession)})
}

// CodeFor makes a code for the holder of a token that was just made here and may not be known yet.
func (a *Authenticator) CodeFor(token string) (Code, error) {
	id, _, ok := split(token)
	if !ok {
		return Code{}, fault.New(fault.Unauthenticated, "the token is not valid")
	}
	return a.codeFor(code{token: id})
}

func (a *Authenticator) codeFor(what code) (Code, error) {
	var b [secretBytes]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	c := Code{Text: "oc_" + coding.EncodeToString(b[:]), Expires: a.now().Add(codeLife)}
	a.visits.mu.Lock()
	defer a.visits.mu.Unlock()
	if a.visits.codes == nil {
		a.visits.codes = make(map[[sha256.Size]byte]code)
	}
	for k, v := range a.visits.codes {
		if !a.now().Before(v.expires) {
			delete(a.visits.codes, k)
		}
	}
	if len(a.visits.codes) >= codesMax {
		return Code{}, &fault.Error{Kind: fault.Exhausted, Msg: "too many codes wait to be used", RetryAfter: codeLife}
	}
	what.expires = c.Expires
	a.visits.codes[sha256.Sum256([]byte(c.Text))] = what
	return c, nil
}

// redeem uses a code up.
func (a *Authenticator) redeem(text string) (c code, ok bool) {
	a.visits.mu.Lock()
	defer a.visits.mu.Unlock()
	key := sha256.Sum256([]byte(text)) // finding it by its hash tells nothing about how much of it was right
	c, ok = a.visits.codes[key]
	delete(a.visits.codes, key)
	return c, ok && a.now().Before(c.expires)
}

// holder is who has the token, now.
func (a *Authenticator) holder(tokenID string, remote netip.AddrPort) (Identity, time.Time, error) {
	a.mu.RLock()
	e := a.tokens[tokenID]
	a.mu.RUnlock()
	if e == nil || !e.token.Revoked.IsZero() || !e.token.Expires.IsZero() && !a.now().Before(e.token.Expires) {
		return Identity{}, time.Time{}, &fault.Error{Kind: fault.Unauthenticated, Msg: "the token of this session is no longer valid"}
	}
	e.used.Store(a.now().UnixNano())
	t := &e.token
	return Identity{Name: t.Name, Project: t.Project, Role: t.Role, Rights: e.rights, Via: "session", Remote: remote.String()}, t.Expires, nil
}

// session finds one here, or in the store.
func (a *Authenticator) session(ctx context.Context, id string) (knownSession, error) {
	select {
	case <-a.ready:
	default:
		return knownSession{}, &fault.Error{Kind: fault.Unavailable, Msg: "the tokens are not known yet", RetryAfter: time.Second}
	}
	a.visits.mu.Lock()
	k, ok := a.visits.known[id]
	a.visits.mu.Unlock()
	if ok && a.now().Sub(k.seen) < sessionTrust {
		return k, nil
	}
	kv, err := a.store.Get(ctx, sessionKeys+id)
	if errors.Is(err, store.ErrNotFound) {
		a.visits.mu.Lock()
		delete(a.visits.known, id)
		a.visits.mu.Unlock()
		return knownSession{}, ended()
	}
	if err != nil {
		if ok { // as with tokens: what was known last goes on while the store cannot be reached
			return k, nil
		}
		return knownSession{}, unavailable("find session", err)
	}
	k = knownSession{seen: a.now()}
	sum := []byte(nil)
	if err = json.Unmarshal(kv.Value, &k.r); err == nil {
		sum, err = hex.DecodeString(k.r.Hash)
	}
	if err != nil || len(sum) != len(k.hash) {
		return knownSession{}, ended()
	}
	copy(k.hash[:], sum)
	a.visits.mu.Lock()
	defer a.visits.mu.Unlock()
	if a.visits.known == nil || len(a.visits.known) >= 4096 {
		a.visits.known = make(map[string]knownSession)
	}
	a.visits.known[id] = k
	return k, nil
}

// tidy removes sessions that have expired, and the oldest of a token that has too many.
func (a *Authenticator) tidy(ctx context.Context, tokenID string) error {
	kvs, _, err := a.store.List(ctx, sessionKeys)
	if err != nil {
		return err
	}
	var ops []store.Op
	var oldest store.KV
	var since time.Time
	n := 0
	for _, kv := range kvs {
		var r sessionRecord
		if err := json.Unmarshal(kv.Value, &r); err != nil || !a.now().Before(r.Expires) {
			if len(ops) < 64 {
				ops = append(ops, store.Delete(kv.Key))
			}
			continue
		}
		if r.Token == tokenID {
			if n++; since.IsZero() || r.Created.Before(since) {
				oldest, since = kv, r.Created
			}
		}
	}
	if n >= sessionsMax {
		ops = append(ops, store.Delete(oldest.Key))
	}
	if len(ops) == 0 {
		return nil
	}
	_, err = a.store.Txn(ctx, nil, ops)
	return err
}

func splitSession(text string) (id, secret string, ok bool) {
	rest, ok := strings.CutPrefix(text, "os_")
	if !ok {
		return "", "", false
	}
	return split("ot_" + rest)
}

func ended() error {
	return &fault.Error{Kind: fault.Unauthenticated, Msg: "the session has ended", Hint: "sign in again"}
}
