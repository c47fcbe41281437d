package agent

import (
	"errors"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"opentap/agentapi"
	"opentap/ledger"
	"opentap/want"
)

func reopen(t *testing.T, k *keep, path string) *keep {
	t.Helper()
	if k != nil {
		if err := k.close(); err != nil {
			t.Fatal(err)
		}
	}
	k, err := openKeep(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.close() })
	return k
}

func TestKeepRemembers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.db")
	k := reopen(t, nil, path)
	a, b := asked(1, want.Packets, 1), asked(2, want.Flows, 2)
	if err := k.obey(agentapi.Desired{Revision: 7, Captures: []want.Capture{a, b}}); err != nil {
		t.Fatal(err)
	}
	m := memo{Apart: 3, Status: want.Status{
		UID: a.UID, State: want.Running, Started: a.Created,
		Ledger: ledger.Account{Seen: 5, Captured: 4, Dropped: [ledger.NumReasons]uint64{ledger.Disk: 1}},
		Gaps:   []want.Gap{{From: a.Created, Reason: "device is down"}},
	}}
	for _, uid := range []string{a.UID, uidOf(99)} { // the second is not desired, and not remembered
		if err := k.remember(uid, &m); err != nil {
			t.Fatal(err)
		}
	}
	id := k.nodeID
	k = reopen(t, k, path)
	revision, wanted, done, err := k.load()
	if err != nil || revision != 7 || k.nodeID != id || !reflect.DeepEqual(wanted, []want.Capture{a, b}) {
		t.Fatalf("revision %d, node %s, wanted %+v, %v", revision, k.nodeID, wanted, err)
	}
	if len(done) != 1 || !reflect.DeepEqual(*done[a.UID], m) {
		t.Errorf("remembered %+v, want %+v", done, m)
	}
	if err := k.obey(agentapi.Desired{Revision: 8, Captures: []want.Capture{b}}); err != nil {
		t.Fatal(err)
	}
	if _, wanted, done, err = k.load(); err != nil || len(wanted) != 1 || len(done) != 0 {
		t.Errorf("after the drop: %+v, %+v, %v", wanted, done, err)
	}
}

func TestKeepIsForOneAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.db")
	reopen(t, nil, path)
	if k, err := openKeep(path); err == nil {
		_ = k.close()
		t.Error("a second agent has the same state")
	}
}

func TestCloneSharesNothing(t *testing.T) {
	m := memo{Status: want.Status{Gaps: []want.Gap{{Reason: "a"}}}}
	c := m.clone()
	c.Status.Gaps[0].Reason = "b"
	if m.Status.Gaps[0].Reason != "a" {
		t.Error("the gaps are shared")
	}
}

func TestAppendGapStaysInTheWindow(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	for name, tt := range map[string]struct {
		from, to, end time.Time
		want          []want.Gap
	}{
		"no end":      {at(1), at(5), time.Time{}, []want.Gap{{From: at(1), To: at(5)}}},
		"inside":      {at(1), at(5), at(9), []want.Gap{{From: at(1), To: at(5)}}},
		"over it":     {at(1), at(5), at(3), []want.Gap{{From: at(1), To: at(3)}}},
		"behind it":   {at(4), at(5), at(3), nil},
		"clock back":  {at(5), at(1), at(9), nil},
		"no time off": {at(5), at(5), at(9), nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := appendGap(nil, tt.from, tt.to, tt.end)
			for i := range got {
				got[i].Reason = ""
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestKeepRemembersWhenItWasAlive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.db")
	k, err := openKeep(path)
	if err != nil {
		t.Fatal(err)
	}
	if !k.alive.IsZero() {
		t.Errorf("a new agent was alive at %v", k.alive)
	}
	at := time.Now().UTC().Truncate(time.Nanosecond)
	if err := errors.Join(k.beat(at.Add(-time.Hour)), k.beat(at), k.close()); err != nil {
		t.Fatal(err)
	}
	if k, err = openKeep(path); err != nil {
		t.Fatal(err)
	}
	defer k.close()
	if !k.alive.Equal(at) {
		t.Errorf("alive at %v, want %v", k.alive, at)
	}
}
