package auth

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"opentap/store"
)

// visitor is who has a session that stands for no token of ours: somebody else said who it is.
type visitor struct {
	Name    string `json:"name"`
	Project string `json:"project"`
	Role    string `json:"role"`
	Via     string `json:"via"`
}

func (v *visitor) identity(remote netip.AddrPort) (Identity, error) {
	rights, err := RightsOf(v.Role)
	return Identity{Name: v.Name, Project: v.Project, Role: v.Role, Rights: rights, Via: "session, " + v.Via, Remote: remote.String()}, err
}

// foreignSession is how long a browser's session lasts that somebody else vouched for: it hears of no dismissal before.
const foreignSession = 8 * time.Hour

// OpenSessionFor opens a session for somebody whom a Verifier has just named.
func (a *Authenticator) OpenSessionFor(ctx context.Context, id Identity, remote netip.AddrPort) (Session, error) {
	return a.openVisit(ctx, visitorOf(id), a.now().Add(foreignSession), remote)
}

func visitorOf(id Identity) *visitor {
	return &visitor{Name: id.Name, Project: id.Project, Role: id.Role, Via: id.Via}
}

// openVisit opens a session that ends at a time.
func (a *Authenticator) openVisit(ctx context.Context, v *visitor, ends time.Time, remote netip.AddrPort) (Session, error) {
	holder, err := v.identity(remote)
	if err != nil {
		return Session{}, err
	}
	user := "user " + v.Via + " " + v.Name // no id of a token looks like that
	if err := a.tidy(ctx, user); err != nil {
		return Session{}, unavailable("open session", err)
	}
	now := a.now().UTC().Truncate(time.Second)
	sid, text, hash := mint()
	r := sessionRecord{ID: sid, Token: user, Hash: hash, Created: now, Expires: ends.UTC().Truncate(time.Second), Who: v}
	value, err := json.Marshal(r)
	if err != nil {
		return Session{}, err
	}
	if _, err := a.store.Txn(ctx, []store.Compare{store.Absent(sessionKeys + sid)}, []store.Op{store.Put(sessionKeys+sid, value)}); err != nil {
		return Session{}, unavailable("open session", err)
	}
	return Session{Text: "os" + text[2:], Expires: r.Expires, Holder: holder}, nil
}
