package auth

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"opentap/fault"
)

// Everything is all rights.
const Everything = SeeMetadata | Start | ReadPayload | Delete | Administer

// roles name the sets of rights people ask for. To start is not to read: an operator makes captures for others and
// never sees a packet.
var roles = map[string]Right{
	"viewer":   SeeMetadata,
	"operator": SeeMetadata | Start,
	"analyst":  SeeMetadata | Start | ReadPayload,
	"owner":    SeeMetadata | Start | ReadPayload | Delete, // everything in its project
	"admin":    Everything,
}

// Roles returns the names of the roles, sorted.
func Roles() []string {
	var names []string
	for n := range roles {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// RightsOf returns the rights of a role.
func RightsOf(role string) (Right, error) {
	r, ok := roles[role]
	if !ok {
		return 0, fault.Field("role", "unknown role %q: want one of %s", role, strings.Join(Roles(), ", "))
	}
	return r, nil
}

// Grant gives callers without a token a role, by the address they come from.
type Grant struct {
	Role    string         // any but admin
	Project string         // "" = "default"
	Ranges  []netip.Prefix // addresses, IPv4-mapped IPv6 counts as IPv4
}

// checkGrants returns the grants ready for comparison.
func checkGrants(grants []Grant) ([]Grant, error) {
	var out []Grant
	for i, g := range grants {
		rights, err := RightsOf(g.Role)
		if err != nil {
			return nil, fmt.Errorf("anonymous[%d]: %w", i, err)
		}
		if rights&Administer != 0 {
			return nil, fmt.Errorf("anonymous[%d]: role %s is never given to anonymous callers", i, g.Role)
		}
		if len(g.Ranges) == 0 {
			return nil, fmt.Errorf("anonymous[%d]: no address ranges: name them, 0.0.0.0/0 and ::/0 for everybody", i)
		}
		if g.Project == "" {
			g.Project = DefaultProject
		}
		ranges := make([]netip.Prefix, len(g.Ranges))
		for j, p := range g.Ranges {
			if p.Addr().Is4In6() && p.Bits() >= 96 {
				p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
			}
			if !p.IsValid() {
				return nil, fmt.Errorf("anonymous[%d]: invalid address range %d", i, j)
			}
			ranges[j] = p.Masked()
		}
		g.Ranges = ranges
		out = append(out, g)
	}
	return out, nil
}

// anonymous returns the identity of a caller without a token: of the first grant that has its address.
func anonymous(grants []Grant, remote netip.AddrPort) (Identity, bool) {
	addr := remote.Addr().Unmap().WithZone("")
	for _, g := range grants {
		for _, p := range g.Ranges {
			if p.Contains(addr) {
				return Identity{Name: "anonymous", Project: g.Project, Role: g.Role, Rights: roles[g.Role], Via: "anonymous", Remote: remote.String()}, true
			}
		}
	}
	return Identity{}, false
}
