package controller

import (
	"context"
	"fmt"
	"slices"

	"opentap/want"
)

// ofCopies reports whether what a crossing tells of can be copies: the keys name a port of a switch, and there the fabric has a cable
// between switches, a tool or a service. What a rule does must not be done for what it did.
func (c *Controller) ofCopies(ctx context.Context, keys, values []string) bool {
	d, p := slices.Index(keys, "dpid"), slices.Index(keys, "port")
	if d < 0 || p < 0 || max(d, p) >= len(values) {
		return false
	}
	e, f, _, err := c.theFabric()
	if err != nil {
		return false
	}
	v, err := e.View(ctx, false)
	return err == nil && carriesCopies(&f, v.Links, values[d], values[p])
}

// carriesCopies reports whether a port of a fabric, by its switch's datapath id and its number, is one that traffic comes to by the fabric alone.
func carriesCopies(f *want.Fabric, links []want.FabricLinkView, dpid, port string) bool {
	for name, s := range f.Switches {
		if fmt.Sprintf("%016x", uint64(s.DPID)) != dpid {
			continue
		}
		at := name + "/" + port
		tool := false
		for _, p := range f.Ports {
			if p.At == at || p.Return == at {
				if p.Role == want.RoleFilter {
					return false // it may be a tool's as well
				}
				tool = true
			}
		}
		return tool || slices.ContainsFunc(links, func(l want.FabricLinkView) bool { return l.A == at || l.B == at }) ||
			slices.ContainsFunc(f.Links, func(l want.FabricLink) bool { return l.A == at || l.B == at })
	}
	return false
}
