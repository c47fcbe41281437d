// Package snmp reads the sensors that switches, servers and uninterruptible power supplies show by SNMP.
//
// Runs in: agent | tools
package snmp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gosnmp/gosnmp"

	"opentap/fault"
	"opentap/packet"
	"opentap/point"
	"opentap/sensor"
)

// Config is one device.
type Config struct {
	Name         string // the first part of its sensors' names: snmp/NAME/…
	Address      string // HOST or HOST:PORT; UDP, port 161 unless said
	Community    string // version 2c
	User         string // version 3, when there is one
	AuthProtocol string // MD5, SHA, SHA224, SHA256, SHA384, SHA512; "" = none
	AuthPassword string
	PrivProtocol string // DES, AES, AES192, AES256; "" = none
	PrivPassword string
}

// Bounds of asking.
const (
	timeout    = 2 * time.Second
	scanEvery  = time.Minute
	leaveAlone = 10 * time.Second // a device that did not answer
	maxRows    = 4096             // of a table
)

var (
	authProtocols = map[string]gosnmp.SnmpV3AuthProtocol{
		"": gosnmp.NoAuth, "MD5": gosnmp.MD5, "SHA": gosnmp.SHA, "SHA224": gosnmp.SHA224, "SHA256": gosnmp.SHA256, "SHA384": gosnmp.SHA384, "SHA512": gosnmp.SHA512,
	}
	privProtocols = map[string]gosnmp.SnmpV3PrivProtocol{
		"": gosnmp.NoPriv, "DES": gosnmp.DES, "AES": gosnmp.AES, "AES192": gosnmp.AES192, "AES256": gosnmp.AES256,
	}
)

// Check finds what cannot work.
func (c *Config) Check() error {
	if c.Name == "" || strings.ContainsAny(c.Name, "/ ") {
		return fmt.Errorf("name: %q is no name, such as ups1", c.Name)
	}
	if _, _, err := c.endpoint(); err != nil {
		return err
	}
	_, auth := authProtocols[c.AuthProtocol]
	_, priv := privProtocols[c.PrivProtocol]
	switch {
	case c.User == "" && c.Community == "":
		return errors.New("community (version 2c) or user (version 3) is missing")
	case c.User != "" && c.Community != "":
		return errors.New("community is of version 2c, user of version 3: one of them")
	case !auth:
		return fmt.Errorf("auth: %q is none of MD5, SHA, SHA224, SHA256, SHA384, SHA512", c.AuthProtocol)
	case !priv:
		return fmt.Errorf("priv: %q is none of DES, AES, AES192, AES256", c.PrivProtocol)
	case c.PrivProtocol != "" && c.AuthProtocol == "":
		return errors.New("priv: there is no privacy without auth")
	case c.AuthProtocol != "" && len(c.AuthPassword) < 8, c.PrivProtocol != "" && len(c.PrivPassword) < 8:
		return errors.New("a password has fewer than 8 characters, which RFC 3414 does not allow")
	}
	return nil
}

