package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFabricDefaultsAreGood(t *testing.T) {
	c := defaultConfig()
	if err := parseConfig([]byte("fabric: {listen: 127.0.0.1:6653}"), &c); err != nil {
		t.Fatal(err)
	}
	if err := c.check(); err != nil || time.Duration(c.Fabric.Every) != 30*time.Second {
		t.Errorf("%v, every %s", err, time.Duration(c.Fabric.Every))
	}
}

func TestFabricMistakesAreTold(t *testing.T) {
	for text, has := range map[string]string{
		"fabric: {cert: a, key: b, ca: c}":                "fabric.listen: is missing",
		"fabric: {listen: here}":                          "not HOST:PORT",
		"fabric: {listen: ':6653', every: 10ms}":          "at least 1s",
		"fabric: {listen: ':6653', cert: a, key: b}":      "given together",
		"{role: agent, fabric: {listen: 127.0.0.1:6653}}": "switches connect to a controller",
	} {
		c := defaultConfig()
		if err := parseConfig([]byte(text), &c); err != nil {
			t.Fatal(err)
		}
		if err := c.checkFabric(); err == nil || !strings.Contains(err.Error(), has) {
			t.Errorf("%s: %v, want %s", text, err, has)
		}
	}
}

func TestFabricListenerWithoutCertificateFails(t *testing.T) {
	c := defaultConfig()
	c.Fabric.Listen = "127.0.0.1:0"
	c.Fabric.Cert, c.Fabric.Key, c.Fabric.CA = filepath.Join(t.TempDir(), "none"), "none", "none"
	if _, err := c.listenFabric(); err == nil {
		t.Error("listens with a certificate that is not there")
	}
	c.Fabric.Cert = ""
	l, err := c.listenFabric()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
