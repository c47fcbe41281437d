package controller

import (
	"context"
	"io"
	"testing"

	"opentap/want"
)

// A tenant reads the sensors it was given, and no node tells readings of another.
func TestATenantReadsItsSensorsAlone(t *testing.T) {
	b := newBench(t, nil)
	b.hub.live = func(ctx context.Context, _ <-chan struct{}, _ string, spec want.LiveSpec, w io.Writer) error {
		if spec.Look == nil || !spec.Look.Sensors {
			<-ctx.Done()
			return ctx.Err()
		}
		_, err := w.Write(marshal(want.Sensors{
			Readings: []want.SensorReading{{Node: "host9", Point: "temp1"}, {Node: "host1", Point: "temp2"}}, Problems: []string{"temp3: it is broken"},
		}))
		return err
	}
	all, err := b.Sensors(t.Context(), alice)
	if err != nil || len(all.Readings) != 2 || all.Readings[0].Node != "host1" || len(all.Problems) != 1 {
		t.Errorf("before a project is declared: %v, %+v", err, all)
	}
	if _, _, err := b.SetTenant(t.Context(), root, "red", want.ProjectRequest{Points: []string{"host1/temp1"}}); err != nil {
		t.Fatal(err)
	}
	own, err := b.Sensors(t.Context(), alice)
	if err != nil || len(own.Readings) != 1 || own.Readings[0].Point != "temp1" || len(own.Problems) != 0 {
		t.Errorf("%v, %+v", err, own)
	}
}