func (c *Config) endpoint() (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(c.Address)
	if err != nil {
		host, text = c.Address, "161"
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || host == "" {
		return "", 0, fmt.Errorf("address: %q is not HOST or HOST:PORT", c.Address)
	}
	return host, uint16(n), nil
}

// Source reads one device: ENTITY-SENSOR-MIB (RFC 3433) and UPS-MIB (RFC 1628). It is safe for concurrent use; requests go one
// after the other.
type Source struct {
	cfg Config
	log *slog.Logger

	mu    sync.Mutex // of what is known
	known map[string]reading
	here  map[string]bool // by name: found by the last scan
	away  string          // why the device gives nothing; "" = it answers

	asking sync.Mutex // of the connection
	conn   *gosnmp.GoSNMP
	rest   time.Time // until then it is left alone
}

var _ sensor.Source = (*Source)(nil)

// New prepares the source. It asks nothing: Run does.
func New(cfg Config, log *slog.Logger) (*Source, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	return &Source{cfg: cfg, log: log, known: make(map[string]reading), away: cfg.Address + " was not asked yet"}, nil
}

// Run looks every minute which sensors the device has, until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	defer s.hangUp()
	for {
		wait := scanEvery
		if err := s.scan(ctx); err != nil {
			wait = leaveAlone
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (s *Source) hangUp() {
	s.asking.Lock()
	defer s.asking.Unlock()
	s.close()
}

// close is with s.asking held.
func (s *Source) close() {
	if s.conn != nil && s.conn.Conn != nil {
		_ = s.conn.Conn.Close()
	}
	s.conn = nil
}

// ask runs fn on the connection. After a failure the device is left alone for a while, so that a tick of many sensors does not
// wait for each.
func (s *Source) ask(ctx context.Context, fn func(*gosnmp.GoSNMP) error) error {
	s.asking.Lock()
	defer s.asking.Unlock()
	if time.Now().Before(s.rest) {
		return errors.New(s.whyAway())
	}
	err := s.dial()
	if err == nil {
		s.conn.Context = ctx
		err = fn(s.conn)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		s.close()
		s.rest = time.Now().Add(leaveAlone)
		err = fmt.Errorf("%s does not answer: %w", s.cfg.Address, err)
	}
	s.tell(err)
	return err
}

func (s *Source) whyAway() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away
}

// tell notes whether the device answers, and logs it when that changes.
func (s *Source) tell(err error) {
	s.mu.Lock()
	before := s.away
	s.away = ""
	if err != nil {
		s.away = err.Error()
	}
	s.mu.Unlock()
	if (before == "") != (err == nil) {
		if err == nil {
			s.log.Info("SNMP device answers", "name", s.cfg.Name, "address", s.cfg.Address)
		} else {
			s.log.Warn("no sensors by SNMP", "name", s.cfg.Name, "err", err)
		}
	}
}

// dial makes the connection, if there is none.
func (s *Source) dial() error {
	if s.conn != nil {
		return nil
	}
	host, port, err := s.cfg.endpoint()
	if err != nil {
		return err
	}
	g := &gosnmp.GoSNMP{
		Target: host, Port: port, Transport: "udp", Community: s.cfg.Community, Version: gosnmp.Version2c,
		Timeout: timeout, Retries: 1, MaxOids: gosnmp.MaxOids, MaxRepetitions: 20,
	}
	if s.cfg.User != "" {
		auth, priv := authProtocols[s.cfg.AuthProtocol], privProtocols[s.cfg.PrivProtocol]
		g.Version, g.SecurityModel, g.MsgFlags = gosnmp.Version3, gosnmp.UserSecurityModel, gosnmp.NoAuthNoPriv
		switch {
		case priv > gosnmp.NoPriv:
			g.MsgFlags = gosnmp.AuthPriv
		case auth > gosnmp.NoAuth:
			g.MsgFlags = gosnmp.AuthNoPriv
		}
		g.SecurityParameters = &gosnmp.UsmSecurityParameters{
			UserName: s.cfg.User, AuthenticationProtocol: auth, AuthenticationPassphrase: s.cfg.AuthPassword,
			PrivacyProtocol: priv, PrivacyPassphrase: s.cfg.PrivPassword,
		}
	}
	if err := g.Connect(); err != nil {
		return err
	}
	s.conn = g
	return nil
}

// scan finds the sensors, and remembers them.
func (s *Source) scan(ctx context.Context) error {
	var found []reading
	err := s.ask(ctx, func(g *gosnmp.GoSNMP) error {
		entities, err := findEntities(g)
		if err != nil {
			return err
		}
		ups, err := findUPS(g)
		found = append(entities, ups...)
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.here = make(map[string]bool)
	for _, r := range found {
		name := "snmp/" + s.cfg.Name + "/" + r.name
		s.known[name], s.here[name] = r, true
	}
	return nil
}

// Points lists the sensors that the device had when it was last looked at.
func (s *Source) Points(context.Context) ([]point.Point, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().UTC()
	out := make([]point.Point, 0, len(s.here))
	for name := range s.here {
		r := s.known[name]
		p := point.Point{Name: name, Kind: point.Sensor, Quantity: r.quantity, Unit: r.unit, Present: s.away == "", Since: now}
		if r.alias != "" {
			p.Aliases = []string{s.cfg.Name + " " + r.alias}
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b point.Point) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Read asks for the named sensor. See sensor.Source.
func (s *Source) Read(ctx context.Context, name string) (sensor.Sample, error) {
	if !strings.HasPrefix(name, "snmp/"+s.cfg.Name+"/") {
		return sensor.Sample{}, fault.New(fault.NotFound, "no sensor %q", name)
	}
	s.mu.Lock()
	r, ok := s.known[name]
	away := s.away
	s.mu.Unlock()
	sample := sensor.Sample{Point: name}
	if !ok {
		if away == "" {
			return sample, fault.New(fault.NotFound, "no sensor %q", name)
		}
		sample.Time, sample.Missing = packet.TimestampOf(time.Now()), away
		return sample, nil
	}
	var v float64
	var missing string
	err := s.ask(ctx, func(g *gosnmp.GoSNMP) (err error) {
		v, missing, err = r.read(g)
		return err
	})
	if ctx.Err() != nil {
		return sample, ctx.Err()
	}
	sample.Time = packet.TimestampOf(time.Now())
	switch {
	case err != nil:
		sample.Missing = err.Error()
	case missing != "":
		sample.Missing = missing
	default:
		sample.Value = v
	}
	return sample, nil
}

// Trouble says why the device gives nothing; "" = it does.
func (s *Source) Trouble() string { return s.whyAway() }
