package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"opentap/sensor/phidget"
)

// classicConfigFile is the first OpenTap's configuration. It is read when there is no defaultConfigFile.
const classicConfigFile = "/etc/opentap/opentap.conf"

// classicSensorFile lies beside a classic configuration and says which sensors are attached.
const classicSensorFile = "opentapSensorConf.csv"

// classicOrigin is what a classic configuration says beyond what the keys of config can hold.
type classicOrigin struct {
	path     string
	address  place           // of websrv-addr
	decided  bool            // how clients beyond loopback are served: tls, tls-cert or insecure is there
	sensors  []classicSensor // of the sensor file
	problems []string        // what is not done as the file says, in plain words
}

// place is a position in a file; both count from 1, columns in characters.
type place struct{ line, column int }

// classicError is a mistake in a classic configuration.
type classicError struct {
	place
	msg string
}

func (e *classicError) Error() string { return fmt.Sprintf("[%d:%d] %s", e.line, e.column, e.msg) }

func isClassic(path string) bool { return strings.HasSuffix(path, ".conf") }

// loadClassic reads a configuration of the first OpenTap and the sensor file beside it.
func loadClassic(path string, b []byte, c *config) error {
	o, err := parseClassic(b, c)
	if err != nil {
		return err
	}
	o.path = path
	c.classic = o
	sensors := filepath.Join(filepath.Dir(path), classicSensorFile)
	text, err := os.ReadFile(sensors)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read the sensors: %w", err)
	}
	if o.sensors, err = parseClassicSensors(text); err != nil {
		return fmt.Errorf("%s: %w", sensors, err)
	}
	known := o.sensors[:0]
	for _, s := range o.sensors {
		if _, ok := phidget.Types[s.id]; !ok {
			o.problems = append(o.problems, fmt.Sprintf("%s: sensors of type %q are not known; %s is not read", sensors, s.id, s.name))
			continue
		}
		known = append(known, s)
	}
	o.sensors = known
	return nil
}

// classicKeys are the keys of the first OpenTap, then those that this one adds, which an old file does not have.
var classicKeys = []string{
	"name", "retention", "websrv-addr", "default-network-observationpt", "listen-interface", "alias",
	"data-dir", "tls", "tls-cert", "tls-key", "insecure", "anonymous",
}

// classicReader gathers what the lines say.
type classicReader struct {
	c       *config
	o       *classicOrigin
	seen    map[string]int // key → line
	names   map[string]int // alias → line
	def     string         // observation point, a device or an alias
	defLine int
}

// parseClassic reads "key: value" lines. Errors are *classicError.
func parseClassic(b []byte, c *config) (*classicOrigin, error) {
	if len(b) > maxConfig {
		return nil, fmt.Errorf("is %d octets long, at most %d are read", len(b), maxConfig)
	}
	r := &classicReader{c: c, o: &classicOrigin{}, seen: make(map[string]int), names: make(map[string]int)}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) // editors of other systems put it there
	for i, line := range strings.Split(string(b), "\n") {
		if err := r.line(i+1, strings.TrimSuffix(line, "\r")); err != nil {
			return nil, err
		}
	}
	c.Points.Default = r.def
	for _, a := range c.Points.Aliases {
		if a.Name == r.def {
			c.Points.Default = a.Point
		}
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		return nil, &classicError{place{max(r.seen["tls-cert"], r.seen["tls-key"]), 1}, "tls-cert and tls-key are given together or not at all"}
	}
	return r.o, nil
}

// line reads one line. Text after a blank and # is a comment.
func (r *classicReader) line(n int, text string) error {
	at := func(octet int) place { return place{n, utf8.RuneCountInString(text[:octet]) + 1} }
	if !utf8.ValidString(text) {
		return &classicError{place{n, 1}, "is not text in UTF-8"}
	}
	begin := len(text) - len(strings.TrimLeft(text, " \t"))
	if begin == len(text) || text[begin] == '#' {
		return nil
	}
	key, value, ok := strings.Cut(text[begin:], ":")
	if !ok {
		return &classicError{at(begin), "is neither \"key: value\" nor a comment that begins with #"}
	}
	key = strings.ToLower(strings.TrimSpace(key))
	if !slices.Contains(classicKeys, key) {
		return &classicError{at(begin), fmt.Sprintf("unknown key %q; there are %s", key, strings.Join(classicKeys, ", "))}
	}
	first := len(text) - len(value) // where the value begins
	for i := range value {
		if value[i] == '#' && i > 0 && (value[i-1] == ' ' || value[i-1] == '\t') {
			value = value[:i]
			break
		}
	}
	first += len(value) - len(strings.TrimLeft(value, " \t"))
	value = strings.TrimSpace(value)
	if value == "" {
		return &classicError{at(first), key + ": the value is missing"}
	}
	if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
		return &classicError{at(first), key + ": there are control characters in the value"}
	}
	if key != "alias" && key != "anonymous" {
		if before := r.seen[key]; before != 0 {
			return &classicError{at(begin), fmt.Sprintf("%s: given twice, first in line %d", key, before)}
		}
		r.seen[key] = n
	}
	where := at(first)
	if err := r.value(key, value, where); err != nil {
		return &classicError{where, key + ": " + err.Error()}
	}
	return nil
}

