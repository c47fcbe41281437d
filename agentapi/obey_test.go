package agentapi

import (
	"bytes"
	"testing"

	"opentap/want"
)

// An agent that cannot keep a desired set for now is still read from: its session goes on.
func TestASetThatFailsEndsNoSession(t *testing.T) {
	l := &local{data: []byte("octets")}
	p := join(t, l)
	p.fleet.update(func() { p.fleet.rev, p.fleet.desired = 6, []want.Capture{{UID: "a"}} })
	p.hub.Kick("n1")
	p.fleet.await(t, "revision 6 is taken", func() bool { return p.fleet.revision == 6 })
	r, err := p.hub.Open(t.Context(), "n1", "host1", "known", want.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l.mu.Lock()
	l.refuse = 1
	l.mu.Unlock()
	p.fleet.update(func() { p.fleet.rev = 7 })
	p.hub.Kick("n1")
	p.fleet.await(t, "revision 7 is taken", func() bool { return p.fleet.revision == 7 })
	var b bytes.Buffer
	if err := r.Write(t.Context(), &b, 0, -1); err != nil || b.String() != "octets" {
		t.Errorf("%q, %v", b.String(), err)
	}
}
