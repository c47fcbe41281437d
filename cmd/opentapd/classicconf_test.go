package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const oldFile = "\xef\xbb\xbf" + `##########################################
#   ___                  _____           #
#  / _ \ _ __  ___ _ __ |_   _|_ _ _ __  #
# | (_) | '_ \/ -_) '_ \  | |/ _' | '_ \ #
##########################################
# name of the device: shown to clients
name: virgo
retention: 90
websrv-addr: 127.0.0.1:80
listen-interface: internal` + "\r" + `

alias: enp1s0 external
	alias:enp2s0   internal	# a comment
`

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAnOldConfigurationIsReadAsItIs(t *testing.T) {
	path := writeFile(t, filepath.Join(t.TempDir(), "opentap.conf"), oldFile)
	c, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.Name, want.Listen, want.Points.Default = "virgo", "127.0.0.1:80", "enp2s0"
	want.Retention.Default = duration(90 * time.Minute)
	want.Points.Aliases = c.Points.Aliases
	a := c.Points.Aliases
	if len(a) != 2 || a[0].Point != "enp1s0" || a[0].Name != "external" || a[1].Point != "enp2s0" || a[1].Name != "internal" {
		t.Errorf("aliases are %+v", a)
	}
	c.classic = nil
	if !reflect.DeepEqual(c, want) {
		t.Errorf("read as\n%+v, want\n%+v", c, want)
	}
}

func TestOldConfigurationErrorsSayWhere(t *testing.T) {
	for name, tt := range map[string]struct{ text, has string }{
		"unknown key":        {"name: x\n  colour: red\n", "[2:3] unknown key \"colour\""},
		"no key":             {"# x\nvirgo\n", "[2:1]"},
		"no value":           {"name:   # nothing\n", "[1:9]"},
		"minutes":            {"retention: 1h\n", "[1:12] retention"},
		"no minutes":         {"retention: 0\n", "[1:12]"},
		"twice":              {"name: a\nname: b\n", "[2:1] name: given twice, first in line 1"},
		"half an alias":      {"alias: eth0\n", "[1:8]"},
		"an alias too long":  {"alias: eth0 a b\n", "[1:8]"},
		"alias twice":        {"alias: eth0 a\nalias: eth1 a\n", "[2:8]"},
		"two default points": {"listen-interface: a\ndefault-network-observationpt: b\n", "[2:32]"},
		"an address":         {"websrv-addr: 10.1.1.3\n", "[1:14]"},
		"a host name":        {"websrv-addr: virgo:80\n", "[1:14]"},
		"a port":             {"websrv-addr: 10.1.1.3:99999\n", "[1:14]"},
		"not text":           {"name: \xff\n", "[1:1]"},
		"half a pair":        {"tls-cert: /a.pem\n", "[1:1]"},
		"yes":                {"insecure: maybe\n", "[1:11]"},
		"a role":             {"anonymous: analyst\n", "[1:12]"},
		"a range":            {"anonymous: analyst lan\n", "range"},
		"behind umlauts":     {"alias:äöü\n", "[1:7]"},
		"beyond loopback":    {"name: a\nwebsrv-addr: 10.1.1.3:80\n", "[2:14] websrv-addr: 10.1.1.3:80 is reachable"},
		"all addresses":      {"websrv-addr: :80\n", "insecure: yes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeFile(t, filepath.Join(t.TempDir(), "opentap.conf"), tt.text)
			c, err := loadConfig(path)
			if err == nil {
				err = c.check()
			}
			if err == nil || !strings.Contains(err.Error(), tt.has) || !strings.Contains(err.Error(), path) && name != "a range" {
				t.Errorf("error = %v, want one with %q", err, tt.has)
			}
		})
	}
	c := defaultConfig()
	if _, err := parseClassic(bytes.Repeat([]byte("#\n"), maxConfig), &c); err == nil {
		t.Error("a file without bounds was read")
	}
}

func TestOldConfigurationDecides(t *testing.T) {
	for _, line := range []string{"insecure: yes", "tls: yes", "tls-cert: /c.pem\ntls-key: /k.pem"} {
		path := writeFile(t, filepath.Join(t.TempDir(), "opentap.conf"), "websrv-addr: [::]:80\n"+line+"\n")
		c, err := loadConfig(path)
		if err == nil {
			err = c.checkClassic()
		}
		if err != nil || c.Listen != "[::]:80" {
			t.Errorf("%s: %v, listen %s", line, err, c.Listen)
		}
	}
	path := writeFile(t, filepath.Join(t.TempDir(), "opentap.conf"), "websrv-addr: 10.1.1.3:80\n")
	c, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen = "127.0.0.1:80"; c.check() != nil { // as --listen does
		t.Error("an option does not go before the file")
	}
}

