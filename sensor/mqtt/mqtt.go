// Package mqtt reads sensors that publish what they measure to an MQTT broker.
//
// Runs in: agent | tools
package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"opentap/fault"
	"opentap/packet"
	"opentap/point"
	"opentap/sensor"
)

// Config is one broker, and what is read from it.
type Config struct {
	URL      string // tcp://HOST:PORT or tls://HOST:PORT
	ClientID string // what the broker knows us by; one client at a time
	Username string
	Password string
	TLS      *tls.Config // for tls://
	Topics   []Topic
}

// Topic is one sensor.
type Topic struct {
	Topic    string        // without wildcards
	Point    string        // name of the sensor
	Field    string        // where the value is in a JSON message, such as "values.0.temperature"; "" = the message is the value
	Quantity string        // such as temperature
	Unit     string        // UCUM, such as Cel
	MaxAge   time.Duration // a value that is older counts no more; 0 = DefaultMaxAge
	Retained bool          // a message that the broker kept from before counts as one that comes now
}

// DefaultMaxAge is for how long a value counts.
const DefaultMaxAge = 5 * time.Minute

// maxMessage bounds a message that is looked at. Octets.
const maxMessage = 1 << 20

// Check finds what cannot work.
func (c *Config) Check() error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "tcp" && u.Scheme != "tls" {
		return fmt.Errorf("url: %q is not tcp://HOST:PORT or tls://HOST:PORT", c.URL)
	}
	if u.User != nil {
		return errors.New("url: user and password are keys of their own")
	}
	if len(c.Topics) == 0 {
		return errors.New("topics: none is named")
	}
	seen := make(map[string]bool)
	for i, t := range c.Topics {
		switch {
		case t.Topic == "" || t.Point == "":
			return fmt.Errorf("topics[%d]: topic and point are both needed", i)
		case strings.ContainsAny(t.Topic, "+#"):
			return fmt.Errorf("topics[%d]: %s: a sensor is one topic; wildcards are not taken", i, t.Topic)
		case seen[t.Point]:
			return fmt.Errorf("topics[%d]: there is a sensor %s already", i, t.Point)
		case t.MaxAge < 0:
			return fmt.Errorf("topics[%d]: max_age is negative", i)
		}
		seen[t.Point] = true
	}
	return nil
}

// Source holds the connection to a broker, and the last value of each sensor. It is safe for concurrent use.
type Source struct {
	cfg Config
	log *slog.Logger

	mu       sync.Mutex
	away     string // why there is no connection; "" = there is
	sensors  map[string]*state
	channels map[string][]*state // by topic
}

var _ sensor.Source = (*Source)(nil)

// state is what is known of one sensor.
type state struct {
	Topic
	value   float64
	when    time.Time // when the value came; zero = none has
	problem string    // with the last message
	old     bool      // all that came was kept by the broker from before
}

// New prepares the source. It connects to nothing: Run does.
func New(cfg Config, log *slog.Logger) (*Source, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, log: log, away: "not connected yet", sensors: make(map[string]*state), channels: make(map[string][]*state)}
	for _, t := range cfg.Topics {
		if t.MaxAge == 0 {
			t.MaxAge = DefaultMaxAge
		}
		st := &state{Topic: t}
		s.sensors[t.Point] = st
		s.channels[t.Topic] = append(s.channels[t.Topic], st)
	}
	return s, nil
}

// Bounds of waiting for a broker.
const (
	connectPatience = 10 * time.Second
	keepAlive       = 15 * time.Second
	retryEvery      = 2 * time.Second
)

