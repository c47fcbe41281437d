package agentapi

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/status"
)

// Admission of new sessions. What costs is their begin: a desired set is made, an inventory and all states are read. So few
// begin at a time, and those that waited long enough are asked to come later, each at a time of its own.
const (
	beginners  = 64               // sessions that begin at the same time
	beginWait  = 5 * time.Second  // how long one waits for its turn
	comeLater  = 10 * time.Second // what those who waited in vain are told, on average
	beginBound = 30 * time.Second // an agent that has not told its states by then gives its place to another
)

// turn waits for a place among those that begin. done gives it back, and may be called often. later > 0: there was none, and
// that is when to ask again.
func (h *Hub) turn(ctx context.Context) (done func(), later time.Duration, err error) {
	t := time.NewTimer(beginWait)
	defer t.Stop()
	select {
	case h.begin <- struct{}{}:
	case <-ctx.Done():
		return nil, 0, status.FromContextError(ctx.Err()).Err()
	case <-t.C:
		h.turnedAway.Add(1)
		return nil, comeLater/2 + rand.N(comeLater), nil
	}
	bound := time.AfterFunc(beginBound, func() { <-h.begin })
	return func() {
		if bound.Stop() {
			<-h.begin
		}
	}, 0, nil
}

// TurnedAway counts the sessions that were asked to come later.
func (h *Hub) TurnedAway() uint64 { return h.turnedAway.Load() }

// laterError is what a session ends with when the controller has too much to do.
type laterError struct{ after time.Duration }

func (e *laterError) Error() string {
	return fmt.Sprintf("many agents are connecting; the controller asks to come again in %s", e.after.Round(time.Millisecond))
}

// asked is how long the controller asked to wait; 0 = it did not.
func asked(err error) time.Duration {
	var e *laterError
	if !errors.As(err, &e) {
		return 0
	}
	return min(e.after, time.Minute)
}
