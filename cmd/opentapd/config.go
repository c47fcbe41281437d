package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"opentap/agent"
	"opentap/auth"
	"opentap/controller"
	"opentap/neutron"
	"opentap/point"
	"opentap/store/etcd"
)

// defaultConfigFile is read when it exists and no other is named.
const defaultConfigFile = "/etc/opentap/opentap.yaml"

// config is the configuration file. docs/reference/configuration.md describes every key; a test proves that it does.
type config struct {
	Name       string `yaml:"name"`        // of this installation
	Node       string `yaml:"node"`        // name of this host; "" = its host name
	Role       string `yaml:"role"`        // all, controller, agent
	Listen     string `yaml:"listen"`      // address:port of the HTTP doors
	DataDir    string `yaml:"data_dir"`    // state, audit log and token
	CaptureDir string `yaml:"capture_dir"` // captured data; "" = data_dir/captures

	TLS struct {
		Cert     string `yaml:"cert"`     // PEM file
		Key      string `yaml:"key"`      // PEM file
		Insecure bool   `yaml:"insecure"` // serve beyond loopback without TLS
	} `yaml:"tls"`

	Points struct {
		Default string `yaml:"default"` // "" = the device of the default route
		Aliases []struct {
			Point string `yaml:"point"`
			Name  string `yaml:"name"`
		} `yaml:"aliases"`
		Devices []struct {
			Point     string `yaml:"point"`
			Dedicated bool   `yaml:"dedicated"` // receives only mirrored traffic; the host gets none of it
			Memory    size   `yaml:"memory"`    // for AF_XDP; 0 = the default
		} `yaml:"devices"`
	} `yaml:"points"`

	Retention struct {
		Default duration `yaml:"default"`  // how long data is kept when a request does not say
		Max     duration `yaml:"max"`      // 0s = no limit
		Quota   size     `yaml:"quota"`    // of all captured data; hard
		MinFree size     `yaml:"min_free"` // of the captures' disk, left free
		Events  duration `yaml:"events"`   // what rules found, after it was over; 0s = any
	} `yaml:"retention"`

	Captures struct {
		MaxDuration   duration `yaml:"max_duration"`    // 0s = no limit
		MaxPerProject int      `yaml:"max_per_project"` // that exist at one time
	} `yaml:"captures"`

	Taps struct {
		Underlay    []string `yaml:"underlay"` // addresses where other nodes reach this one with copies; none = all its own
		OVSDB       string   `yaml:"ovsdb"`    // socket of Open vSwitch's database server; "" = its usual place
		MaxServices int      `yaml:"max_services_per_project"`
		MaxFlows    int      `yaml:"max_flows_per_project"`
		MaxMirrors  int      `yaml:"max_mirrors_per_project"`
		MaxPorts    int      `yaml:"max_ports_per_project"` // that were declared
		MirrorTo    []string `yaml:"mirror_to"`             // networks that tenants' mirrors may send to; none = any, but to no node
	} `yaml:"taps"`

	Recorders []struct {
		Point  string   `yaml:"point"`
		Filter string   `yaml:"filter"`
		Snap   int      `yaml:"snap"`
		Bytes  size     `yaml:"bytes"`
		Age    duration `yaml:"age"`

		Compress string `yaml:"compress"` // zstd; "" = not at all
		Fanout   int    `yaml:"fanout"`
	} `yaml:"recorders"`

	Exporters []struct {
		Name          string   `yaml:"name"`
		Protocol      string   `yaml:"protocol"`
		Transport     string   `yaml:"transport"`
		Address       string   `yaml:"address"`
		Points        []string `yaml:"points"`
		Filter        string   `yaml:"filter"`
		Bidirectional bool     `yaml:"bidirectional"`
		Domain        uint32   `yaml:"domain"`
		Message       int      `yaml:"message"`
		Queue         int      `yaml:"queue"`
		CA            string   `yaml:"ca"`
		Cert          string   `yaml:"cert"`
		Key           string   `yaml:"key"`
	} `yaml:"exporters"` // where flow records are sent

	Flows      []flowStoreConfig `yaml:"flows"`      // whose flow records are kept at all times
	Collectors []collectorConfig `yaml:"collectors"` // where exporters of flow records send to
	Webhooks   []webhookConfig   `yaml:"webhooks"`   // targets that rules may tell

	Governor struct {
		CPU    float64 `yaml:"cpu"`    // cores; 0 = no bound
		Memory size    `yaml:"memory"` // 0 = no bound
		Disk   size    `yaml:"disk"`   // written per second; 0 = no bound
	} `yaml:"governor"`

	Ring struct {
		Blocks    int  `yaml:"blocks"`
		BlockSize size `yaml:"block_size"`
	} `yaml:"ring"`

	Segments struct {
		Index bool `yaml:"index"` // beside recorded packets: queries then read only what can match
	} `yaml:"segments"`

	Flow struct {
		IdleTimeout   duration `yaml:"idle_timeout"`
		ActiveTimeout duration `yaml:"active_timeout"`
		MaxFlows      int      `yaml:"max_flows"`
		Bidirectional bool     `yaml:"bidirectional"`
	} `yaml:"flow"`

	Sensors sensorConfig `yaml:"sensors"`

	Auth struct {
		Anonymous []struct {
			Role    string   `yaml:"role"`
			Project string   `yaml:"project"`
			Ranges  []string `yaml:"ranges"`
		} `yaml:"anonymous"`
		Hosts    []string       `yaml:"hosts"` // further names this server answers to
		OIDC     []oidcConfig   `yaml:"oidc"`  // OpenID Connect providers that are believed
		Keystone keystoneConfig `yaml:"keystone"`
	} `yaml:"auth"`

	SSH sshConfig `yaml:"ssh"`

	Neutron neutronConfig `yaml:"neutron"` // whose ports are read

	Fabric fabricConfig `yaml:"fabric"`
	Fleet  fleetConfig  `yaml:"fleet"`

	Projects []projectConfig `yaml:"projects"` // tenants

	Metrics struct {
		AnonymousRanges []string `yaml:"anonymous_ranges"` // addresses that may scrape without a token
	} `yaml:"metrics"`

	Store struct {
		Endpoints []string `yaml:"endpoints"` // of an etcd cluster; none = embedded
		Username  string   `yaml:"username"`
		Password  string   `yaml:"password_file"` // file that holds it
		CA        string   `yaml:"ca"`
		Cert      string   `yaml:"cert"`
		Key       string   `yaml:"key"`
	} `yaml:"store"`

	Log struct {
		Level  string `yaml:"level"`  // debug, info, warn, error
		Format string `yaml:"format"` // text, json
	} `yaml:"log"`

	origins map[string]string // by key: default, file or flag; see originsOf

	classic *classicOrigin // set when it was read from a file of the first OpenTap
}

