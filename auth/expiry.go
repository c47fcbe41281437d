package auth

import "time"

// Expiry returns when a token ends by itself; zero = never, or it is none that is known here.
func (a *Authenticator) Expiry(token string) time.Time {
	id, _, ok := split(token)
	if !ok {
		return time.Time{}
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if e := a.tokens[id]; e != nil {
		return e.token.Expires
	}
	return time.Time{}
}
