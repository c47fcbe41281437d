package reconcile

import (
	"fmt"
	"time"

	"opentap/want"
)

// retryMost is the longest time between tries of a policy that a switch has refused: others may have made room meanwhile.
const retryMost = 10 * time.Minute

// refusal is a policy that a switch does not take.
type refusal struct {
	why   string
	tries int
	next  time.Time // when it is tried again
}

// text says why, and when it is tried again.
func (r *refusal) text() string {
	tried := "once"
	if r.tries > 1 {
		tried = fmt.Sprintf("%d times", r.tries)
	}
	return fmt.Sprintf("%s; tried %s, and again at %s", r.why, tried, r.next.UTC().Format(time.TimeOnly+"Z"))
}

// refuse leaves policies out until they are tried again.
func (e *Engine) refuse(policies map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for p, why := range policies {
		r := e.refused[p]
		if r == nil {
			r = &refusal{}
			e.refused[p] = r
		}
		wait := min(e.cfg.Retry<<min(r.tries, 10), retryMost)
		if r.why != why {
			e.log.Warn("a policy cannot be", "policy", p, "why", why)
		}
		r.why, r.tries, r.next = why, r.tries+1, time.Now().Add(wait)
		time.AfterFunc(wait+10*time.Millisecond, e.Kick)
	}
}

// leftOut are the policies that are left out at a time: why. With the zero time it is all that were refused and have not gone through since.
// e.mu is held.
func (e *Engine) leftOut(now time.Time) map[string]string {
	out := make(map[string]string)
	for p, r := range e.refused {
		if now.Before(r.next) {
			out[p] = r.text()
		}
	}
	return out
}

// accepted forgets refusals of policies that have gone through. e.mu is held.
func (e *Engine) accepted() {
	for _, o := range e.intent.Policies {
		if o.State != want.PolicyInfeasible {
			delete(e.refused, o.Name)
		}
	}
}
