package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"opentap/flow"
	"opentap/flow/collect"
	"opentap/packet"
	"opentap/point"
	"opentap/want"
	"opentap/wire/netflow"
	"opentap/wire/sflow"
)

// Collector takes flow records and samples from exporters. Each exporter becomes a point, and has a flow store.
type Collector struct {
	Collect collect.Config
	Cert    string // PEM files, of transport tls
	Key     string
	CA      string        // whose certificates exporters must show; "" = none need to
	Bytes   int64         // of the flow store of each exporter
	Age     time.Duration // 0 = any
}

// collecting is a Collector at work.
type collecting struct {
	a   *Agent
	cfg Collector
	c   *collect.Collector

	mu   sync.Mutex
	err  string // why it does not listen; "" = it does
	logs map[netip.Addr]*flowLog
}

// templatesFile holds the templates of exporters, so that their data can be read again after a restart.
const templatesFile = "templates.json"

// loadTemplates reads what saveTemplates wrote. What cannot be read is as good as nothing.
func (a *Agent) loadTemplates() map[string]map[string]netflow.State {
	all := make(map[string]map[string]netflow.State)
	b, err := os.ReadFile(filepath.Join(a.cfg.StateDir, templatesFile))
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		a.log.Warn("the templates of exporters cannot be read back; data waits until they are declared again", "err", err)
	}
	return all
}

// newCollecting makes collectors that listen to nothing yet, and opens what is kept of exporters that were heard before.
func newCollecting(a *Agent) (out []*collecting, err error) {
	if len(a.cfg.Collectors) == 0 {
		return nil, nil
	}
	templates := a.loadTemplates()
	for _, cfg := range a.cfg.Collectors {
		c := &collecting{a: a, cfg: cfg, logs: make(map[netip.Addr]*flowLog)}
		cfg.Collect.Flow = a.cfg.Flow
		if cfg.Collect.Transport == "tls" {
			if cfg.Collect.TLS, err = cfg.tls(); err != nil {
				return nil, fmt.Errorf("collector %s: %w", cfg.Collect.Name, err)
			}
		}
		if c.c, err = collect.New(cfg.Collect, c, templates[cfg.Collect.Name], a.log); err != nil {
			return nil, fmt.Errorf("collector %s: %w", cfg.Collect.Name, err)
		}
		out = append(out, c)
	}
	entries, err := os.ReadDir(filepath.Join(a.cfg.CaptureDir, flowsDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		name, err := url.PathUnescape(e.Name())
		if err != nil {
			continue // not ours
		}
		if addr, err := netip.ParseAddr(name); err == nil {
			for _, c := range out {
				c.Appeared(addr)
			}
		}
	}
	return out, nil
}

func (c *Collector) tls() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, err
	}
	out := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, err
		}
		out.ClientCAs, out.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !out.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", c.CA)
		}
	}
	return out, nil
}

// saveEvery is how often templates are kept, when new ones came.
const saveEvery = 2 * time.Second

// run listens until ctx ends; an address that is taken is tried again.
func (c *collecting) run(ctx context.Context) {
	for ctx.Err() == nil {
		c.note("")
		err := c.c.Run(ctx)
		if ctx.Err() != nil {
			return
		}
		c.note(fmt.Sprintf("collector %s does not listen on %s: %s", c.cfg.Collect.Name, c.cfg.Collect.Address, errText(err)))
		select {
		case <-ctx.Done():
		case <-time.After(retryExporter):
		}
	}
}

func (c *collecting) note(text string) {
	c.mu.Lock()
	c.err = text
	c.mu.Unlock()
	c.a.trouble("collector "+c.cfg.Collect.Name, text)
}

// saveTemplates keeps the templates of all collectors until ctx ends.
func (a *Agent) saveTemplates(ctx context.Context) {
	all := a.loadTemplates()
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			last = true
		}
		changed := false
		for _, c := range a.collectors {
			if s, more := c.c.State(); more {
				all[c.cfg.Collect.Name], changed = s, true
			}
		}
		if !changed {
			continue
		}
		text := ""
		if err := writeTemplates(filepath.Join(a.cfg.StateDir, templatesFile), all); err != nil {
			text = "the templates of exporters cannot be kept: " + err.Error()
		}
		a.trouble("templates", text)
		a.link.InventoryChanged()
	}
}

