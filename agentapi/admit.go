package agentapi

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/status"
)

// Admission of new sessions. What costs is their begin: a desired set is made, an inventory and all states are read. So few
// begin at a time, and those that waited long enough are asked to come later, each at a time of its own.
const (
	beginners  = 64               // sessions that begin at the same time
	beginWait  = 5 * time.Second  // how long one waits for its turn
	onceMore   = time.Second      // what is told at least who has another session that begins
	comeLater  = 10 * time.Second // what those who waited in vain are told, on average
	beginBound = 30 * time.Second // an agent that has not told its states by then gives its place to another
)

// turn waits for a place among those that begin. done gives it back, and may be called often. later > 0: there was none, and
// that is when to ask again.
//
// A node begins one session at a time: who opens more of them than that, whyever, takes no place from others.
func (h *Hub) turn(ctx context.Context, nodeID string) (done func(), later time.Duration, err error) {
	if !h.beginning(nodeID, true) {
		return nil, onceMore + rand.N(onceMore), nil
	}
	leave, later, err := h.place(ctx)
	if leave == nil {
		h.beginning(nodeID, false)
		return nil, later, err
	}
	return sync.OnceFunc(func() {
		h.beginning(nodeID, false)
		leave()
	}), 0, nil
}

// beginning notes that a node begins a session, or does so no more. ok is false when it does already.
func (h *Hub) beginning(nodeID string, begins bool) (ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !begins {
		delete(h.beginners, nodeID)
		return true
	}
	_, does := h.beginners[nodeID]
	h.beginners[nodeID] = struct{}{}
	return !does
}

// place waits for a place among those that begin.
func (h *Hub) place(ctx context.Context) (done func(), later time.Duration, err error) {
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
