package netdev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Underlay returns the addresses at which other hosts can reach this one: those of global scope of devices that are up, the
// device of the default route first, IPv4 before IPv6. None is no error.
func Underlay() ([]netip.Addr, error) {
	index, err := defaultRouteIndex()
	if err != nil && !errors.Is(err, ErrNoDefaultRoute) {
		return nil, err
	}
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	type found struct {
		addr netip.Addr
		rank int
	}
	var all []found
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		// A temporary address (RFC 8981) is gone tomorrow; a tentative one is perhaps somebody else's (RFC 4862).
		if !ok || a.Scope != int(netlink.SCOPE_UNIVERSE) || a.Flags&(unix.IFA_F_TEMPORARY|unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 && addr.Is6() ||
			addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified() {
			continue
		}
		link, err := net.InterfaceByIndex(a.LinkIndex)
		if err != nil || link.Flags&net.FlagUp == 0 || link.Flags&net.FlagLoopback != 0 {
			continue
		}
		f := found{addr: addr, rank: a.LinkIndex + 1<<20}
		if a.LinkIndex == index {
			f.rank = 0
		}
		if addr.Is6() {
			f.rank += 1 << 30
		}
		all = append(all, f)
	}
	slices.SortStableFunc(all, func(x, y found) int { return x.rank - y.rank })
	out := make([]netip.Addr, 0, len(all))
	for _, f := range all {
		if !slices.Contains(out, f.addr) {
			out = append(out, f.addr)
		}
	}
	return out, nil
}
