package netdev

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"opentap/point"
)

// maxAlias bounds an alias in octets: IFALIASZ of include/uapi/linux/if.h is 256 with its zero.
const maxAlias = 255

// rtextSkipStats is RTEXT_FILTER_SKIP_STATS of include/uapi/linux/rtnetlink.h: names are wanted, not counters.
const rtextSkipStats = 1 << 3

// List returns the network devices of the calling thread's network namespace, in the order of their indices. Default is
// set on the device of the default route; where there is none, on the first that is up and not the loopback. Since is now.
func List() ([]point.Point, error) {
	var msgs [][]byte
	var err error
	for range 5 { // a dump that the kernel changed under us is asked for again; after five the last is as good as any
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(rtextSkipStats)))
		msgs, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list network devices: %w", err)
	}

	eth, err := openEthtool()
	if err != nil {
		return nil, fmt.Errorf("list network devices: open a socket to ask for drivers: %w", err)
	}
	defer eth.close()
	now := time.Now().UTC()
	points := make([]point.Point, 0, len(msgs))
	loopback := make(map[int]bool)
	for _, m := range msgs {
		if len(m) < unix.SizeofIfInfomsg {
			return nil, fmt.Errorf("list network devices: message of %d octets is too short", len(m))
		}
		link, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, fmt.Errorf("list network devices: decode a device: %w", err)
		}
		p := pointOf(link, nl.DeserializeIfInfomsg(m).Type)
		p.Since = now
		p.Driver = eth.driver(p.Name)
		if p.Driver == "" && link.Type() != "device" {
			p.Driver = link.Type() // what rtnetlink calls it; "device" is the library's word for nothing said
		}
		p.SpeedBPS = eth.speed(p.Name)
		loopback[p.IfIndex] = link.Attrs().Flags&net.FlagLoopback != 0
		points = append(points, p)
	}
	slices.SortFunc(points, func(a, b point.Point) int { return a.IfIndex - b.IfIndex })

	index, err := defaultRouteIndex()
	if err != nil && !errors.Is(err, ErrNoDefaultRoute) {
		return nil, err
	}
	def := slices.IndexFunc(points, func(p point.Point) bool { return p.IfIndex == index })
	if def < 0 {
		def = slices.IndexFunc(points, func(p point.Point) bool { return p.Up && !loopback[p.IfIndex] })
	}
	if def >= 0 {
		points[def].Default = true
	}
	return points, nil
}

// pointOf translates what rtnetlink says of one device. arphrd is the ARPHRD_* type.
func pointOf(link netlink.Link, arphrd uint16) point.Point {
	a := link.Attrs()
	p := point.Point{
		Name: a.Name, Kind: point.Netdev, Present: true,
		IfIndex: a.Index, MTU: a.MTU,
		// Devices without a notion of carrier (lo, tun) stay "unknown" and are up when the administrator says so (RFC 2863
		// ifOperStatus; Documentation/networking/operstates.rst).
		Up: a.OperState == netlink.OperUp || (a.OperState == netlink.OperUnknown && a.RawFlags&unix.IFF_UP != 0),
	}
	if len(a.HardwareAddr) == 6 {
		p.MAC = a.HardwareAddr.String()
	}
	if alias := strings.TrimSpace(a.Alias); len(alias) <= maxAlias {
		p.IfAlias = strings.ToValidUTF8(alias, "\uFFFD")
	}
	lt, reason := Link(arphrd)
	p.LinkType, p.NoPcap = uint16(lt), reason
	for _, alias := range append([]string{strings.TrimSpace(a.Alias)}, a.AltNames...) {
		if alias != "" && len(alias) <= maxAlias && alias != a.Name && !slices.Contains(p.Aliases, alias) {
			p.Aliases = append(p.Aliases, strings.ToValidUTF8(alias, "\uFFFD"))
		}
	}
	return p
}

// DefaultRoute returns the name of the device of the default route: of IPv4's main table the one of lowest metric, else of
// IPv6's. The error is ErrNoDefaultRoute when there is none.
func DefaultRoute() (string, error) {
	index, err := defaultRouteIndex()
	if err != nil {
		return "", err
	}
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return "", fmt.Errorf("name the device of the default route, index %d: %w", index, err)
	}
	return link.Attrs().Name, nil
}

// defaultRouteIndex returns the interface index of the default route. It reads the main table through, keeping one route.
func defaultRouteIndex() (int, error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		index, metric := 0, 0
		err := netlink.RouteListFilteredIter(family, &netlink.Route{}, 0, func(r netlink.Route) bool {
			if r.Dst != nil {
				if ones, _ := r.Dst.Mask.Size(); ones != 0 || !r.Dst.IP.IsUnspecified() {
					return true
				}
			}
			out := r.LinkIndex
			if out == 0 && len(r.MultiPath) > 0 {
				out = r.MultiPath[0].LinkIndex
			}
			if r.Type == unix.RTN_UNICAST && out != 0 && (index == 0 || r.Priority < metric) {
				index, metric = out, r.Priority
			}
			return true
		})
		// An interrupted dump may have missed a route; what was found still carries a default route.
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return 0, fmt.Errorf("list routes: %w", err)
		}
		if index != 0 {
			return index, nil
		}
	}
	return 0, ErrNoDefaultRoute
}
