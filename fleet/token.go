package fleet

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/member"
	"opentap/store"
	"opentap/want"
)

// Lives of join tokens.
const (
	DefaultTokenLife = time.Hour
	MaxTokenLife     = 30 * 24 * time.Hour
)

// joinToken is a token as the store holds it. Its secret is 256 random bits, so that a plain hash keeps it; see package auth.
type joinToken struct {
	want.JoinToken
	Hash string `json:"sha256"`        // of the secret, hex
	Key  string `json:"key,omitempty"` // of the host that used it: SHA-256 of its public key, hex
}

// CreateJoinToken makes a token that lets one host join, once, for a while. With a node it lets that one join anew.
func (r *Registry) CreateJoinToken(ctx context.Context, by auth.Identity, req want.JoinTokenRequest) (want.JoinToken, error) {
	life := time.Duration(req.Life)
	switch {
	case life == 0:
		life = DefaultTokenLife
	case life < 0 || life > MaxTokenLife:
		return want.JoinToken{}, fault.Field("life", "is %s; it can be up to %s", life, MaxTokenLife)
	}
	if err := checkNodeName(req.Node); req.Node != "" && err != nil {
		return want.JoinToken{}, err
	}
	t := member.NewToken(r.Authority())
	now := r.now().UTC().Truncate(time.Second)
	sum := sha256.Sum256([]byte(t.Secret))
	j := joinToken{
		JoinToken: want.JoinToken{ID: t.ID, Node: req.Node, Created: now, By: by.Name, Expires: now.Add(life)},
		Hash:      hex.EncodeToString(sum[:]),
	}
	if _, err := r.store.Txn(ctx, []store.Compare{store.Absent(tokenKeys + t.ID)}, []store.Op{store.Put(tokenKeys+t.ID, encode(j))}); err != nil {
		return want.JoinToken{}, unavailable("create join token", err)
	}
	out := j.JoinToken
	out.Token = t.String()
	return out, nil
}

// JoinTokens lists the tokens that were made and not forgotten, the newest first.
func (r *Registry) JoinTokens(ctx context.Context) ([]want.JoinToken, error) {
	kvs, _, err := r.store.List(ctx, tokenKeys)
	if err != nil {
		return nil, unavailable("list join tokens", err)
	}
	var out []want.JoinToken
	for _, kv := range kvs {
		var j joinToken
		if err := json.Unmarshal(kv.Value, &j); err != nil {
			r.log.Error("join token cannot be read", "key", kv.Key, "err", err)
			continue
		}
		out = append(out, j.JoinToken)
	}
	slices.SortFunc(out, func(a, b want.JoinToken) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, nil
}

// DeleteJoinToken forgets a token: nobody joins by it any more.
func (r *Registry) DeleteJoinToken(ctx context.Context, id string) error {
	if !isTokenID(id) {
		return fault.New(fault.NotFound, "no join token %q", id)
	}
	kv, err := r.store.Get(ctx, tokenKeys+id)
	if errors.Is(err, store.ErrNotFound) {
		return fault.New(fault.NotFound, "no join token %q", id)
	}
	if err == nil {
		_, err = r.store.Txn(ctx, nil, []store.Op{store.Delete(kv.Key)})
	}
	if err != nil {
		return unavailable("delete join token", err)
	}
	return nil
}

func isTokenID(id string) bool {
	return len(id) == 16 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// refused is what somebody is told who has no right to join; the same for a wrong id and a wrong secret.
var refused = fault.New(fault.Unauthenticated, "the join token is not valid")

// token finds the token that a host presents. The error says "used" or "expired" to the right secret alone.
func (r *Registry) token(ctx context.Context, t member.Token, key string) (joinToken, store.KV, error) {
	var j joinToken
	kv, err := r.store.Get(ctx, tokenKeys+t.ID)
	if errors.Is(err, store.ErrNotFound) {
		return j, kv, refused
	}
	if err != nil {
		return j, kv, unavailable("join", err)
	}
	if err := json.Unmarshal(kv.Value, &j); err != nil {
		return j, kv, err
	}
	sum := sha256.Sum256([]byte(t.Secret))
	if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(j.Hash)) != 1 {
		return j, kv, refused
	}
	switch {
	case !r.now().Before(j.Expires):
		return j, kv, fault.New(fault.Unauthenticated, "the join token expired on %s", j.Expires.Format(time.RFC3339))
	case !j.Used.IsZero() && j.Key != key: // the same key asks again when the answer was lost
		return j, kv, fault.New(fault.Unauthenticated, "the join token was used on %s, by node %s", j.Used.Format(time.RFC3339), j.UsedBy)
	}
	return j, kv, nil
}

// tidyAfter is how long a token is remembered that nobody can use any more.
const tidyAfter = 7 * 24 * time.Hour

// tidy forgets tokens that have long been of no use.
func (r *Registry) tidy(ctx context.Context) error {
	kvs, _, err := r.store.List(ctx, tokenKeys)
	if err != nil {
		return err
	}
	for _, kv := range kvs {
		var j joinToken
		if json.Unmarshal(kv.Value, &j) == nil && r.now().After(j.Expires.Add(tidyAfter)) {
			_, err := r.store.Txn(ctx, []store.Compare{store.Unchanged(kv)}, []store.Op{store.Delete(kv.Key)})
			if err != nil && !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
	}
	return nil
}
