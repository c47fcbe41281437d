package member

import (
	"strings"
	"testing"
)

func TestTokenText(t *testing.T) {
	a := NewToken("SHA256:" + strings.Repeat("A", 43))
	got, err := ParseToken("  " + a.String() + "\n")
	if err != nil || got != a {
		t.Errorf("%+v, %v", got, err)
	}
	if n := len(a.String()); n != 126 {
		t.Errorf("%d characters", n)
	}
	for _, bad := range []string{"", "ot_x", a.String()[:125], a.String() + "a", strings.ToUpper(a.String()), strings.Replace(a.String(), "_", "-", 1)} {
		if _, err := ParseToken(bad); err == nil || strings.Contains(err.Error(), a.Secret) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(NewToken("SHA256:" + strings.Repeat("A", 43)).String())
	f.Fuzz(func(t *testing.T, s string) {
		if tok, err := ParseToken(s); err == nil && tok.String() != strings.TrimSpace(s) {
			t.Errorf("%q is read as %q", s, tok.String())
		}
	})
}