// defaultConfig is what holds for keys that the file leaves out.
func defaultConfig() config {
	var c config
	c.Name, c.Role, c.Listen, c.DataDir = "opentap", "all", "127.0.0.1:2020", "/var/lib/opentap"
	ctl, ag := controller.DefaultConfig(), agent.DefaultConfig()
	c.Retention.Default, c.Retention.Max = duration(ctl.Retention), duration(ctl.RetentionMax)
	c.Retention.Events = duration(ctl.EventsKept)
	c.Retention.Quota, c.Retention.MinFree = size(ag.Quota.Bytes), size(ag.Quota.MinFree)
	c.Captures.MaxDuration, c.Captures.MaxPerProject = duration(ctl.DurationMax), ctl.CapturesMax
	c.Taps.MaxServices, c.Taps.MaxFlows, c.Taps.MaxMirrors, c.Taps.MaxPorts = ctl.Taps.Services, ctl.Taps.Flows, ctl.Taps.Mirrors, ctl.Taps.Ports
	c.Segments.Index = !ag.Segment.NoIndex
	c.Ring.Blocks, c.Ring.BlockSize = ag.Capture.Ring.Blocks, size(ag.Capture.Ring.BlockSize)
	c.Flow.IdleTimeout, c.Flow.ActiveTimeout = duration(ag.Flow.IdleTimeout), duration(ag.Flow.ActiveTimeout)
	c.Flow.MaxFlows, c.Flow.Bidirectional = ag.Flow.MaxFlows, ag.Flow.Bidirectional
	c.Sensors.Sysfs = ag.SysfsRoot
	c.SSH, c.Fleet, c.Fabric = defaultSSH(), defaultFleet(), defaultFabric()
	c.Log.Level, c.Log.Format = "info", "text"
	c.Neutron.Every = duration(neutron.DefaultEvery)
	return c
}

