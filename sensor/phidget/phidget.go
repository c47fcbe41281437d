// Package phidget reads analog sensors at Phidget interface kits, through a helper process that loads the vendor's library.
//
// Runs in: agent | tools
package phidget

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"opentap/fault"
	"opentap/packet"
	"opentap/point"
	"opentap/sensor"
)

// Config is what is connected.
type Config struct {
	Helper  string // the helper program
	Library string // the vendor's library; "" = where the system finds libphidget22
	Inputs  []Input
}

// Input is one sensor at a port of a board.
type Input struct {
	Serial uint32 // of the board
	Port   int    // 0 to 7
	Type   string // of the sensor, such as 1124; "" = the plain voltage ratio
	Name   string // of the observation point
	Kind   string // quantity; "" = what the type measures
}

// Type is one kind of analog sensor: what its voltage ratio means. The formulas are those of the vendor's user guides.
type Type struct {
	Name     string // as the first OpenTap called it
	Quantity string
	Unit     string // UCUM
	Value    func(ratio float64) float64
}

// Types of sensors that are known, by the number that the vendor gave them.
var Types = map[string]Type{
	"":     {"voltage ratio", "voltage ratio", "1", func(r float64) float64 { return r }},
	"1102": {"IR reflective 5mm", "reflection", "1", func(r float64) float64 { return boolean(r < 0.4) }}, // something is there
	"1103": {"IR reflective 10cm", "reflection", "1", func(r float64) float64 { return boolean(r < 0.1) }},
	"1104": {"vibration", "vibration", "1", func(r float64) float64 { return 2*r - 1 }}, // -1 to 1, at rest about 0
	"1111": {"motion", "motion", "1", func(r float64) float64 { return 2*r - 1 }},
	"1124": {"temperature", "temperature", "Cel", func(r float64) float64 { return 222.2*r - 61.111 }},
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Check finds what cannot work.
func (c *Config) Check() error {
	if c.Helper == "" {
		return errors.New("helper: no program is named")
	}
	if len(c.Inputs) > maxInputs {
		return fmt.Errorf("inputs: %d are named, at most %d are read", len(c.Inputs), maxInputs)
	}
	for i, in := range c.Inputs {
		if in.Serial == 0 || in.Serial > math.MaxInt32 {
			return fmt.Errorf("inputs[%d]: serial: %d is not the serial number of a board", i, in.Serial)
		}
		if in.Port < 0 || in.Port > 7 {
			return fmt.Errorf("inputs[%d]: port: %d is not 0 to 7", i, in.Port)
		}
		if _, ok := Types[in.Type]; !ok {
			return fmt.Errorf("inputs[%d]: type: %q is none of 1102, 1103, 1104, 1111, 1124", i, in.Type)
		}
		if in.Name == "" {
			return fmt.Errorf("inputs[%d]: name is missing", i)
		}
		for _, other := range c.Inputs[:i] {
			if other.Name == in.Name || other.Serial == in.Serial && other.Port == in.Port {
				return fmt.Errorf("inputs[%d]: its name or port has a sensor already, %s", i, other.Name)
			}
		}
	}
	return nil
}

// maxInputs bounds the sensors of a host.
const maxInputs = 1024

// stale is how old a reading of the helper may be. The helper tells all inputs several times a second.
const stale = 3 * time.Second

// Source reads the inputs. It is safe for concurrent use.
type Source struct {
	cfg Config
	log *slog.Logger

	mu     sync.Mutex
	broken string // why the helper gives nothing; "" = it does
	inputs map[string]*input
}

var _ sensor.Source = (*Source)(nil)

type input struct {
	Input
	reading Reading
	when    time.Time
}

// New prepares the source. It starts nothing: Run does.
func New(cfg Config, log *slog.Logger) (*Source, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, log: log, broken: "the helper for Phidgets was not started yet", inputs: make(map[string]*input)}
	for _, in := range cfg.Inputs {
		s.inputs[in.Name] = &input{Input: in}
	}
	return s, nil
}

// Points lists the inputs of the configuration. One is present whose board is attached.
func (s *Source) Points(context.Context) ([]point.Point, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	out := make([]point.Point, 0, len(s.inputs))
	for _, in := range s.inputs {
		t := Types[in.Type]
		p := point.Point{Name: in.Name, Kind: point.Sensor, Quantity: t.Quantity, Unit: t.Unit, Present: s.missing(in, now) == "", Since: now.UTC()}
		if in.Kind != "" {
			p.Quantity = in.Kind
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b point.Point) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Read returns what the input says now. See sensor.Source.
func (s *Source) Read(_ context.Context, name string) (sensor.Sample, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in, ok := s.inputs[name]
	if !ok {
		return sensor.Sample{}, fault.New(fault.NotFound, "no sensor %q", name)
	}
	now := time.Now()
	sample := sensor.Sample{Time: packet.TimestampOf(now), Point: name, Missing: s.missing(in, now)}
	if sample.Missing == "" {
		sample.Value = Types[in.Type].Value(in.reading.Ratio)
	}
	return sample, nil
}

// missing says why an input has no value; "" = it has one. With s.mu held.
func (s *Source) missing(in *input, now time.Time) string {
	switch {
	case s.broken != "":
		return s.broken
	case in.when.IsZero(), now.Sub(in.when) > stale:
		return "the helper for Phidgets does not tell of it"
	}
	return in.reading.Missing
}

// Trouble says why there are no readings; "" = there are.
func (s *Source) Trouble() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}
