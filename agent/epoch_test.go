package agent

import (
	"errors"
	"strings"
	"testing"

	"opentap/agentapi"
)

// Which desired sets are taken one after the other, restarts between them.
func TestEpochs(t *testing.T) {
	h := newHost(t, nil)
	for _, c := range []struct {
		name     string
		epoch    string
		replaces []string
		revision int64
		ok       bool
	}{
		{"first", "A", nil, 5, true},
		{"newer", "A", nil, 6, true},
		{"again", "A", nil, 6, true},
		{"older", "A", nil, 4, false},
		{"of another store", "B", nil, 900, false},
		{"of one that follows a third", "B", []string{"X"}, 900, false},
		{"of one that follows ours", "B", []string{"X", "A"}, 2, true},
		{"of the one before", "A", nil, 7, false},
		{"older in the new one", "B", []string{"A"}, 1, false},
		{"newer in the new one", "B", nil, 3, true},
		{"of no store", "", nil, 4, false},
	} {
		h.restart()
		err := h.Obey(agentapi.Desired{Epoch: c.epoch, Replaces: c.replaces, Revision: c.revision})
		if (err == nil) != c.ok || err != nil && !errors.Is(err, agentapi.ErrStale) {
			t.Errorf("%s: %v", c.name, err)
		}
		_, facts := h.Inventory()
		if told := strings.Contains(strings.Join(facts.Problems, "\n"), "desired set is older"); told == c.ok {
			t.Errorf("%s: problems %q", c.name, facts.Problems)
		}
	}
	if err := h.ForgetEpoch(); err != nil {
		t.Fatal(err)
	}
	h.restart()
	if err := h.Obey(agentapi.Desired{Epoch: "C", Revision: 1}); err != nil {
		t.Errorf("after joining another fleet: %v", err)
	}
}
