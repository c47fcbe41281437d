package controller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"opentap/agentapi"
	"opentap/fault"
	"opentap/want"
)

func found(check string) want.Examination {
	return want.Examination{
		Node: "what it says of itself", Findings: []want.Finding{{Node: "what it says of itself", Check: check, Severity: want.Fine, Text: "fine"}},
		Settings: []want.Setting{{Key: "role", Value: check}},
	}
}

// summary is one word for each finding.
func summary(x *want.Examination) string {
	var b []string
	for _, f := range x.Findings {
		b = append(b, f.Node+":"+f.Check+":"+string(f.Severity))
	}
	return strings.Join(b, " ")
}

// Every node is asked once, speaks for itself alone, and cannot keep its silence secret.
func TestDoctorLooksAtTheFleet(t *testing.T) {
	b := newBench(t, nil)
	if _, err := b.Doctor(t.Context(), root, ""); !fault.Is(err, fault.Unavailable) {
		t.Errorf("without a doctor: %v", err)
	}
	b.SetDoctor(Doctor{Node: "ctl", NodeID: "n0", Look: func(context.Context) (want.Examination, error) { return found("own"), nil }})
	for _, n := range []string{"0 ctl", "2 host2", "3 host3", "4 old"} {
		id, name, _ := strings.Cut(n, " ")
		b.Joined(agentapi.Identity{NodeID: "n" + id, NodeName: name})
	}
	b.Left("n2")
	b.hub.live = func(ctx context.Context, _ <-chan struct{}, nodeID string, spec want.LiveSpec, w io.Writer) error {
		switch {
		case spec.Look == nil || !spec.Look.Doctor:
			<-ctx.Done()
			return ctx.Err()
		case nodeID == "n1":
			_, err := w.Write(marshal(found("kernel")))
			return err
		case nodeID == "n3":
			_, err := io.WriteString(w, "nonsense")
			return err
		case nodeID == "n4":
			return fault.New(fault.Unsupported, "it is older than the controller")
		}
		return fault.New(fault.Internal, "node %s is not to be asked", nodeID)
	}
	for node, want := range map[string]string{
		"":      "ctl:own:ok host1:kernel:ok host2:node:bad host3:node:bad old:node:warn",
		"ctl":   "ctl:own:ok",
		"n0":    "ctl:own:ok",
		"host1": "host1:kernel:ok",
		"n2":    "host2:node:bad",
	} {
		x, err := b.Doctor(t.Context(), root, node)
		if got := summary(&x); err != nil || got != want {
			t.Errorf("%q: %v, %s", node, err, got)
		}
		for _, f := range x.Findings {
			if (f.Fix == "") != (f.Severity == "ok") {
				t.Errorf("%+v", f)
			}
		}
	}
	if x, err := b.Doctor(t.Context(), root, "host1"); err != nil || x.Node != "host1" || x.Settings[0].Value != "kernel" {
		t.Errorf("%v, %+v", err, x)
	}
	if x, _ := b.Doctor(t.Context(), root, "host2"); !strings.Contains(x.Findings[0].Text, "not connected") {
		t.Errorf("%+v", x)
	}
	if _, err := b.Doctor(t.Context(), root, "host9"); !fault.Is(err, fault.NotFound) {
		t.Errorf("no such node: %v", err)
	}
	if _, err := b.Doctor(t.Context(), alice, "host1"); !fault.Is(err, fault.Forbidden) || !strings.Contains(b.trail.actions(), "node.examine:denied") {
		t.Errorf("an owner: %v", err)
	}
}

// One that is slow costs its patience, many at once are as many as may be, and the round ends in time.
func TestARoundEndsInTime(t *testing.T) {
	slow := func(ctx context.Context) (want.Examination, error) {
		<-ctx.Done()
		return want.Examination{}, errors.New("ended")
	}
	fast := func(context.Context) (want.Examination, error) { return found("kernel"), nil }
	for _, slows := range []int{1, patientsAtOnce, 10 * patientsAtOnce} {
		t.Run(fmt.Sprint(slows), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				patients := []patient{{"first", fast}}
				for range slows {
					patients = append(patients, patient{"slow", slow})
				}
				patients = append(patients, patient{"last", fast})
				began := time.Now()
				x := round(t.Context(), patients)
				if took, most := time.Since(began), min(roundPatience, time.Duration(1+slows/patientsAtOnce)*patientPatience); took < patientPatience || took > most {
					t.Errorf("it took %s, not %s to %s", took, patientPatience, most)
				}
				if len(x.Findings) != len(patients) || x.Findings[0].Check != "kernel" || !strings.Contains(x.Findings[1].Text, "in time") || x.Findings[slows].Node != "slow" {
					t.Errorf("%d findings, %+v …", len(x.Findings), x.Findings[:2])
				}
			})
		})
	}
}
