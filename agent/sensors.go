package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"time"

	"opentap/fault"
	"opentap/point"
	"opentap/sensor"
	"opentap/sensor/hwmon"
	"opentap/sensor/iio"
	"opentap/sensor/mqtt"
	"opentap/sensor/phidget"
	"opentap/sensor/snmp"
	"opentap/want"
)

// Sensors is what the administrator says of sensors beyond those that the host shows by itself.
type Sensors struct {
	MQTT     []mqtt.Config
	SNMP     []snmp.Config
	Phidgets phidget.Config // without inputs there are none
}

// runner is a source that has something to do between readings.
type runner interface {
	Run(ctx context.Context) error
}

// openSensors makes the sources of all sensors that this program can read.
func openSensors(cfg Config, log *slog.Logger) ([]sensor.Source, error) {
	sources := []sensor.Source{hwmon.New(cfg.SysfsRoot), iio.New(cfg.SysfsRoot)}
	for i, c := range cfg.Sensors.MQTT {
		s, err := mqtt.New(c, log)
		if err != nil {
			return nil, fmt.Errorf("sensors.mqtt[%d]: %w", i, err)
		}
		sources = append(sources, s)
	}
	for i, c := range cfg.Sensors.SNMP {
		s, err := snmp.New(c, log)
		if err != nil {
			return nil, fmt.Errorf("sensors.snmp[%d]: %w", i, err)
		}
		sources = append(sources, s)
	}
	if len(cfg.Sensors.Phidgets.Inputs) > 0 {
		s, err := phidget.New(cfg.Sensors.Phidgets, log)
		if err != nil {
			return nil, fmt.Errorf("sensors.phidgets: %w", err)
		}
		sources = append(sources, s)
	}
	return sources, nil
}

// runSensors lets the sources do what they have to, until ctx ends. It returns when all have ended.
func (a *Agent) runSensors(ctx context.Context) {
	done := make(chan struct{})
	n := 0
	for _, src := range a.sensors {
		if r, ok := src.(runner); ok {
			n++
			go func() {
				if err := r.Run(ctx); err != nil {
					a.trouble("sensors", "sensors are no longer read: "+err.Error())
				}
				done <- struct{}{}
			}()
		}
	}
	for range n {
		<-done
	}
}

// lookSensors lists the sensors.
func (a *Agent) lookSensors(ctx context.Context) {
	var points []point.Point
	for _, src := range a.sensors {
		found, err := src.Points(ctx)
		if err != nil {
			a.trouble("sensors", "sensors cannot be listed: "+err.Error())
			continue
		}
		points = append(points, found...)
	}
	a.mu.Lock()
	a.sensorPts = points
	a.mu.Unlock()
}

// readSensor asks the source that knows the name.
func (a *Agent) readSensor(ctx context.Context, name string) (sensor.Sample, error) {
	var err error
	for _, src := range a.sensors {
		var s sensor.Sample
		if s, err = src.Read(ctx, name); err == nil || !fault.Is(err, fault.NotFound) {
			return s, err
		}
	}
	return sensor.Sample{Missing: "the sensor is not known here"}, nil
}

// showSensors looks for sensors anew, reads each once, and writes what was found.
func (a *Agent) showSensors(ctx context.Context, w io.Writer) error {
	a.lookSensors(ctx)
	a.probe()
	a.link.InventoryChanged()
	a.mu.Lock()
	points := append([]point.Point(nil), a.sensorPts...)
	a.mu.Unlock()
	out := want.Sensors{Readings: []want.SensorReading{}, Problems: []string{}}
	for _, p := range points {
		s, err := a.readSensor(ctx, p.Name)
		if err != nil {
			return err
		}
		r := want.SensorReading{Node: a.cfg.NodeName, Point: p.Name, Aliases: p.Aliases, Quantity: p.Quantity, Unit: p.Unit, Time: time.Now().UTC(), Missing: s.Missing}
		if s.Missing == "" {
			r.Value = &s.Value
		}
		out.Readings = append(out.Readings, r)
	}
	for _, src := range a.sensors {
		if t, ok := src.(interface{ Trouble() string }); ok && t.Trouble() != "" {
			out.Problems = append(out.Problems, a.cfg.NodeName+": "+t.Trouble())
		}
	}
	return json.NewEncoder(w).Encode(out)
}