// Run keeps the connection until ctx ends. A broker that is away is tried again every few seconds.
func (s *Source) Run(ctx context.Context) error {
	o := paho.NewClientOptions()
	o.AddBroker(s.cfg.URL)
	o.SetClientID(s.cfg.ClientID)
	o.SetUsername(s.cfg.Username)
	o.SetPassword(s.cfg.Password)
	o.SetTLSConfig(s.cfg.TLS)
	o.SetCleanSession(true)
	o.SetKeepAlive(keepAlive)
	o.SetPingTimeout(keepAlive)
	o.SetConnectTimeout(connectPatience)
	o.SetConnectRetry(false) // ours says why
	o.SetAutoReconnect(false)
	o.SetOrderMatters(false)
	for ctx.Err() == nil {
		lost := make(chan error, 1)
		o.SetConnectionLostHandler(func(_ paho.Client, err error) { lost <- err }) // told once a connection
		conn := paho.NewClient(o)
		err := s.session(ctx, conn, lost)
		conn.Disconnect(100) // milliseconds for what is under way
		if ctx.Err() != nil {
			break
		}
		s.tell(err)
		select {
		case <-ctx.Done():
		case <-time.After(retryEvery):
		}
	}
	s.tell(errors.New("this program stops"))
	return nil
}

// session is one connection, from its beginning to its loss.
func (s *Source) session(ctx context.Context, conn paho.Client, lost <-chan error) error {
	if err := wait(ctx, conn.Connect()); err != nil {
		return err
	}
	topics := make(map[string]byte)
	for t := range s.channels {
		topics[t] = 1 // at least once
	}
	if err := wait(ctx, conn.SubscribeMultiple(topics, func(_ paho.Client, m paho.Message) { s.take(m) })); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	s.tell(nil)
	select {
	case err := <-lost:
		return fmt.Errorf("the connection is lost: %w", err)
	case <-ctx.Done():
		return nil
	}
}

func wait(ctx context.Context, t paho.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(connectPatience):
		return errors.New("no answer")
	}
}

// tell notes whether there is a connection, and logs it when that changes.
func (s *Source) tell(err error) {
	s.mu.Lock()
	before := s.away
	s.away = ""
	if err != nil {
		s.away = "the broker " + s.cfg.URL + " cannot be used: " + err.Error()
	}
	now := s.away
	s.mu.Unlock()
	switch {
	case now == before:
	case now == "":
		s.log.Info("connected to the broker", "url", s.cfg.URL)
	default:
		s.log.Warn("no sensors from the broker", "url", s.cfg.URL, "err", err)
	}
}

// take notes what a message says.
func (s *Source) take(m paho.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.channels[m.Topic()] {
		if m.Retained() && !st.Retained {
			st.old = st.when.IsZero()
			continue
		}
		v, err := valueOf(m.Payload(), st.Field)
		if err != nil {
			st.problem = err.Error()
			continue
		}
		st.value, st.when, st.problem, st.old = v, time.Now(), "", false
	}
}

// Points lists the sensors of the configuration. One is present that has a value which counts.
func (s *Source) Points(context.Context) ([]point.Point, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	out := make([]point.Point, 0, len(s.sensors))
	for _, st := range s.sensors {
		out = append(out, point.Point{
			Name: st.Point, Kind: point.Sensor, Quantity: st.Quantity, Unit: st.Unit, Present: s.missing(st, now) == "", Since: now.UTC(),
		})
	}
	slices.SortFunc(out, func(a, b point.Point) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Read returns the last value, if it counts. See sensor.Source.
func (s *Source) Read(_ context.Context, name string) (sensor.Sample, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.sensors[name]
	if !ok {
		return sensor.Sample{}, fault.New(fault.NotFound, "no sensor %q", name)
	}
	now := time.Now()
	sample := sensor.Sample{Time: packet.TimestampOf(now), Point: name, Missing: s.missing(st, now)}
	if sample.Missing == "" {
		sample.Value = st.value
	}
	return sample, nil
}

// missing says why a sensor has no value; "" = it has one. With s.mu held.
func (s *Source) missing(st *state, now time.Time) string {
	switch {
	case s.away != "":
		return s.away
	case st.problem != "":
		return st.problem
	case st.when.IsZero() && st.old:
		return "the broker has only a message from before"
	case st.when.IsZero():
		return "nothing was published yet"
	case now.Sub(st.when) > st.MaxAge:
		return "nothing was published for " + now.Sub(st.when).Round(time.Second).String()
	}
	return ""
}

// Trouble says why the broker gives nothing; "" = it does.
func (s *Source) Trouble() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away
}
