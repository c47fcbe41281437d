package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// convertConfig writes the modern form of a classic configuration file.
func convertConfig(args []string, stdout, stderr io.Writer) int {
	path := classicConfigFile
	switch {
	case len(args) == 1 && (args[0] == "-h" || args[0] == "--help"):
		fmt.Fprintf(stdout, "Usage: opentapd convert-config [FILE]\n\nWrites the modern form (YAML) of a configuration of the first OpenTap to standard output.\nFILE is %s unless given.\n\n  opentapd convert-config > /etc/opentap/opentap.yaml\n", path)
		return 0
	case len(args) > 1:
		fmt.Fprintf(stderr, "opentapd: convert-config takes one file, not %d\n", len(args))
		return 2
	case len(args) == 1:
		path = args[0]
	}
	c := defaultConfig()
	b, err := os.ReadFile(path)
	if err != nil {
		fmt.Fprintln(stderr, "opentapd: read the configuration:", err)
		return 1
	}
	if err := loadClassic(path, b, &c); err != nil {
		fmt.Fprintf(stderr, "opentapd: configuration %s: %v\n", path, err)
		return 1
	}
	if err := c.checkClassic(); err != nil {
		fmt.Fprintln(stderr, "opentapd:", err)
		return 1
	}
	if _, err := stdout.Write(c.modern()); err != nil {
		fmt.Fprintln(stderr, "opentapd:", err)
		return 1
	}
	for _, p := range c.classic.problems {
		fmt.Fprintln(stderr, "opentapd: not converted:", p)
	}
	return 0
}

// modern writes what a classic configuration says as YAML. Quoted strings of Go are strings of YAML, too.
func (c *config) modern() []byte {
	var b bytes.Buffer
	q := strconv.Quote
	fmt.Fprintf(&b, "# Converted from %s. docs/reference/configuration.md describes every key.\n", q(c.classic.path))
	fmt.Fprintf(&b, "name: %s\nlisten: %s\ndata_dir: %s\n", q(c.Name), q(c.Listen), q(c.DataDir))
	if c.TLS.Cert != "" {
		fmt.Fprintf(&b, "tls:\n  cert: %s\n  key: %s\n", q(c.TLS.Cert), q(c.TLS.Key))
	} else if c.TLS.Insecure {
		b.WriteString("tls:\n  insecure: true\n")
	}
	if c.Points.Default != "" || len(c.Points.Aliases) > 0 {
		b.WriteString("points:\n")
	}
	if c.Points.Default != "" {
		fmt.Fprintf(&b, "  default: %s\n", q(c.Points.Default))
	}
	if len(c.Points.Aliases) > 0 {
		b.WriteString("  aliases:\n")
	}
	for _, a := range c.Points.Aliases {
		fmt.Fprintf(&b, "    - {point: %s, name: %s}\n", q(a.Point), q(a.Name))
	}
	fmt.Fprintf(&b, "retention:\n  default: %s\n", time.Duration(c.Retention.Default))
	if len(c.Auth.Anonymous) > 0 {
		b.WriteString("auth:\n  anonymous:\n")
	}
	for _, a := range c.Auth.Anonymous {
		fmt.Fprintf(&b, "    - {role: %s, ranges: [%s]}\n", q(a.Role), q(a.Ranges[0]))
	}
	if len(c.classic.sensors) > 0 {
		b.WriteString("sensors:\n  phidgets:\n    inputs:\n")
	}
	for _, s := range c.classic.sensors {
		fmt.Fprintf(&b, "      - {serial: %d, port: %d, type: %s, name: %s, quantity: %s}\n", s.serial, s.port, q(s.id), q(s.name), q(s.kind))
	}
	return b.Bytes()
}