// loadConfig reads the file named, or the default one if it is there, or else that of the first OpenTap. Errors show line and
// column.
func loadConfig(path string) (config, error) {
	c := defaultConfig()
	named := path != ""
	if !named {
		path = defaultConfigFile
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		path = classicConfigFile
		if b, err = os.ReadFile(path); errors.Is(err, fs.ErrNotExist) {
			return c, nil
		}
	}
	if err != nil {
		return c, fmt.Errorf("read the configuration: %w", err)
	}
	parse := parseConfig
	if isClassic(path) {
		parse = func(b []byte, c *config) error { return loadClassic(path, b, c) }
	}
	if err := parse(b, &c); err != nil {
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// maxConfig bounds a configuration file. Octets.
const maxConfig = 1 << 20

func parseConfig(b []byte, c *config) error {
	if len(b) > maxConfig {
		return fmt.Errorf("is %d octets long, at most %d are read", len(b), maxConfig)
	}
	if saysNothing(b) { // as a null it would empty all keys
		return nil
	}
	if err := yaml.UnmarshalWithOptions(b, c, yaml.Strict()); err != nil {
		return errors.New(yaml.FormatError(err, false, true))
	}
	return nil
}

// saysNothing reports whether a file is empty but for comments.
func saysNothing(b []byte) bool {
	for line := range bytes.Lines(b) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

// check finds what no default mends.
func (c *config) check() error {
	switch c.Role {
	case "all", "controller", "agent":
	default:
		return fmt.Errorf("role: %q is none of all, controller, agent", c.Role)
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		return errors.New("tls: cert and key are given together or not at all")
	}
	if c.TLS.Cert != "" && c.TLS.Insecure {
		return errors.New("tls: insecure means without TLS, and cert and key are given")
	}
	_, err := netip.ParseAddrPort(c.Listen)
	if err != nil {
		return fmt.Errorf("listen: %q is not ADDRESS:PORT: %w", c.Listen, err)
	}
	if err := c.checkClassic(); err != nil {
		return err
	}
	if c.DataDir == "" {
		return errors.New("data_dir: is empty")
	}
	if c.Retention.Default <= 0 {
		return errors.New("retention.default: must be longer than 0s")
	}
	if c.Retention.Max > 0 && c.Retention.Default > c.Retention.Max {
		return fmt.Errorf("retention.default: %s is longer than retention.max, %s", time.Duration(c.Retention.Default), time.Duration(c.Retention.Max))
	}
	if _, err := c.underlay(); err != nil {
		return err
	}
	if _, err := c.Neutron.reader(nil, nil); err != nil {
		return err
	}
	if t := c.Taps; min(t.MaxServices, t.MaxFlows, t.MaxMirrors, t.MaxPorts) < 0 {
		return errors.New("taps: a bound is negative; 0 is no bound")
	}
	if _, err := c.mirrorTo(); err != nil {
		return err
	}
	if c.Captures.MaxPerProject < 1 {
		return fmt.Errorf("captures.max_per_project: is %d; at least 1", c.Captures.MaxPerProject)
	}
	for i, a := range c.Points.Aliases {
		if a.Point == "" || a.Name == "" {
			return fmt.Errorf("points.aliases[%d]: point and name are both needed", i)
		}
	}
	if err := c.checkDevices(); err != nil {
		return err
	}
	if err := c.checkSSH(); err != nil {
		return err
	}
	if err := c.checkFabric(); err != nil {
		return err
	}
	if err := c.checkFleet(); err != nil {
		return err
	}
	if _, err := c.projects(); err != nil {
		return err
	}
	if _, _, err := c.strangers(slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	if err := c.checkRecorders(); err != nil {
		return err
	}
	ag := c.agent("", "")
	if err := ag.Check(); err != nil {
		return err
	}
	if _, err := newLogger(*c, io.Discard); err != nil {
		return err
	}
	if _, err = c.sensors(""); err != nil {
		return err
	}
	if _, err = c.exporters(); err != nil {
		return err
	}
	if _, err = c.flowStores(); err != nil {
		return err
	}
	if _, err = c.collectors(); err != nil {
		return err
	}
	if _, err = c.webhooks(); err != nil {
		return err
	}
	if _, err = c.scrapers(); err != nil {
		return err
	}
	_, err = c.grants()
	return err
}

// checkRecorders finds recorders that could not run.
func (c *config) checkRecorders() error {
	seen := make(map[string]bool)
	for i, r := range c.Recorders {
		if r.Point == "" {
			return fmt.Errorf("recorders[%d]: point is missing", i)
		}
		if seen[r.Point] {
			return fmt.Errorf("recorders[%d]: %s has a recorder already", i, r.Point)
		}
		seen[r.Point] = true
		if r.Bytes <= 0 {
			return fmt.Errorf("recorders[%d]: bytes is missing: say how much of the disk %s may take, such as 2GiB", i, r.Point)
		}
		if r.Compress != "" && r.Compress != compressZstd {
			return fmt.Errorf("recorders[%d]: compress is %q; %q or nothing", i, r.Compress, compressZstd)
		}
	}
	return nil
}

// compressZstd is the one way to compress recordings.
const compressZstd = "zstd"

func (c *config) captureDir() string {
	if c.CaptureDir != "" {
		return c.CaptureDir
	}
	return filepath.Join(c.DataDir, "captures")
}

func (c *config) grants() ([]auth.Grant, error) {
	var out []auth.Grant
	for i, a := range c.Auth.Anonymous {
		g := auth.Grant{Role: a.Role, Project: a.Project}
		for _, r := range a.Ranges {
			p, err := parseRange(r)
			if err != nil {
				return nil, fmt.Errorf("auth.anonymous[%d]: %w", i, err)
			}
			g.Ranges = append(g.Ranges, p)
		}
		out = append(out, g)
	}
	return out, nil
}

// scrapers are who may read the metrics without a token.
func (c *config) scrapers() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for i, r := range c.Metrics.AnonymousRanges {
		p, err := parseRange(r)
		if err != nil {
			return nil, fmt.Errorf("metrics.anonymous_ranges[%d]: %w", i, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// parseRange reads ADDRESS or ADDRESS/BITS.
func parseRange(r string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(r); err == nil {
		return p.Masked(), nil
	}
	addr, err := netip.ParseAddr(r)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("range %q is neither an address nor ADDRESS/BITS", r)
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

func (c *config) controller(version string) controller.Config {
	out := controller.DefaultConfig()
	out.Name, out.Version = c.Name, version
	out.Retention, out.RetentionMax = time.Duration(c.Retention.Default), time.Duration(c.Retention.Max)
	out.EventsKept = time.Duration(c.Retention.Events)
	out.DurationMax, out.CapturesMax = time.Duration(c.Captures.MaxDuration), c.Captures.MaxPerProject
	out.DefaultPoint = c.Points.Default
	out.Taps = controller.TapQuota{Services: c.Taps.MaxServices, Flows: c.Taps.MaxFlows, Mirrors: c.Taps.MaxMirrors, Ports: c.Taps.MaxPorts}
	out.MirrorTo, _ = c.mirrorTo() // check has seen them
	out.Webhooks, _ = c.webhooks() // check has seen them
	out.Projects, _ = c.projects() // check has seen them
	for _, a := range c.Points.Aliases {
		out.Aliases = append(out.Aliases, point.Alias{Name: a.Name, Target: a.Point})
	}
	return out
}

// mirrorTo are the networks that tenants' mirrors may send to.
func (c *config) mirrorTo() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for i, text := range c.Taps.MirrorTo {
		p, err := parseRange(text)
		if err != nil {
			return nil, fmt.Errorf("taps.mirror_to[%d]: %w", i, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// underlay is where other nodes reach this one with tapped packets; none = all its addresses.
func (c *config) underlay() ([]netip.Addr, error) {
	var out []netip.Addr
	for i, text := range c.Taps.Underlay {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return nil, fmt.Errorf("taps.underlay[%d]: %q is not an address that packets can be sent to", i, text)
		}
		out = append(out, a.Unmap())
	}
	return out, nil
}

func (c *config) agent(version, node string) agent.Config {
	out := agent.DefaultConfig()
	out.NodeName, out.Version = node, version
	out.StateDir, out.CaptureDir = filepath.Join(c.DataDir, "agent"), c.captureDir()
	out.SysfsRoot = c.Sensors.Sysfs
	out.Underlay, _ = c.underlay() // check has seen it
	out.OVSDB = c.Taps.OVSDB
	out.Capture.Ring.Blocks, out.Capture.Ring.BlockSize = c.Ring.Blocks, int(c.Ring.BlockSize)
	out.Segment.NoIndex = !c.Segments.Index
	out.Capture.Dedicated = c.dedicated()
	out.Budgets = c.budgets()
	out.Flow.IdleTimeout, out.Flow.ActiveTimeout = time.Duration(c.Flow.IdleTimeout), time.Duration(c.Flow.ActiveTimeout)
	out.Flow.MaxFlows, out.Flow.Bidirectional = c.Flow.MaxFlows, c.Flow.Bidirectional
	out.Quota = agent.Quota{Bytes: int64(c.Retention.Quota), MinFree: int64(c.Retention.MinFree)}
	for _, r := range c.Recorders {
		out.Recorders = append(out.Recorders, agent.Recorder{
			Point: r.Point, Filter: r.Filter, Snap: r.Snap, Bytes: int64(r.Bytes), Age: time.Duration(r.Age), Compress: r.Compress == compressZstd, Fanout: r.Fanout,
		})
	}
	out.Sensors, _ = c.sensors(node) // check has seen them
	out.Exporters, _ = c.exporters()
	out.Flows, _ = c.flowStores()
	out.Collectors, _ = c.collectors()
	return out
}

func (c *config) store() (etcd.Config, error) {
	if len(c.Store.Endpoints) == 0 {
		return etcd.Config{Dir: filepath.Join(c.DataDir, "store")}, nil
	}
	out := etcd.Config{
		Endpoints: c.Store.Endpoints, Username: c.Store.Username,
		TLS: etcd.TLS{CAFile: c.Store.CA, CertFile: c.Store.Cert, KeyFile: c.Store.Key},
	}
	if c.Store.Password != "" {
		b, err := os.ReadFile(c.Store.Password)
		if err != nil {
			return out, fmt.Errorf("store.password_file: %w", err)
		}
		out.Password = strings.TrimSpace(string(b))
	}
	return out, nil
}

// duration is a time.Duration spelt as Go does: 90s, 10m, 2h.
type duration time.Duration

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 90s, 10m or 2h", b)
	}
	*d = duration(v)
	return nil
}

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// size is a number of octets: 500MB, 2GiB, or a plain number.
type size int64

var sizeUnits = []struct {
	suffix string
	octets float64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1}}

func (s *size) UnmarshalText(b []byte) error {
	text := strings.TrimSpace(string(b))
	for _, u := range sizeUnits {
		num, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
		if err != nil || v < 0 || v*u.octets > math.MaxInt64/2 || v != v {
			break
		}
		*s = size(v * u.octets)
		return nil
	}
	return fmt.Errorf("%q is not a size such as 500MB, 2GiB or 1048576", text)
}

func (s size) MarshalText() ([]byte, error) { return []byte(strconv.FormatInt(int64(s), 10)), nil }
