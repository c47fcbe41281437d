package ledger

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

func draw(t *rapid.T) Account {
	n := rapid.Uint64Range(0, 1<<40)
	a := Account{
		Captured: n.Draw(t, "captured"), Filtered: n.Draw(t, "filtered"), SampledOut: n.Draw(t, "sampled"), RateLimited: n.Draw(t, "rate"),
		Octets: n.Draw(t, "octets"), StoredOctets: n.Draw(t, "stored"), FilterUncounted: rapid.Bool().Draw(t, "uncounted"),
	}
	for i := range a.Dropped {
		a.Dropped[i] = n.Draw(t, "dropped")
	}
	a.Balance()
	return a
}

func TestJSONKeepsEveryCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := draw(t)
		b, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var back Account
		if err := json.Unmarshal(b, &back); err != nil || back != a {
			t.Fatalf("%s came back as %+v, %v", b, back, err)
		}
	})
}

func TestSumsAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t), draw(t)
		sum := a
		sum.Add(&b)
		if err := sum.Check(); err != nil || sum.DroppedTotal() != a.DroppedTotal()+b.DroppedTotal() {
			t.Fatalf("%+v: %v", sum, err)
		}
		if back := sum.Since(&a); back != b && back.FilterUncounted == b.FilterUncounted {
			t.Fatalf("since the first %+v, want %+v", back, b)
		}
		if none := a.Since(&sum); none.Check() != nil || none.Seen != 0 {
			t.Fatalf("less than before is %+v", none)
		}
		sum.Seen++
		if sum.Check() == nil {
			t.Fatal("a packet too many was not found")
		}
	})
}

func TestReasonsOfANewerVersionAreKept(t *testing.T) {
	var a Account
	err := json.Unmarshal([]byte(`{"seen": 9, "captured": 2, "dropped": {"disk": 3, "gremlins": 4}}`), &a)
	if err != nil || a.Dropped[Other] != 4 || a.Dropped[Disk] != 3 || a.Check() != nil {
		t.Errorf("%+v, %v", a, err)
	}
}
