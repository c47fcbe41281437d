package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"opentap/fault"
	"opentap/store"
)

// Spec is what a new token shall be.
type Spec struct {
	Name    string        `json:"name"`
	Role    string        `json:"role"`
	Project string        `json:"project,omitempty"` // "" = "default"
	Life    time.Duration `json:"life_ns,omitempty"` // 0 = until revoked
}

// Create makes a token and returns its text, which exists nowhere else: it cannot be shown again. by must be allowed
// to Administer. A name in use is a Conflict.
func (a *Authenticator) Create(ctx context.Context, by Identity, s Spec) (text string, t Token, err error) {
	if !by.May(Administer) {
		return "", Token{}, fault.New(fault.Forbidden, "only an administrator makes tokens")
	}
	if s.Project == "" {
		s.Project = DefaultProject
	}
	if err := errors.Join(checkName("name", s.Name), checkName("project", s.Project)); err != nil {
		return "", Token{}, err
	}
	if s.Name == "anonymous" {
		return "", Token{}, fault.Field("name", "%q is the name of callers without a token", s.Name)
	}
	if _, err := RightsOf(s.Role); err != nil {
		return "", Token{}, err
	}
	if s.Life < 0 {
		return "", Token{}, fault.Field("life", "is negative")
	}
	r, text := a.draft(s, by.Name)
	rev, err := a.store.Txn(ctx, []store.Compare{store.Absent(nameKeys + s.Name), store.Absent(tokenKeys + r.ID)}, r.puts())
	switch {
	case errors.Is(err, store.ErrConflict):
		return "", Token{}, fault.New(fault.Conflict, "there is a token named %q", s.Name)
	case err != nil:
		return "", Token{}, unavailable("create token", err)
	}
	a.learn(r, rev)
	return text, r.Token, nil
}

func (a *Authenticator) draft(s Spec, by string) (r record, text string) {
	now := a.now().UTC().Truncate(time.Second)
	id, text, hash := mint()
	r = record{Token: Token{ID: id, Name: s.Name, Role: s.Role, Project: s.Project, Created: now, By: by}, Hash: hash}
	if s.Life > 0 {
		r.Expires = now.Add(s.Life)
	}
	return r, text
}

// value returns the record as it is stored.
func (r record) value() []byte {
	r.LastUsed = time.Time{} // is not state
	b, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("auth: encode token: %v", err)) // times are ours, strings always encode
	}
	return b
}

func (r record) puts() []store.Op {
	return []store.Op{store.Put(tokenKeys+r.ID, r.value()), store.Put(nameKeys+r.Name, []byte(r.ID))}
}

// Tokens lists all tokens by name, the revoked ones too. by must be allowed to Administer.
func (a *Authenticator) Tokens(ctx context.Context, by Identity) ([]Token, error) {
	if !by.May(Administer) {
		return nil, fault.New(fault.Forbidden, "only an administrator sees tokens")
	}
	kvs, _, err := a.store.List(ctx, tokenKeys)
	if err != nil {
		return nil, unavailable("list tokens", err)
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	var out []Token
	for _, kv := range kvs {
		e, err := decode(kv)
		if err != nil {
			a.log.Error("token cannot be read", "key", kv.Key, "error", err)
			continue
		}
		if known := a.tokens[e.token.ID]; known != nil {
			if ns := known.used.Load(); ns != 0 {
				e.token.LastUsed = time.Unix(0, ns).UTC()
			}
		}
		out = append(out, e.token)
	}
	slices.SortFunc(out, func(x, y Token) int { return strings.Compare(x.Name+"\x00"+x.ID, y.Name+"\x00"+y.ID) })
	return out, nil
}

// Revoke ends the token with this id or name for good; its name becomes free. Revoking it again changes nothing. by
// must be allowed to Administer. The last valid token of an administrator is a Conflict: nobody could mend that but
// with ResetAdmin, at the machine.
func (a *Authenticator) Revoke(ctx context.Context, by Identity, idOrName string) (Token, error) {
	if !by.May(Administer) {
		return Token{}, fault.New(fault.Forbidden, "only an administrator revokes tokens")
	}
	for {
		t, err := a.revoke(ctx, idOrName)
		if !errors.Is(err, store.ErrConflict) {
			return t, err
		}
	}
}

func (a *Authenticator) revoke(ctx context.Context, idOrName string) (Token, error) {
	kvs, _, err := a.store.List(ctx, tokenKeys)
	if err != nil {
		return Token{}, unavailable("revoke token", err)
	}
	var found record
	var compares []store.Compare // every administrator's token that justifies the decision is as it was
	others := 0
	now := a.now()
	for _, kv := range kvs {
		var r record
		if err := json.Unmarshal(kv.Value, &r); err != nil {
			continue
		}
		live := r.Revoked.IsZero() && (r.Expires.IsZero() || now.Before(r.Expires))
		switch {
		case r.ID == idOrName || r.Name == idOrName && r.Revoked.IsZero():
			found = r
			compares = append(compares, store.Unchanged(kv))
		case live && r.Role == "admin" && others == 0:
			others++
			compares = append(compares, store.Unchanged(kv))
		}
	}
	switch {
	case found.ID == "":
		return Token{}, fault.New(fault.NotFound, "no token %q", idOrName)
	case !found.Revoked.IsZero():
		return found.Token, nil
	case found.Role == "admin" && others == 0 && (found.Expires.IsZero() || now.Before(found.Expires)):
		return Token{}, &fault.Error{Kind: fault.Conflict, Msg: "this is the last administrator's token", Hint: "create another one first"}
	}
	found.Revoked = now.UTC().Truncate(time.Second)
	rev, err := a.store.Txn(ctx, compares, []store.Op{store.Put(tokenKeys+found.ID, found.value()), store.Delete(nameKeys + found.Name)})
	if errors.Is(err, store.ErrConflict) {
		return Token{}, err
	}
	if err != nil {
		return Token{}, unavailable("revoke token", err)
	}
	a.learn(found, rev)
	return found.Token, nil
}

// unavailable wraps an error of the store for a caller.
func unavailable(what string, err error) error {
	if errors.Is(err, store.ErrFull) {
		return &fault.Error{Kind: fault.Exhausted, Msg: what, Err: err}
	}
	return &fault.Error{Kind: fault.Unavailable, Msg: what, Err: err, RetryAfter: time.Second}
}
