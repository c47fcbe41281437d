package controller

import (
	"fmt"
	"testing"

	"opentap/fault"
)

// Self-tests put frames on ports: there is one of a flow at a time, and not many of all.
func TestTrialsAreFew(t *testing.T) {
	var all trials
	done, err := all.begin("f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := all.begin("f"); !fault.Is(err, fault.Conflict) {
		t.Errorf("the same flow: %v", err)
	}
	for i := range mostTrials - 1 {
		if _, err := all.begin(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := all.begin("one too many"); !fault.Is(err, fault.Exhausted) {
		t.Errorf("one too many: %v", err)
	}
	done()
	if _, err := all.begin("f"); err != nil {
		t.Errorf("once it is over: %v", err)
	}
}
