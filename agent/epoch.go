package agent

import (
	"fmt"
	"slices"

	"opentap/agentapi"
)

// staleProblem is what a refused desired set is known by among the node's problems.
const staleProblem = "desired"

// follows reports whether a desired set may be taken after the one that was. Within one store its revision must not be
// older. That of another store, or of one that was put back from a copy, says nothing: it is taken when the store's epoch
// names ours among those that it replaces, which is an administrator's word. a.mu is held.
func (a *Agent) follows(d agentapi.Desired) error {
	switch {
	case d.Epoch == a.epoch && d.Revision < a.revision:
		return fmt.Errorf("%w: %d, and %d was taken", agentapi.ErrStale, d.Revision, a.revision)
	case d.Epoch == a.epoch, a.epoch == "", slices.Contains(d.Replaces, a.epoch):
		return nil
	}
	return fmt.Errorf("%w: it is of the store %s, and revision %d of the store %s was taken; an administrator may say that the one follows the other (opentap store accept)",
		agentapi.ErrStale, d.Epoch, a.revision, a.epoch)
}

// ForgetEpoch has the next desired set taken whatever its store: this host has joined another fleet.
func (a *Agent) ForgetEpoch() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.epoch == "" {
		return nil
	}
	if err := a.keep.forgetEpoch(); err != nil {
		return err
	}
	a.epoch, a.revision = "", 0
	return nil
}
