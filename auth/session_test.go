package auth

import (
	"strings"
	"testing"
	"time"

	"opentap/fault"
)

func TestSession(t *testing.T) {
	b := start(t, nil)
	beside := start(t, b.store) // another controller
	text, tok := b.create(t, Spec{Name: "ann", Role: "analyst", Project: "blue"})
	beside.await(t, tok.ID, func(e *entry) bool { return e != nil })
	b.create(t, Spec{Name: "root", Role: "admin"})
	if _, err := b.OpenSession(t.Context(), text+"x", peer); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a wrong token opened a session: %v", err)
	}
	if _, err := b.OpenSession(t.Context(), "", peer); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("no token opened a session: %v", err)
	}
	s, err := b.OpenSession(t.Context(), text, peer)
	if err != nil || s.Holder.Name != "ann" || !s.Expires.Equal(b.clock.now().Add(sessionLife).Truncate(time.Second)) {
		t.Fatalf("%+v, %v", s, err)
	}
	_, secret, _ := split(text)
	if strings.Contains(s.Text, secret) || s.Text == text {
		t.Error("the session's text holds the token")
	}
	for name, who := range map[string]*bench{"here": b, "beside": beside} {
		id, err := who.UseSession(t.Context(), s.Text, peer)
		if err != nil || id.Name != "ann" || id.Project != "blue" || id.Via != "session" || !id.May(ReadPayload) || id.May(Administer) {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	for _, wrong := range []string{"", "x", text, s.Text + "a", s.Text[:len(s.Text)-1] + "!", "os_aaaaaaaaaaaaaaaa_" + strings.Repeat("a", 52)} {
		if _, err := b.UseSession(t.Context(), wrong, peer); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if _, err := b.Authenticate(t.Context(), s.Text, peer); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a session was taken for a token: %v", err)
	}
	other := []byte(s.Text)
	if at := len(other) - 9; other[at] == 'a' {
		other[at] = 'b'
	} else {
		other[at] = 'a'
	}
	if err := b.CloseSession(t.Context(), string(other)); err != nil {
		t.Error(err)
	}
	if _, err := b.UseSession(t.Context(), s.Text, peer); err != nil {
		t.Errorf("closed with a wrong secret: %v", err)
	}
	if err := b.CloseSession(t.Context(), s.Text); err != nil {
		t.Fatal(err)
	}
	beside.clock.add(sessionTrust)
	for name, who := range map[string]*bench{"here": b, "beside": beside} {
		if _, err := who.UseSession(t.Context(), s.Text, peer); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("%s: a closed session lives: %v", name, err)
		}
	}
	if err := b.CloseSession(t.Context(), s.Text); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestSessionEndsWithItsToken(t *testing.T) {
	b := start(t, nil)
	b.create(t, Spec{Name: "root", Role: "admin"})
	text, _ := b.create(t, Spec{Name: "ann", Role: "viewer"})
	short, _ := b.create(t, Spec{Name: "bob", Role: "viewer", Life: time.Hour})
	ann, err := b.OpenSession(t.Context(), text, peer)
	if err != nil {
		t.Fatal(err)
	}
	bob, err := b.OpenSession(t.Context(), short, peer)
	if err != nil || bob.Expires.Sub(b.clock.now()) > time.Hour {
		t.Fatalf("outlives its token: %v, %v", bob.Expires, err)
	}
	if _, err := b.Revoke(t.Context(), root, "ann"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.UseSession(t.Context(), ann.Text, peer); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("its token was revoked: %v", err)
	}
	b.clock.add(time.Hour)
	if _, err := b.UseSession(t.Context(), bob.Text, peer); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("its token expired: %v", err)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	b := start(t, nil)
	text, _ := b.create(t, Spec{Name: "ann", Role: "viewer"})
	for range sessionsMax + 5 {
		if _, err := b.OpenSession(t.Context(), text, peer); err != nil {
			t.Fatal(err)
		}
		b.clock.add(time.Second)
	}
	if kvs, _, _ := b.store.List(t.Context(), sessionKeys); len(kvs) != sessionsMax {
		t.Errorf("%d sessions are kept", len(kvs))
	}
	b.clock.add(2 * sessionLife)
	if _, err := b.OpenSession(t.Context(), text, peer); err != nil {
		t.Fatal(err)
	}
	if kvs, _, _ := b.store.List(t.Context(), sessionKeys); len(kvs) != 1 {
		t.Errorf("%d sessions are kept, want 1: the others have expired", len(kvs))
	}
}

func TestCode(t *testing.T) {
	b := start(t, nil)
	text, _ := b.create(t, Spec{Name: "ann", Role: "viewer"})
	c, err := b.MakeCode(t.Context(), text, peer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Authenticate(t.Context(), c.Text, peer); err == nil {
		t.Error("a code was taken for a token")
	}
	s, err := b.OpenSession(t.Context(), c.Text, peer)
	if err != nil || s.Holder.Name != "ann" {
		t.Fatalf("%+v, %v", s, err)
	}
	if _, err := b.OpenSession(t.Context(), c.Text, peer); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a code worked twice: %v", err)
	}
	if c, err = b.MakeCode(t.Context(), s.Text, peer); err != nil {
		t.Fatalf("a session makes no code: %v", err)
	}
	b.clock.add(codeLife)
	if _, err := b.OpenSession(t.Context(), c.Text, peer); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("an old code works: %v", err)
	}
	for range codesMax {
		if _, err := b.CodeFor(text); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.CodeFor(text); !fault.Is(err, fault.Exhausted) {
		t.Errorf("codes without end: %v", err)
	}
	if _, err := b.MakeCode(t.Context(), "ot_wrong", peer); !fault.Is(err, fault.Unauthenticated) {
		t.Error(err)
	}
}

// Who signed in elsewhere gets a code that can be used, and no more time by it.
func TestACodeForWhoSignedInElsewhere(t *testing.T) {
	b := start(t, nil)
	s, err := b.OpenSessionFor(t.Context(), Identity{Name: "ann", Project: "blue", Role: "analyst", Via: "oidc"}, peer)
	if err != nil {
		t.Fatal(err)
	}
	b.clock.add(time.Minute)
	code, err := b.MakeCode(t.Context(), s.Text, peer)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.OpenSession(t.Context(), code.Text, peer)
	if err != nil || again.Holder.Name != "ann" || again.Holder.Project != "blue" || again.Holder.Via != "session, oidc" {
		t.Fatalf("%+v, %v", again, err)
	}
	if !again.Expires.Equal(s.Expires) {
		t.Errorf("the session ends at %s, and what it came from at %s", again.Expires, s.Expires)
	}
	if id, err := b.UseSession(t.Context(), again.Text, peer); err != nil || id.Name != "ann" || id.May(Administer) {
		t.Errorf("%+v, %v", id, err)
	}
	if _, err := b.OpenSession(t.Context(), code.Text, peer); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("the code twice: %v", err)
	}
}
