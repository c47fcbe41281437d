// Package hwmon reads the host's own sensors from sysfs: temperatures, voltages, fans, power.
//
// Runs in: agent | tools
package hwmon

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

// DefaultRoot is where sysfs is mounted.
const DefaultRoot = "/sys"

// Source reads the classes hwmon and thermal of a sysfs tree. It holds no files open and is safe for concurrent use.
//
// Names are made of what stays the same over reboots and hot-plugging: hwmon/<chip>/<channel> with the channel as the
// kernel numbers it (temp1, in0, fan2), and thermal/<zone type>. A chip is the driver's name and the address of its
// device where that adds something: coretemp, nvme-0000:01:00.0, lm75-1-0048. What would still have the same name, such as
// two thermal zones of one type, is numbered in the kernel's order: thermal/acpitz, thermal/acpitz#2.
// The administrator's labels, such as "coretemp Package id 0", are aliases.
type Source struct {
	root string

	mu    sync.Mutex
	known map[string]channel // by name; what is gone stays, to be told as missing rather than unknown
}

var _ sensor.Source = (*Source)(nil)

// New makes a Source over the sysfs tree at root ("" = DefaultRoot). It reads nothing yet.
func New(root string) *Source {
	if root == "" {
		root = DefaultRoot
	}
	return &Source{root: root, known: make(map[string]channel)}
}

// channel is one value that can be read.
type channel struct {
	name  string
	alias string
	dir   string // sysfs directory that has its files
	file  string // the file of the value
	fault string // the file that is 1 when the sensor is broken; may not exist
	kind  *kind
}

// kind is one kind of channel, Documentation/hwmon/sysfs-interface.rst (Linux 6.1).
type kind struct {
	prefix   string
	suffixes []string // of the value's file, the best first
	quantity string
	unit     string  // UCUM
	scale    float64 // units a count
}

var kinds = []kind{
	{"temp", []string{"_input"}, "temperature", "Cel", 1e-3},
	{"in", []string{"_input"}, "voltage", "V", 1e-3},
	{"fan", []string{"_input"}, "fan speed", "{rpm}", 1},
	{"power", []string{"_input", "_average"}, "power", "W", 1e-6},
	{"curr", []string{"_input"}, "current", "A", 1e-3},
	{"humidity", []string{"_input"}, "humidity", "%", 1e-3},
	{"energy", []string{"_input"}, "energy", "J", 1e-6},
}

// thermalKind is of class thermal: milli-degrees, Documentation/driver-api/thermal/sysfs-api.rst.
var thermalKind = kind{"", nil, "temperature", "Cel", 1e-3}

// Points lists the sensors there are now, by name. A tree without sensors, or none at all, is an empty list.
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
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	channels, err := findChips(ctx, s.root)
	if err != nil {
		return nil, fmt.Errorf("find sensors in %s: %w", s.root, err)
	}
	zones, err := findZones(ctx, s.root)
	if err != nil {
		return nil, fmt.Errorf("find thermal zones in %s: %w", s.root, err)
	}
	channels = append(channels, zones...)
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

// errFault says that the driver itself distrusts the sensor.
var errFault = errors.New("the chip reports a broken sensor")

// read reads the value once, in the kind's unit.
func (c *channel) read() (float64, error) {
	n, err := sysfs.ReadInt(c.dir, c.file)
	if err != nil {
		return 0, err
	}
	if c.fault != "" {
		if f, err := sysfs.ReadInt(c.dir, c.fault); err == nil && f != 0 {
			return 0, errFault
		}
	}
	return float64(n) * c.kind.scale, nil
}
