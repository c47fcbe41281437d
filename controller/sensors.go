package controller

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/want"
)

// sensorPatience is how long a node may look for sensors and read them.
const sensorPatience = 30 * time.Second

// Sensors has all nodes look for sensors and read each once. Nodes that cannot be asked are among the problems.
func (c *Controller) Sensors(ctx context.Context, id auth.Identity) (want.Sensors, error) {
	if !id.May(auth.ReadPayload) {
		return want.Sensors{}, c.refuse(ctx, id, "sensors.read", "", auth.ReadPayload)
	}
	if err := c.record(ctx, id, "sensors.read", "", id.Project, nil); err != nil {
		return want.Sensors{}, err
	}
	nodes, err := c.Nodes(ctx, id)
	if err != nil {
		return want.Sensors{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, sensorPatience)
	defer cancel()
	out := want.Sensors{Readings: []want.SensorReading{}, Problems: []string{}}
	var mu sync.Mutex
	var asked sync.WaitGroup
	for _, n := range nodes {
		if !n.Connected {
			out.Problems = append(out.Problems, n.Name+": not connected")
		}
	}
	for _, n := range nodes {
		if !n.Connected {
			continue
		}
		asked.Go(func() {
			found, err := c.sensorsOf(ctx, id, n)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out.Problems = append(out.Problems, n.Name+": "+err.Error())
				return
			}
			out.Readings = append(out.Readings, found.Readings...)
			out.Problems = append(out.Problems, found.Problems...)
		})
	}
	asked.Wait()
	slices.SortFunc(out.Readings, func(a, b want.SensorReading) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Point, b.Point))
	})
	slices.Sort(out.Problems)
	return out, nil
}

// maxSensors bounds what a node says of its sensors, octets.
const maxSensors = 8 << 20

// sensorsOf asks one node, and leaves in its answer what the caller sees.
func (c *Controller) sensorsOf(ctx context.Context, id auth.Identity, n want.Node) (out want.Sensors, err error) {
	var b bytes.Buffer
	if err := c.hub.Stream(ctx, c.liveEnd, n.ID, n.Name, want.LiveSpec{Look: &want.Look{Sensors: true}}, &limited{w: &b, left: maxSensors}); err != nil {
		return out, err
	}
	if err := json.Unmarshal(b.Bytes(), &out); err != nil {
		return out, fault.New(fault.Internal, "it answered in a form that is not understood: %v", err)
	}
	for i := range out.Readings { // a node speaks for itself alone
		out.Readings[i].Node = n.Name
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if project, narrow := c.restricted(id); narrow {
		out.Readings = slices.DeleteFunc(out.Readings, func(r want.SensorReading) bool {
			return !c.seesPoint(&project, n.ID, &point.Point{Node: n.Name, Name: r.Point, Kind: point.Sensor})
		})
		out.Problems = nil // they are the host's
	}
	return out, nil
}
