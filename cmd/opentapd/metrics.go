package main

import (
	"net/http"
	"net/netip"
	"slices"

	"opentap/api/httpapi"
	v1 "opentap/api/v1"
	"opentap/audit"
	"opentap/auth"
	"opentap/controller"
	"opentap/fault"
	"opentap/internal/metrics"
)

// newMetrics pulls what is counted in the rooms.
func newMetrics(ctl *controller.Controller, trail *audit.Log, shown certificate) *metrics.Metrics {
	return metrics.New(programVersion(), func() metrics.Snapshot {
		t := ctl.Tally()
		s := metrics.Snapshot{Captures: t.Captures, Packets: t.Packets, Records: t.Records, Nodes: t.Nodes, Revision: t.Revision, Audit: trail.Head().Seq, Fabric: ctl.FabricTally()}
		if shown != nil {
			s.Expires = shown.Expires()
		}
		return s
	})
}

func observe(m *metrics.Metrics) func(httpapi.Exchange) {
	return func(e httpapi.Exchange) { m.Observed(e.Method, e.Route, e.Status, e.Octets, e.Duration) }
}

// metricsDoor is for who may see metadata, and for visitors from the listed addresses.
func metricsDoor(m *metrics.Metrics, scrapers []netip.Prefix) httpapi.Door {
	h := m.Handler()
	return httpapi.Door{Name: "metrics", Prefix: "/metrics", Fail: v1.Fail, Routes: []httpapi.Route{{
		Method: http.MethodGet, Path: "/metrics",
		Visitor: func(remote netip.Addr) (auth.Identity, bool) {
			ok := slices.ContainsFunc(scrapers, func(p netip.Prefix) bool { return p.Contains(remote) })
			return auth.Identity{Name: "scraper", Role: "viewer", Rights: auth.SeeMetadata, Via: "anonymous", Remote: remote.String()}, ok
		},
		Serve: func(w http.ResponseWriter, r *http.Request) error {
			if id := httpapi.Identity(r.Context()); !id.May(auth.SeeMetadata) {
				return &fault.Error{Kind: fault.Forbidden, Msg: "the role " + id.Role + " may not do this", Hint: "it takes the right to " + auth.SeeMetadata.String()}
			}
			h.ServeHTTP(w, r)
			return nil
		},
	}}}
}