// writeTemplates puts a whole file in the place of the old one, or leaves that.
func writeTemplates(path string, all map[string]map[string]netflow.State) error {
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Appeared implements collect.Sink: the exporter gets a flow store.
func (c *collecting) Appeared(addr netip.Addr) {
	l, err := c.a.flows.log(addr.String(), c.cfg.Bytes, c.cfg.Age, func(fn func(*flow.Record)) { c.a.openSamples(addr, fn) })
	text := ""
	if err != nil {
		text = fmt.Sprintf("no flow store for exporter %s: %v", addr, err)
	}
	c.mu.Lock()
	if err == nil {
		c.logs[addr] = l
	}
	c.mu.Unlock()
	if c.a.link != nil {
		c.a.trouble("exporter point "+addr.String(), text)
		c.a.link.InventoryChanged()
	}
}

// openSamples calls fn with the flows of an exporter's samples that have not ended.
func (a *Agent) openSamples(addr netip.Addr, fn func(*flow.Record)) {
	for _, c := range a.collectors {
		c.c.Open(addr, fn)
	}
}

// Record implements collect.Sink.
func (c *collecting) Record(addr netip.Addr, r *flow.Record) {
	c.mu.Lock()
	l := c.logs[addr]
	c.mu.Unlock()
	if l != nil {
		l.add(r)
	}
	c.a.record(addr, r)
}

// Sample implements collect.Sink.
func (c *collecting) Sample(at packet.Timestamp, d *sflow.Datagram, s *sflow.FlowSample, p *packet.Parsed) {
	c.a.sample(at, d, s, p)
}

// Counters implements collect.Sink.
func (c *collecting) Counters(at packet.Timestamp, d *sflow.Datagram, s *sflow.CounterSample) {
	c.a.sampledCounters(at, d, s)
}

// collectorViews tells how all collectors fare.
func (a *Agent) collectorViews() (out []want.Collector) {
	for _, c := range a.collectors {
		out = append(out, c.view())
	}
	return out
}

// view tells how the collector fares.
func (c *collecting) view() want.Collector {
	s := c.c.Stats()
	out := want.Collector{
		Name: c.cfg.Collect.Name, Transport: c.cfg.Collect.Transport, Address: c.c.Address(), Messages: s.Messages, Octets: s.Octets,
		Denied: s.Denied, Exhausted: s.Exhausted, Foreign: s.Foreign, Dropped: s.Dropped, Exporters: []want.Collected{},
	}
	c.mu.Lock()
	out.LastError = c.err
	c.mu.Unlock()
	out.Listening = out.Address != "" && out.LastError == ""
	if out.Address == "" {
		out.Address = c.cfg.Collect.Address
	}
	for _, e := range c.c.Exporters() {
		out.Exporters = append(out.Exporters, want.Collected{
			Point: e.Address.String(), Since: e.Since, Heard: e.Heard, Protocols: e.Protocols, Messages: e.Messages, Octets: e.Octets,
			Records: e.Records, Samples: e.Samples, Counters: e.Counters, NotIP: e.NotIP,
			Lost:      map[string]uint64{"messages": e.LostMessages, "records": e.LostRecords, "samples": e.LostSamples, "unsent": e.Unsent},
			Malformed: e.Malformed, Unknown: e.Unknown, Waiting: e.Waiting, Templates: e.Templates, Reordered: e.Reordered, Restarts: e.Restarts,
			Sampling: e.Sampling,
		})
	}
	return out
}

// exporterPoints are the points of exporters that were heard, now or before.
func (a *Agent) exporterPoints() []point.Point {
	if len(a.collectors) == 0 {
		return nil
	}
	var out []point.Point
	for _, l := range a.flows.all() {
		addr, err := netip.ParseAddr(l.point)
		if err != nil {
			continue
		}
		p := point.Point{Name: l.point, Kind: point.Exporter, Present: true, NoPcap: "exporters send flow records, not packets", Since: l.since()}
		for _, c := range a.collectors {
			for _, e := range c.c.Exporters() {
				if e.Address == addr {
					p.Up = p.Up || time.Since(e.Heard) < exporterSilent
					p.Driver = strings.Join(e.Protocols, ",")
				}
			}
		}
		out = append(out, p)
	}
	return out
}

// exporterSilent is after what silence an exporter is not up any more.
const exporterSilent = 5 * time.Minute

// collectedGaps tells what did not arrive of the points of a capture since a time.
func (a *Agent) collectedGaps(points []string, since time.Time) (gaps []want.Gap) {
	for _, name := range points {
		addr, err := netip.ParseAddr(name)
		if err != nil {
			continue
		}
		for _, c := range a.collectors {
			for _, l := range c.c.Losses(addr) {
				if l.To.Before(since) {
					continue
				}
				var parts []string
				for _, n := range []struct {
					n    uint64
					what string
				}{{l.Messages, "messages"}, {l.Records, "records"}, {l.Samples, "samples"}} {
					if int64(n.n) > 0 {
						parts = append(parts, fmt.Sprintf("%d %s", n.n, n.what))
					}
				}
				gaps = append(gaps, want.Gap{From: l.From, To: l.To, Reason: name + ": " + strings.Join(parts, ", ") + " of the exporter did not arrive"})
			}
		}
	}
	return gaps
}
