package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"opentap/agent"
	"opentap/controller"
	"opentap/filter"
	"opentap/flow/collect"
)

// flowStoreConfig has the flow records of a point kept.
type flowStoreConfig struct {
	Point  string   `yaml:"point"`
	Filter string   `yaml:"filter"`
	Bytes  size     `yaml:"bytes"`
	Age    duration `yaml:"age"`
}

// collectorConfig is where exporters send to.
type collectorConfig struct {
	Name      string   `yaml:"name"`
	Transport string   `yaml:"transport"` // udp, tcp, tls; "" = udp
	Address   string   `yaml:"address"`
	Allow     []string `yaml:"allow"` // ranges of exporters; none = anybody
	Exporters int      `yaml:"exporters"`
	Bytes     size     `yaml:"bytes"` // of the flow store of each exporter
	Age       duration `yaml:"age"`
	Cert      string   `yaml:"cert"`
	Key       string   `yaml:"key"`
	CA        string   `yaml:"ca"`
}

// defaultFlowBytes is what the flow store of an exporter may take of the disk.
const defaultFlowBytes = 256 << 20

// minFlowBytes is the least that a flow store can work with: it gives up its oldest records a file at a time.
const minFlowBytes = 4 << 20

// flowStores returns whose flow records are kept.
func (c *config) flowStores() ([]agent.FlowStore, error) {
	var out []agent.FlowStore
	seen := make(map[string]bool)
	for i, f := range c.Flows {
		switch {
		case f.Point == "":
			return nil, fmt.Errorf("flows[%d]: point is missing", i)
		case seen[f.Point]:
			return nil, fmt.Errorf("flows[%d]: the flows of %s are kept already", i, f.Point)
		case f.Bytes == 0:
			f.Bytes = defaultFlowBytes
		case f.Bytes < minFlowBytes:
			return nil, fmt.Errorf("flows[%d]: bytes is %d; at least %d", i, f.Bytes, minFlowBytes)
		}
		seen[f.Point] = true
		if f.Filter != "" {
			if _, err := filter.Parse(f.Filter); err != nil {
				return nil, fmt.Errorf("flows[%d]: filter: %w", i, err)
			}
		}
		out = append(out, agent.FlowStore{Point: f.Point, Filter: f.Filter, Bytes: int64(f.Bytes), Age: time.Duration(f.Age)})
	}
	return out, nil
}

// collectors returns where exporters may send.
func (c *config) collectors() ([]agent.Collector, error) {
	var out []agent.Collector
	names := make(map[string]bool)
	for i, x := range c.Collectors {
		col := agent.Collector{Cert: x.Cert, Key: x.Key, CA: x.CA, Bytes: int64(x.Bytes), Age: time.Duration(x.Age), Collect: collect.Config{
			Name: x.Name, Transport: x.Transport, Address: x.Address, Exporters: x.Exporters,
		}}
		if col.Collect.Transport == "" {
			col.Collect.Transport = "udp"
		}
		if col.Collect.Name == "" {
			col.Collect.Name = col.Collect.Transport + "-" + strconv.Itoa(i)
		}
		if names[col.Collect.Name] {
			return nil, fmt.Errorf("collectors[%d]: there is a %s already", i, col.Collect.Name)
		}
		names[col.Collect.Name] = true
		if col.Bytes == 0 {
			col.Bytes = defaultFlowBytes
		} else if col.Bytes < minFlowBytes {
			return nil, fmt.Errorf("collectors[%d]: bytes is %d; at least %d", i, col.Bytes, minFlowBytes)
		}
		for _, r := range x.Allow {
			p, err := parseRange(r)
			if err != nil {
				return nil, fmt.Errorf("collectors[%d]: allow: %w", i, err)
			}
			col.Collect.Allow = append(col.Collect.Allow, p)
		}
		if err := checkCollector(&col); err != nil {
			return nil, fmt.Errorf("collectors[%d]: %w", i, err)
		}
		out = append(out, col)
	}
	return out, nil
}

func checkCollector(c *agent.Collector) error {
	switch c.Collect.Transport {
	case "tls":
		if c.Cert == "" || c.Key == "" {
			return errors.New("transport tls needs cert and key")
		}
		_, err := netip.ParseAddrPort(c.Collect.Address)
		return err
	default:
		if c.Cert != "" || c.Key != "" || c.CA != "" {
			return errors.New("cert, key and ca are of transport tls")
		}
	}
	_, err := collect.New(c.Collect, nil, nil, slog.New(slog.DiscardHandler))
	return err
}

// webhookConfig is a target that rules may tell.
type webhookConfig struct {
	Name  string `yaml:"name"`
	URL   string `yaml:"url"`
	Proxy string `yaml:"proxy"`
}

// webhooks returns the targets by name.
func (c *config) webhooks() (map[string]controller.Webhook, error) {
	out := make(map[string]controller.Webhook)
	for i, h := range c.Webhooks {
		if h.Name == "" {
			return nil, fmt.Errorf("webhooks[%d]: name is missing", i)
		}
		if _, ok := out[h.Name]; ok {
			return nil, fmt.Errorf("webhooks[%d]: there is a %s already", i, h.Name)
		}
		for key, text := range map[string]string{"url": h.URL, "proxy": h.Proxy} {
			if key == "proxy" && text == "" {
				continue
			}
			if u, err := url.Parse(text); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
				return nil, fmt.Errorf("webhooks[%d]: %s: %q is no http:// or https:// address", i, key, text)
			}
		}
		out[h.Name] = controller.Webhook{URL: h.URL, Proxy: h.Proxy}
	}
	return out, nil
}
