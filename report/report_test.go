package report

import (
	"strings"
	"testing"

	"opentap/ledger"
)

func TestTable(t *testing.T) {
	rows := func() [][]string { return [][]string{{"ä\x1b[2J", ""}, {"b", "two, \"three\""}} }
	for form, want := range map[Form]string{
		Text: "NAME        BIG WORD\nä\\u001b[2J  -\nb           two, \"three\"\n",
		CSV:  "name,big_word\nä\\u001b[2J,\nb,\"two, \"\"three\"\"\"\n",
		JSON: "{\n  \"a\": \"<\\u202e>\"\n}\n",
	} {
		var b strings.Builder
		if err := Table(&b, form, []string{"NAME", "BIG WORD"}, rows(), map[string]string{"a": "<\u202e>"}); err != nil || b.String() != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", form, err, b.String(), want)
		}
	}
}

func TestFields(t *testing.T) {
	list := [][2]string{{"id", "x"}, {"empty", ""}, {"größe", "1\r2"}}
	for form, want := range map[Form]string{
		Text: "id     x\ngröße  1\\u000d2\n",
		CSV:  "property,value\nid,x\nempty,\ngröße,1\\u000d2\n",
		JSON: "1\n",
	} {
		var b strings.Builder
		if err := Fields(&b, form, list, 1); err != nil || b.String() != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", form, err, b.String(), want)
		}
	}
}

func TestWords(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_950: "1.0 MB", 5e15: "5.0 PB", 5e18: "5000.0 PB"} {
		if got := Octets(n); got != want {
			t.Errorf("Octets(%d) = %s, want %s", n, got, want)
		}
	}
	l := ledger.Account{Seen: 10, Captured: 4, StoredOctets: 1500, Filtered: 3, FilterUncounted: true}
	l.Dropped[0] = 3
	if got := Accounts(&l); !strings.HasPrefix(got, "at least 10 seen, 4 captured (1.5 kB), at least 3 filtered, 3 dropped (") {
		t.Error(got)
	}
	if got := Clean("a\xffb\u200bc"); got != "a\uFFFDb\\u200bc" {
		t.Errorf("%q", got)
	}
}
