package main

import (
	"fmt"
	"log/slog"
	"strconv"

	"opentap/agent"
	"opentap/filter"
	"opentap/flow/export"
	"opentap/wire/netflow"
)

// exporters returns what is sent where.
func (c *config) exporters() ([]agent.Exporter, error) {
	versions := map[string]netflow.Version{"ipfix": netflow.IPFIX, "netflow9": netflow.V9, "netflow5": netflow.V5}
	var out []agent.Exporter
	names := make(map[string]bool)
	for i, x := range c.Exporters {
		version, ok := versions[x.Protocol]
		if !ok {
			return nil, fmt.Errorf("exporters[%d]: protocol: %q is none of ipfix, netflow9, netflow5", i, x.Protocol)
		}
		if len(x.Points) == 0 {
			return nil, fmt.Errorf("exporters[%d]: points is missing: say whose packets are metered", i)
		}
		e := agent.Exporter{Name: x.Name, Points: x.Points, Filter: x.Filter, CA: x.CA, Cert: x.Cert, Key: x.Key, Export: export.Config{
			Version: version, Transport: x.Transport, Address: x.Address, Domain: x.Domain, Message: x.Message, Queue: x.Queue,
			Biflow: x.Bidirectional,
		}}
		if e.Name == "" {
			e.Name = x.Protocol + "-" + strconv.Itoa(i)
		}
		if names[e.Name] {
			return nil, fmt.Errorf("exporters[%d]: there is a %s already", i, e.Name)
		}
		names[e.Name] = true
		if e.Export.Transport == "" {
			e.Export.Transport = "udp"
		}
		if (x.Cert == "") != (x.Key == "") {
			return nil, fmt.Errorf("exporters[%d]: cert and key are given together or not at all", i)
		}
		if x.Filter != "" {
			if _, err := filter.Parse(x.Filter); err != nil {
				return nil, fmt.Errorf("exporters[%d]: filter: %w", i, err)
			}
		}
		if _, err := export.New(e.Export, slog.New(slog.DiscardHandler)); err != nil {
			return nil, fmt.Errorf("exporters[%d]: %w", i, err)
		}
		out = append(out, e)
	}
	return out, nil
}
