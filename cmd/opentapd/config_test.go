package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

const reference = "../../docs/reference/configuration.md"

// keysOf lists the keys of a configuration struct as the reference writes them. Of lists, the elements' keys are their own.
func keysOf(t reflect.Type, prefix string) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		key := prefix + f.Tag.Get("yaml")
		if f.Type.Kind() == reflect.Struct {
			out = append(out, keysOf(f.Type, key+".")...)
			continue
		}
		out = append(out, key)
	}
	return out
}

func TestTheReferenceNamesEveryKey(t *testing.T) {
	b, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]bool)
	for _, line := range strings.Split(string(b), "\n") {
		if cell, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " |"); ok && strings.HasPrefix(line, "| `") {
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
				named[m[1]] = true
			}
		}
	}
	keys := keysOf(reflect.TypeFor[config](), "")
	for _, key := range keys {
		if !named[key] {
			t.Errorf("%s is not described", key)
		}
		delete(named, key)
	}
	for key := range named {
		t.Errorf("%s is described, and there is no such key", key)
	}
}

func TestTheReferencesExampleIsGood(t *testing.T) {
	b, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "```yaml\n")
	example, _, ok := strings.Cut(after, "```")
	if !ok {
		t.Fatal("there is no example")
	}
	c := defaultConfig()
	if err := parseConfig([]byte(example), &c); err != nil {
		t.Fatal(err)
	}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	if c.Retention.Quota != 200<<30 || time.Duration(c.Recorders[0].Age) != 6*time.Hour || c.Points.Aliases[0].Name != "uplink" {
		t.Errorf("read as %+v", c)
	}
}

func TestConfigErrorsSayWhere(t *testing.T) {
	for name, tt := range map[string]struct{ text, has string }{
		"unknown key":         {"name: x\nlistne: 127.0.0.1:1\n", "[2:1]"},
		"wrong type":          {"flow:\n  max_flows: many\n", "[2:"},
		"not a duration":      {"retention:\n  default: 60\n", "not a duration"},
		"not a size":          {"retention:\n  quota: lots\n", "not a size"},
		"not YAML":            {"a: [1\n", "["},
		"no address":          {"listen: 2020\n", "ADDRESS:PORT"},
		"TLS and not":         {"tls: {cert: a.pem, key: a.key, insecure: true}\n", "insecure"},
		"half a key pair":     {"tls: {cert: a.pem}\n", "tls"},
		"a lonely agent":      {"role: agent\n", "fleet.controllers"},
		"a dialling king":     {"fleet:\n  controllers: [a:1]\n", "role agent"},
		"a deaf port":         {"fleet:\n  listen: there\n", "fleet.listen"},
		"a short life":        {"fleet:\n  certificate_life: 1s\n", "certificate_life"},
		"an unknown role":     {"role: king\n", "role"},
		"a wrong range":       {"auth:\n  anonymous:\n    - {role: viewer, ranges: [lan]}\n", "range"},
		"a wrong scraper":     {"metrics: {anonymous_ranges: [prometheus]}\n", "anonymous_ranges[0]"},
		"a wrong filter":      {"recorders:\n  - {point: eth0, bytes: 1GiB, filter: prot 80}\n", "filter"},
		"an open recorder":    {"recorders:\n  - {point: eth0}\n", "bytes"},
		"a negative snap":     {"recorders:\n  - {point: eth0, bytes: 1GiB, snap: -1}\n", "snap"},
		"no ring":             {"ring: {blocks: -1}\n", "ring"},
		"an odd block":        {"ring: {block_size: 1000000}\n", "power of two"},
		"no flows":            {"flow: {max_flows: -5}\n", "max flows"},
		"underlay no address": {"taps: {underlay: [eth0]}\n", "taps.underlay[0]"},
		"taps below zero":     {"taps: {max_flows_per_project: -1}\n", "taps"},
		"no captures":         {"captures: {max_per_project: -1}\n", "max_per_project"},
		"default over max":    {"retention: {default: 2h, max: 1h}\n", "retention.default"},
		"half an alias":       {"points:\n  aliases:\n    - {point: eth0}\n", "aliases[0]"},
		"an unknown level":    {"log: {level: loud}\n", "log.level"},
		"devices twice":       {"points:\n  devices:\n    - {point: eth1, dedicated: true}\n    - {point: eth1}\n", "already"},
		"no dedication":       {"points:\n  devices:\n    - {point: eth1, memory: 64MiB}\n", "dedicated"},
		"little memory":       {"points:\n  devices:\n    - {point: eth1, dedicated: true, memory: 1MiB}\n", "4MiB"},
		"half an ssh":         {"ssh: {authorized_keys: users}\n", "ssh.listen"},
		"no ssh port":         {"ssh: {listen: localhost}\n", "ssh.listen"},
		"no ssh at all":       {"ssh: {listen: 127.0.0.1:2222, max_connections: -1}\n", "ssh.max_connections"},
		"recorded twice":      {"recorders:\n  - {point: eth0, bytes: 1}\n  - {point: eth0, bytes: 1}\n", "already"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "opentap.yaml")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := loadConfig(path)
			if err == nil {
				err = c.check()
			}
			if err == nil || !strings.Contains(err.Error(), tt.has) {
				t.Errorf("error = %v, want one with %q", err, tt.has)
			}
		})
	}
}

func TestSizes(t *testing.T) {
	for text, octets := range map[string]size{"0": 0, "1048576": 1 << 20, "2GiB": 2 << 30, "1.5kB": 1500, "500 MB": 500e6, "7B": 7} {
		var s size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != octets {
			t.Errorf("%q = %d, %v, want %d", text, s, err, octets)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "1e300TB", "NaN", "1 XB", "Inf"} {
		var s size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q = %d, want an error", text, s)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("name: x\nrecorders:\n  - {point: eth0, bytes: 1GiB}\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := defaultConfig()
		if parseConfig(b, &c) == nil {
			_ = c.check()
		}
	})
}
