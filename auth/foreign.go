package auth

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"

	"opentap/fault"
)

// Verifier takes the word of somebody else for who a caller is. It is safe for concurrent use.
type Verifier interface {
	// Recognises reports whether a credential is one that this verifier can say anything about. It asks nobody.
	Recognises(credential string) bool
	// Verify says who has the credential, and until when that may be believed without asking again. Errors are *fault.Error:
	// Unauthenticated, or Unavailable when nobody could be asked.
	Verify(ctx context.Context, credential string) (id Identity, until time.Time, err error)
}

// foreignTrust is how long a verifier's word is believed at the most: so long one that was taken back can go on here.
const foreignTrust = time.Minute

// foreignMemory is how many credentials are remembered as good.
const foreignMemory = 4096

// foreigners remembers credentials of others that were found good, by their hash. The zero value is ready.
type foreigners struct {
	mu   sync.Mutex
	good map[[sha256.Size]byte]foreigner
}

type foreigner struct {
	id    Identity
	until time.Time
}

type projectKey struct{}

// WithProject notes which of his projects a caller wants to act in; "" = whichever.
func WithProject(ctx context.Context, project string) context.Context {
	if project == "" {
		return ctx
	}
	return context.WithValue(ctx, projectKey{}, project)
}

// WantedProject returns what WithProject noted.
func WantedProject(ctx context.Context) string {
	p, _ := ctx.Value(projectKey{}).(string)
	return p
}

// foreign asks the verifier that recognises a credential. ok is false when none does.
func (a *Authenticator) foreign(ctx context.Context, credential string, remote netip.AddrPort) (id Identity, ok bool, err error) {
	for _, v := range a.verifiers {
		if v.Recognises(credential) {
			id, err = a.verify(ctx, v, credential, remote)
			return id, true, err
		}
	}
	return Identity{}, false, nil
}

func (a *Authenticator) verify(ctx context.Context, v Verifier, credential string, remote netip.AddrPort) (Identity, error) {
	now := a.now()
	key := sha256.Sum256([]byte(credential + "\x00" + WantedProject(ctx)))
	a.others.mu.Lock()
	f, known := a.others.good[key]
	a.others.mu.Unlock()
	if known && now.Before(f.until) {
		f.id.Remote = remote.String()
		return f.id, nil
	}
	// Somebody else is asked for it, perhaps over the network: that is not done for who only guesses.
	if wait := a.wrong.wait(remote.Addr(), now); wait > 0 {
		return Identity{}, &fault.Error{Kind: fault.Exhausted, Msg: "too many wrong credentials from this address", RetryAfter: wait}
	}
	id, until, err := v.Verify(ctx, credential)
	if err != nil {
		if fault.Is(err, fault.Unauthenticated) {
			if wait := a.wrong.failed(remote.Addr(), now); wait > 0 {
				return Identity{}, &fault.Error{Kind: fault.Exhausted, Msg: "too many wrong credentials from this address", RetryAfter: wait}
			}
		}
		return Identity{}, err
	}
	if id.Rights, err = RightsOf(id.Role); err != nil {
		return Identity{}, err
	}
	if id.Project == "" {
		id.Project = DefaultProject
	}
	if checkName("name", id.Name) != nil || checkName("project", id.Project) != nil {
		return Identity{}, fault.New(fault.Unauthenticated, "the name or project that %s gives cannot be shown safely", id.Via)
	}
	a.others.mu.Lock()
	if a.others.good == nil {
		a.others.good = make(map[[sha256.Size]byte]foreigner)
	}
	for k, f := range a.others.good {
		if len(a.others.good) < foreignMemory && now.Before(f.until) {
			break // some of what is old goes with each that comes
		}
		delete(a.others.good, k)
	}
	if most := now.Add(foreignTrust); until.After(most) {
		until = most
	}
	a.others.good[key] = foreigner{id, until}
	a.others.mu.Unlock()
	id.Remote = remote.String()
	return id, nil
}
