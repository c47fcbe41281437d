// Package iio reads sensors of the kernel's Industrial I/O subsystem from sysfs: accelerometers, gyroscopes, light, pressure,
// humidity, gas.
//
// Runs in: agent | tools
package iio

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"opentap/fault"
	"opentap/packet"
	"opentap/point"
	"opentap/sensor"
	"opentap/sensor/sysfs"
)

// Source reads the devices of bus iio in a sysfs tree. It holds no files open and is safe for concurrent use.
//
// Names are iio/<chip>/<channel>, with the channel as the kernel names it (accel_x, temp, voltage0) and the chip as hwmon has
// it: the driver's name, and the address of its device where that adds something. Labels are aliases.
type Source struct {
	root string

	mu    sync.Mutex
	known map[string]channel // by name; what is gone stays, to be told as missing rather than unknown
}

var _ sensor.Source = (*Source)(nil)

// New makes a Source over the sysfs tree at root ("" = /sys). It reads nothing yet.
func New(root string) *Source {
	if root == "" {
		root = "/sys"
	}
	return &Source{root: root, known: make(map[string]channel)}
}

// channel is one value that can be read: (raw + offset) · scale · kind.factor, or input · kind.factor where the driver does the
// sum itself. Documentation/ABI/testing/sysfs-bus-iio (Linux 6.1).
type channel struct {
	name, alias   string
	dir           string
	file          string // of the value
	done          bool   // file is an _input: scale and offset are in it
	scale, offset string // files; "" = 1 and 0
	kind          *kind
}

// kind is one kind of channel.
type kind struct {
	prefix   string // what the channel's name begins with
	quantity string
	unit     string  // UCUM
	factor   float64 // units in one of the ABI's
}

// kinds of channels. Longer prefixes stand before shorter ones that they begin with.
var kinds = []kind{
	{"accel", "motion", "m/s2", 1},
	{"anglvel", "angular velocity", "rad/s", 1},
	{"angl", "angle", "rad", 1},
	{"capacitance", "capacitance", "nF", 1},
	{"concentration", "concentration", "%", 1},
	{"current", "current", "A", 1e-3},
	{"distance", "distance", "m", 1},
	{"electricalconductivity", "electrical conductivity", "S/m", 1},
	{"energy", "energy", "J", 1},
	{"gravity", "gravity", "m/s2", 1},
	{"humidityrelative", "humidity", "%", 1e-3},
	{"illuminance", "illuminance", "lx", 1},
	{"incli", "inclination", "deg", 1},
	{"intensity", "light intensity", "1", 1},
	{"magn", "magnetic field", "G", 1},
	{"ph", "acidity", "[pH]", 1},
	{"power", "power", "W", 1e-3},
	{"pressure", "pressure", "kPa", 1},
	{"proximity", "proximity", "1", 1},
	{"resistance", "resistance", "Ohm", 1},
	{"temp", "temperature", "Cel", 1e-3},
	{"velocity", "velocity", "m/s", 1},
	{"voltage", "voltage", "V", 1e-3},
}

// Points lists the sensors there are now, by name. A tree without such devices is an empty list.
func (s *Source) Points(ctx context.Context) ([]point.Point, error) {
	channels, err := s.scan(ctx)
	if err != nil {
		return nil, err
	}
	points := make([]point.Point, 0, len(channels))
	now := time.Now().UTC()
	for _, c := range channels {
		p := point.Point{Name: c.name, Kind: point.Sensor, Present: true, Quantity: c.kind.quantity, Unit: c.kind.unit, Since: now}
		if c.alias != "" {
			p.Aliases = []string{c.alias}
		}
		points = append(points, p)
	}
	return points, nil
}

// scan finds all channels, in the order of their names, and remembers them.
func (s *Source) scan(ctx context.Context) ([]channel, error) {
	channels, err := find(ctx, s.root)
	if err != nil {
		return nil, fmt.Errorf("find sensors in %s: %w", s.root, err)
	}
	slices.SortFunc(channels, func(a, b channel) int { return strings.Compare(a.name, b.name) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range channels {
		s.known[c.name] = c
	}
	return channels, nil
}

// Read samples the named sensor once. See sensor.Source.
func (s *Source) Read(ctx context.Context, name string) (sensor.Sample, error) {
	c, ok := s.lookup(name)
	var v float64
	err := error(fs.ErrNotExist)
	if ok {
		v, err = c.read()
	}
	if errors.Is(err, fs.ErrNotExist) { // never looked, gone, or back under another number
		if _, err := s.scan(ctx); err != nil {
			return sensor.Sample{}, err
		}
		if c, ok = s.lookup(name); !ok {
			return sensor.Sample{}, fault.New(fault.NotFound, "no sensor %q", name)
		}
		v, err = c.read()
	}
	sample := sensor.Sample{Time: packet.TimestampOf(time.Now()), Point: name}
	if err != nil {
		sample.Missing = sysfs.Reason(err)
		return sample, nil
	}
	sample.Value = v
	return sample, nil
}

func (s *Source) lookup(name string) (channel, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.known[name]
	return c, ok
}

// read reads the value once, in the kind's unit.
func (c *channel) read() (float64, error) {
	v, err := sysfs.ReadFloat(c.dir, c.file)
	if err != nil || c.done {
		return v * c.kind.factor, err
	}
	if c.offset != "" {
		offset, err := sysfs.ReadFloat(c.dir, c.offset)
		if err != nil {
			return 0, err
		}
		v += offset
	}
	if c.scale != "" {
		scale, err := sysfs.ReadFloat(c.dir, c.scale)
		if err != nil {
			return 0, err
		}
		v *= scale
	}
	return v * c.kind.factor, nil
}
