package sysfs

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
)

// DefaultRoot is where sysfs is mounted.
const DefaultRoot = "/sys"

// Channel is one value that can be read.
type Channel struct {
	Name     string // see the class's own words
	Alias    string // "" = none
	Quantity string
	Unit     string // UCUM
	// Read reads the value once, in Unit. An error that wraps fs.ErrNotExist says that the channel is not, or no longer, there.
	Read func() (float64, error)
}

// Source reads the channels that a class has in a sysfs tree. It holds no files open and is safe for concurrent use.
type Source struct {
	root string
	find func(ctx context.Context, root string) ([]Channel, error)

	mu    sync.Mutex
	known map[string]Channel // by name; what is gone stays, to be told as missing rather than unknown
}

var _ sensor.Source = (*Source)(nil)

// NewSource makes a Source over the sysfs tree at root ("" = DefaultRoot), whose channels find lists. It reads nothing yet.
func NewSource(root string, find func(ctx context.Context, root string) ([]Channel, error)) *Source {
	if root == "" {
		root = DefaultRoot
	}
	return &Source{root: root, find: find, known: make(map[string]Channel)}
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
		p := point.Point{Name: c.Name, Kind: point.Sensor, Present: true, Quantity: c.Quantity, Unit: c.Unit, Since: now}
		if c.Alias != "" {
			p.Aliases = []string{c.Alias}
		}
		points = append(points, p)
	}
	return points, nil
}

// scan finds all channels, in the order of their names, and remembers them.
func (s *Source) scan(ctx context.Context) ([]Channel, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	channels, err := s.find(ctx, s.root)
	if err != nil {
		return nil, fmt.Errorf("find sensors in %s: %w", s.root, err)
	}
	slices.SortFunc(channels, func(a, b Channel) int { return strings.Compare(a.Name, b.Name) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range channels {
		s.known[c.Name] = c
	}
	return channels, nil
}

// Read samples the named sensor once. See sensor.Source.
func (s *Source) Read(ctx context.Context, name string) (sensor.Sample, error) {
	c, ok := s.lookup(name)
	var v float64
	err := error(fs.ErrNotExist)
	if ok {
		v, err = c.Read()
	}
	if errors.Is(err, fs.ErrNotExist) { // never looked, gone, or back under another number
		if _, err := s.scan(ctx); err != nil {
			return sensor.Sample{}, err
		}
		if c, ok = s.lookup(name); !ok {
			return sensor.Sample{}, fault.New(fault.NotFound, "no sensor %q", name)
		}
		v, err = c.Read()
	}
	sample := sensor.Sample{Time: packet.TimestampOf(time.Now()), Point: name}
	if err != nil {
		sample.Missing = Reason(err)
		return sample, nil
	}
	sample.Value = v
	return sample, nil
}

func (s *Source) lookup(name string) (Channel, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.known[name]
	return c, ok
}
