package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"opentap/agent"
	"opentap/sensor/mqtt"
	"opentap/sensor/phidget"
	"opentap/sensor/snmp"
)

// sensorConfig is what the configuration says of sensors.
type sensorConfig struct {
	Sysfs    string        `yaml:"sysfs"` // where hwmon, thermal and iio are looked for
	MQTT     []mqttConfig  `yaml:"mqtt"`  // brokers that sensors publish to
	SNMP     []snmpConfig  `yaml:"snmp"`  // devices that show sensors
	Phidgets phidgetConfig `yaml:"phidgets"`
}

type mqttConfig struct {
	URL      string `yaml:"url"`
	ClientID string `yaml:"client_id"`
	Username string `yaml:"username"`
	Password string `yaml:"password_file"`
	CA       string `yaml:"ca"`
	Cert     string `yaml:"cert"`
	Key      string `yaml:"key"`
	Topics   []struct {
		Topic    string   `yaml:"topic"`
		Point    string   `yaml:"point"`
		Field    string   `yaml:"field"`
		Quantity string   `yaml:"quantity"`
		Unit     string   `yaml:"unit"`
		MaxAge   duration `yaml:"max_age"`
		Retained bool     `yaml:"retained"`
	} `yaml:"topics"`
}

type snmpConfig struct {
	Name         string `yaml:"name"`
	Address      string `yaml:"address"`
	Community    string `yaml:"community_file"`
	User         string `yaml:"user"`
	Auth         string `yaml:"auth"`
	AuthPassword string `yaml:"auth_password_file"`
	Priv         string `yaml:"priv"`
	PrivPassword string `yaml:"priv_password_file"`
}

type phidgetConfig struct {
	Library string `yaml:"library"`
	Helper  string `yaml:"helper"`
	Inputs  []struct {
		Serial uint32 `yaml:"serial"`
		Port   int    `yaml:"port"`
		Type   string `yaml:"type"`
		Name   string `yaml:"name"`
		Kind   string `yaml:"quantity"`
	} `yaml:"inputs"`
}

// sensors returns the sensors that are to be read. Passwords are read from their files.
func (c *config) sensors(node string) (out agent.Sensors, err error) {
	points := make(map[string]string) // → who has it
	name := func(point, of string) error {
		if other, taken := points[point]; taken {
			return fmt.Errorf("%s: there is a sensor %s already, in %s", of, point, other)
		}
		points[point] = of
		return nil
	}
	for i, m := range c.Sensors.MQTT {
		at := fmt.Sprintf("sensors.mqtt[%d]", i)
		b := mqtt.Config{URL: m.URL, ClientID: m.ClientID, Username: m.Username}
		if b.ClientID == "" {
			b.ClientID = "opentap-" + node
		}
		if b.Password, err = secret(m.Password); err != nil {
			return out, fmt.Errorf("%s.password_file: %w", at, err)
		}
		if b.TLS, err = clientTLS(m.CA, m.Cert, m.Key); err != nil {
			return out, fmt.Errorf("%s: %w", at, err)
		}
		for _, t := range m.Topics {
			b.Topics = append(b.Topics, mqtt.Topic{
				Topic: t.Topic, Point: t.Point, Field: t.Field, Quantity: t.Quantity, Unit: t.Unit, MaxAge: time.Duration(t.MaxAge), Retained: t.Retained,
			})
		}
		if err := b.Check(); err != nil {
			return out, fmt.Errorf("%s: %w", at, err)
		}
		for _, t := range b.Topics {
			if err := name(t.Point, at); err != nil {
				return out, err
			}
		}
		out.MQTT = append(out.MQTT, b)
	}
	for i, s := range c.Sensors.SNMP {
		at := fmt.Sprintf("sensors.snmp[%d]", i)
		d := snmp.Config{Name: s.Name, Address: s.Address, User: s.User, AuthProtocol: s.Auth, PrivProtocol: s.Priv}
		for _, p := range []struct {
			key, file string
			to        *string
		}{
			{"community_file", s.Community, &d.Community}, {"auth_password_file", s.AuthPassword, &d.AuthPassword}, {"priv_password_file", s.PrivPassword, &d.PrivPassword},
		} {
			if *p.to, err = secret(p.file); err != nil {
				return out, fmt.Errorf("%s.%s: %w", at, p.key, err)
			}
		}
		if err := d.Check(); err != nil {
			return out, fmt.Errorf("%s: %w", at, err)
		}
		if err := name("snmp/"+s.Name+"/", at); err != nil {
			return out, fmt.Errorf("%s: there is a device %s already", at, s.Name)
		}
		out.SNMP = append(out.SNMP, d)
	}
	p := phidget.Config{Helper: c.Sensors.Phidgets.Helper, Library: c.Sensors.Phidgets.Library}
	if p.Helper == "" {
		p.Helper = phidgetHelper()
	}
	for _, in := range c.Sensors.Phidgets.Inputs {
		p.Inputs = append(p.Inputs, phidget.Input{Serial: in.Serial, Port: in.Port, Type: in.Type, Name: in.Name, Kind: in.Kind})
	}
	if c.classic != nil {
		for _, s := range c.classic.sensors {
			p.Inputs = append(p.Inputs, phidget.Input{Serial: s.serial, Port: int(s.port), Type: s.id, Name: s.name, Kind: s.kind})
		}
	}
	if err := p.Check(); err != nil {
		return out, fmt.Errorf("sensors.phidgets: %w", err)
	}
	for _, in := range p.Inputs {
		if err := name(in.Name, "sensors.phidgets"); err != nil {
			return out, err
		}
	}
	out.Phidgets = p
	return out, nil
}

// phidgetHelper is where the program is that reads Phidgets: beside this one, or where the packages put it.
func phidgetHelper() string {
	const helper = "opentapd-phidget"
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), helper)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return "/usr/libexec/opentap/" + helper
}

// maxSecret bounds a password. Octets.
const maxSecret = 4096

// secret reads a password's file; no file is no password. Errors do not say what is in it.
func secret(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" || len(s) > maxSecret {
		return "", fmt.Errorf("%s has %d octets; a password has 1 to %d", path, len(s), maxSecret)
	}
	return s, nil
}

// clientTLS is for speaking to a server: whom to trust, and who we are.
func clientTLS(ca, cert, key string) (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		b, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("ca: %s has no certificate in PEM", ca)
		}
	}
	if (cert == "") != (key == "") {
		return nil, errors.New("cert and key are given together or not at all")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("cert: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}