const oldSensors = "interface_serial_num,sensor_port,sensor_id,sensor_type,observation_pt_name\n370501,0,1124,temperature,rack\n370501, 7,1104,vibration,door\n"

func TestOldSensorFile(t *testing.T) {
	dir := t.TempDir()
	path := writeFile(t, filepath.Join(dir, "opentap.conf"), "name: x\n")
	writeFile(t, filepath.Join(dir, classicSensorFile), oldSensors)
	c, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []classicSensor{{370501, 0, "1124", "temperature", "rack"}, {370501, 7, "1104", "vibration", "door"}}
	if !reflect.DeepEqual(c.classic.sensors, want) {
		t.Errorf("sensors are %+v", c.classic.sensors)
	}
	header := oldSensors[:strings.IndexByte(oldSensors, '\n')+1]
	for name, tt := range map[string]struct{ text, has string }{
		"no header":    {"1,2,3,4,5\n", "[1:1]"},
		"a board":      {header + "x,0,1124,temperature,a\n", "[2:1]"},
		"a port":       {header + "1,8,1124,temperature,a\n", "[2:3]"},
		"no name":      {header + "1,7,1124,temperature,\n", "[2:22]"},
		"few fields":   {header + "1,7\n", "[2:1]"},
		"quotes":       {header + "1,\"7\n", "[2:"},
		"a name twice": {header + "1,1,1,t,a\n1,2,1,t,a\n", "[3:9]"},
		"a port twice": {header + "1,1,1,t,a\n1,1,1,t,b\n", "[3:3]"},
	} {
		t.Run(name, func(t *testing.T) {
			writeFile(t, filepath.Join(dir, classicSensorFile), tt.text)
			if _, err := loadConfig(path); err == nil || !strings.Contains(err.Error(), tt.has) || !strings.Contains(err.Error(), classicSensorFile) {
				t.Errorf("error = %v, want one with %q", err, tt.has)
			}
		})
	}
}

func TestConvertedConfigurationMeansTheSame(t *testing.T) {
	dir := t.TempDir()
	path := writeFile(t, filepath.Join(dir, "opentap.conf"), strings.Replace(oldFile, "127.0.0.1:80", "[::]:8080", 1)+
		"data-dir: /opt/opentap/log\ninsecure: yes\nanonymous: analyst 10.1.1.0/24\nanonymous: viewer 10.2.0.0/16\n")
	var out, errs bytes.Buffer
	if code := run([]string{"convert-config", path}, &out, &errs); code != 0 || errs.Len() > 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	old, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	modern, err := loadConfig(writeFile(t, filepath.Join(dir, "opentap.yaml"), out.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if err := modern.check(); err != nil {
		t.Fatal(err)
	}
	old.classic = nil
	if !reflect.DeepEqual(old, modern) {
		t.Errorf("converted to\n%s\nwhich is %+v, not %+v", out.String(), modern, old)
	}
	for _, args := range [][]string{
		{"convert-config", "a", "b"},
		{"convert-config", filepath.Join(dir, "none")},
		{"convert-config", writeFile(t, filepath.Join(dir, "bad.conf"), "nome: x\n")},
	} {
		if code := run(args, &out, &errs); code == 0 {
			t.Errorf("%q succeeded", args)
		}
	}
}

func FuzzClassicConfig(f *testing.F) {
	f.Add([]byte(oldFile), []byte(oldSensors))
	f.Add([]byte("websrv-addr: [::]:80\ninsecure: yes\nanonymous: analyst 10.1.1.0/24\n"), []byte("\"\n"))
	f.Add([]byte("name: \u0085\u2028\"\\x\n"), []byte(""))
	f.Fuzz(func(t *testing.T, conf, sensors []byte) {
		_, _ = parseClassicSensors(sensors)
		c := defaultConfig()
		o, err := parseClassic(conf, &c)
		if err != nil {
			return
		}
		c.classic = o
		_ = c.check()
		again := defaultConfig()
		if err := parseConfig(c.modern(), &again); err != nil {
			t.Fatalf("%v\n%s", err, c.modern())
		}
		c.classic = nil
		if !reflect.DeepEqual(c, again) {
			t.Fatalf("%+v was converted to %+v", c, again)
		}
	})
}