// value takes one value.
func (r *classicReader) value(key, value string, where place) (err error) {
	c := r.c
	words := strings.Fields(value)
	switch key {
	case "name":
		c.Name = value
	case "retention":
		minutes, err := strconv.ParseUint(value, 10, 32)
		if err != nil || minutes == 0 {
			return fmt.Errorf("%q is no whole number of minutes, 1 or more", value)
		}
		c.Retention.Default = duration(time.Duration(minutes) * time.Minute)
	case "websrv-addr":
		r.o.address = where
		c.Listen, err = classicAddress(value)
	case "default-network-observationpt", "listen-interface":
		if len(words) != 1 {
			return fmt.Errorf("%q is not one observation point", value)
		}
		if r.def != "" && r.def != value {
			return fmt.Errorf("line %d says %s already", r.defLine, r.def)
		}
		r.def, r.defLine = value, where.line
	case "alias":
		if len(words) != 2 {
			return fmt.Errorf("%q is not an interface and a name, such as %q", value, "enp2s0 internal")
		}
		if before := r.names[words[1]]; before != 0 {
			return fmt.Errorf("%s is a name already, in line %d", words[1], before)
		}
		r.names[words[1]] = where.line
		c.Points.Aliases = append(c.Points.Aliases, struct {
			Point string `yaml:"point"`
			Name  string `yaml:"name"`
		}{words[0], words[1]})
	case "data-dir":
		if !filepath.IsAbs(value) {
			return fmt.Errorf("%q does not begin with /", value)
		}
		c.DataDir = value
	case "tls-cert":
		c.TLS.Cert, r.o.decided = value, true
	case "tls-key":
		c.TLS.Key = value
	case "insecure":
		c.TLS.Insecure, err = classicYes(value)
		r.o.decided = r.o.decided || c.TLS.Insecure
	case "tls":
		var yes bool
		yes, err = classicYes(value)
		r.o.decided = r.o.decided || yes
	case "anonymous":
		if len(words) != 2 {
			return fmt.Errorf("%q is not a role and an address range, such as %q", value, "analyst 10.1.1.0/24")
		}
		c.Auth.Anonymous = append(c.Auth.Anonymous, struct {
			Role    string   `yaml:"role"`
			Project string   `yaml:"project"`
			Ranges  []string `yaml:"ranges"`
		}{Role: words[0], Ranges: words[1:]})
	}
	return err
}

func classicYes(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "yes", "true", "on", "1":
		return true, nil
	case "no", "false", "off", "0":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither yes nor no", s)
}

// classicAddress reads ADDRESS:PORT. An empty address and * are all addresses, as they were.
func classicAddress(s string) (string, error) {
	host, port, ok := strings.Cut(s, ":")
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if !ok || err != nil || n == 0 {
		return "", fmt.Errorf("%q is not ADDRESS:PORT, such as 127.0.0.1:2020", s)
	}
	switch host {
	case "", "*":
		host = "0.0.0.0"
	case "localhost":
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		return "", fmt.Errorf("%q is not an address of this host; names are not looked up", host)
	}
	return netip.AddrPortFrom(addr, uint16(n)).String(), nil
}

// checkClassic asks for the decision that an old file could not make: its clients speak plain HTTP, and this server does so
// beyond the loopback address only when told to.
func (c *config) checkClassic() error {
	if c.classic == nil || c.classic.decided || c.TLS.Cert != "" || c.TLS.Insecure {
		return nil
	}
	addr, err := netip.ParseAddrPort(c.Listen)
	if err != nil || addr.Addr().IsLoopback() {
		return nil
	}
	return fmt.Errorf(`configuration %s: %w`, c.classic.path, &classicError{c.classic.address, fmt.Sprintf(
		`websrv-addr: %s is reachable from other hosts, and tokens and packets would travel in the clear, as they did with the first OpenTap. Add one line:
  insecure: yes            plain HTTP as before, which old clients need; only where something else protects the way
  tls: yes                 HTTPS with a certificate made here
  tls-cert: FILE           HTTPS with a certificate of your own, and tls-key: FILE
or listen on 127.0.0.1 alone`, c.Listen)})
}
