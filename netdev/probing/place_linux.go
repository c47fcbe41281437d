package probing

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/fault"
	"opentap/packet"
	"opentap/want"
	"opentap/wire/probe"
)

// place is a device and what the host knows of the networks behind it.
type place struct {
	name  string
	index int
	mac   packet.MAC
	mtu   int
	slave bool // of a bridge or the like: the host's own stack sees nothing of it
	nets  []netip.Prefix
}

// look finds a device that probes can be sent out of.
func look(name string) (*place, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, &fault.Error{Kind: fault.Unavailable, Field: "point", Msg: name + " is not there now", Err: err}
	}
	a := l.Attrs()
	switch {
	case a.EncapType == "loopback":
		return nil, fault.New(fault.Unsupported, "%s is the host to itself: the kernel drops frames that are put there", name)
	case a.EncapType != "ether" || len(a.HardwareAddr) != 6:
		return nil, fault.New(fault.Unsupported, "%s is a device of type %s; probes are Ethernet frames", name, a.EncapType)
	case a.Flags&net.FlagUp == 0:
		return nil, &fault.Error{Kind: fault.Unavailable, Field: "point", Msg: name + " is down"}
	}
	p := &place{name: name, index: a.Index, mac: packet.MAC(a.HardwareAddr), mtu: a.MTU, slave: a.MasterIndex != 0}
	list, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fault.New(fault.Unavailable, "the addresses of %s cannot be listed: %v", name, err)
	}
	for _, x := range list {
		addr, ok := netip.AddrFromSlice(x.IP)
		ones, _ := x.Mask.Size()
		if addr = addr.Unmap(); ok && x.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			p.nets = append(p.nets, netip.PrefixFrom(addr, ones))
		}
	}
	return p, nil
}

// has reports whether an address is the device's own.
func (p *place) has(a netip.Addr) bool {
	return slices.ContainsFunc(p.nets, func(n netip.Prefix) bool { return n.Addr() == a })
}

// broadcasts are the addresses of everybody on the device's networks, and the old form of them: RFC 922, RFC 1122 section 3.3.6.
func (p *place) broadcasts() (out []netip.Addr) {
	for _, n := range p.nets {
		if !n.Addr().Is4() || n.Bits() > 30 { // RFC 3021
			continue
		}
		b := n.Masked().Addr().As4()
		first := binary.BigEndian.Uint32(b[:])
		out = append(out, n.Masked().Addr())
		binary.BigEndian.PutUint32(b[:], first|^uint32(0)>>n.Bits())
		out = append(out, netip.AddrFrom4(b))
	}
	return out
}

// sourceFor is the device's address for frames to target; not valid when it has none.
func (p *place) sourceFor(target netip.Addr) netip.Addr {
	routes, err := netlink.RouteGetWithOptions(target.AsSlice(), &netlink.RouteGetOptions{Oif: p.name})
	if err == nil && len(routes) > 0 {
		if a, ok := netip.AddrFromSlice(routes[0].Src); ok && p.has(a.Unmap()) {
			return a.Unmap()
		}
	}
	var best netip.Addr
	for _, n := range p.nets {
		switch a := n.Addr(); {
		case a.Is4() != target.Is4():
		case n.Contains(target):
			return a
		case !best.IsValid() || a.Is6() && best.IsLinkLocalUnicast() != target.IsLinkLocalUnicast():
			best = a
		}
	}
	return best
}

// hop is who frames to target are given to. With a tag nobody knows but who asks.
func (p *place) hop(q *want.ProbeRun) netip.Addr {
	if q.Via.IsValid() {
		return q.Via
	}
	if q.VLAN != 0 {
		return q.Target
	}
	routes, err := netlink.RouteGetWithOptions(q.Target.AsSlice(), &netlink.RouteGetOptions{Oif: p.name})
	if err == nil && len(routes) > 0 {
		if gw, ok := netip.AddrFromSlice(routes[0].Gw); ok {
			return gw.Unmap()
		}
	}
	return q.Target
}

const (
	solicits   = 3
	solicitFor = 400 * time.Millisecond
	sure       = netlink.NUD_REACHABLE | netlink.NUD_PERMANENT | netlink.NUD_DELAY | netlink.NUD_PROBE
)

// resolve finds the link-layer address of the next hop: what was asked for, what the kernel is sure of, who answers, and last what the
// kernel remembers. false: nobody has it.
func (r *run) resolve(ctx context.Context, q *want.ProbeRun) (found bool, err error) {
	p, hop := &r.plan, r.hop(q)
	if hop != q.Target {
		r.report.Via = hop
	}
	defer func() {
		if found {
			r.report.TargetMAC = macText(p.DstMAC)
		}
	}()
	switch {
	case q.TargetMAC != "":
		p.DstMAC, _ = probe.ParseMAC(q.TargetMAC) // Fill has read it
		r.report.ResolvedBy, r.report.Via = "request", q.Via
		r.group = r.group || p.DstMAC[0]&1 != 0
		return true, nil
	case r.group:
		p.DstMAC = groupMAC(q.Target)
		r.report.ResolvedBy = "group"
		return true, nil
	}
	var stale net.HardwareAddr
	if q.VLAN == 0 {
		family := unix.AF_INET
		if hop.Is6() {
			family = unix.AF_INET6
		}
		list, err := netlink.NeighList(r.index, family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			list = nil // the frames themselves can ask
		}
		for _, n := range list {
			if a, ok := netip.AddrFromSlice(n.IP); !ok || a.Unmap() != hop || len(n.HardwareAddr) != 6 || n.HardwareAddr[0]&1 != 0 {
				continue
			}
			if n.State&sure != 0 {
				p.DstMAC, r.report.ResolvedBy = packet.MAC(n.HardwareAddr), "kernel"
				return true, nil
			}
			if n.State&netlink.NUD_STALE != 0 {
				stale = n.HardwareAddr
			}
		}
	}
	r.report.ResolvedBy = "arp"
	if hop.Is6() {
		r.report.ResolvedBy = "nd"
	}
	for range solicits {
		mac, ok, err := r.ask(ctx, hop)
		if err != nil {
			return false, err
		}
		if ok {
			p.DstMAC = mac
			return true, nil
		}
	}
	if stale != nil {
		p.DstMAC, r.report.ResolvedBy = packet.MAC(stale), "kernel"
		r.report.Notes = append(r.report.Notes, "nobody answers for "+hop.String()+"; its address is what the kernel remembers of before")
		return true, nil
	}
	how := "ARP"
	if hop.Is6() {
		how = "neighbour discovery"
	}
	r.report.Notes = append(r.report.Notes, "nobody on "+r.name+" says that it has "+hop.String()+": "+how+" asked three times")
	return false, nil
}

// ask asks once who has an address.
func (r *run) ask(ctx context.Context, hop netip.Addr) (mac packet.MAC, ok bool, err error) {
	p := &r.plan
	if err := r.socket.send(probe.Solicit(nil, p.SrcMAC, p.Src, hop, p.VLAN, p.Priority)); err != nil {
		return mac, false, fault.New(fault.Unavailable, "%s cannot be asked for out of %s: %v", hop, r.name, err)
	}
	var in packet.Parsed
	for until := time.Now().Add(solicitFor); time.Now().Before(until); {
		if err := ctx.Err(); err != nil {
			return mac, false, err
		}
		frame, _, err := r.socket.receive(time.Until(until))
		if err != nil {
			return mac, false, fault.New(fault.Unavailable, "answers cannot be taken from %s: %v", r.name, err)
		}
		in.Decode(packet.LinkEthernet, frame, uint32(len(frame)))
		if mac, ok = probe.Solicited(frame, &in, hop); ok {
			return mac, true, nil
		}
	}
	return mac, false, nil
}

// groupMAC is where frames to a group go: RFC 1112 section 6.4, RFC 2464 section 7. What is no group is everybody.
func groupMAC(a netip.Addr) packet.MAC {
	b := a.As16()
	switch {
	case a.Is4() && a.IsMulticast():
		return packet.MAC{1, 0, 0x5e, b[13] & 0x7f, b[14], b[15]}
	case a.Is6():
		return packet.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
	}
	return packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
}

// reserve decides the ports that frames come from. Where the host could have connections from there, the ports are taken from it until
// free is called.
func (r *run) reserve(q *want.ProbeRun) (free func(), err error) {
	var held []int
	free = func() {
		for _, fd := range held {
			unix.Close(fd)
		}
	}
	if q.Kind == want.ProbePing {
		return free, nil
	}
	count := q.Count
	if q.SourcePort != 0 {
		count = 1
	}
	for range count {
		port := q.SourcePort
		if r.has(r.plan.Src) {
			fd, got, err := r.hold(q.Kind, port)
			if err != nil {
				free()
				if errors.Is(err, unix.EADDRINUSE) {
					return nil, &fault.Error{Kind: fault.Conflict, Field: "source_port", Msg: "the host itself uses the port", Hint: "leave it out: a free one is found"}
				}
				return nil, fault.New(fault.Exhausted, "a port of %s cannot be had: %v", r.plan.Src, err)
			}
			held, port = append(held, fd), got
		}
		for port == 0 || len(held) == 0 && q.SourcePort == 0 && slices.Contains(r.plan.Ports, port) { // nobody's: any dynamic one, RFC 6335 section 6
			var b [2]byte
			_, _ = rand.Read(b[:])
			port = 49152 + binary.NativeEndian.Uint16(b[:])%16384
		}
		r.plan.Ports = append(r.plan.Ports, port)
	}
	return free, nil
}

// hold takes a port from the host; 0 = any.
func (r *run) hold(kind string, port uint16) (fd int, got uint16, err error) {
	family, typ := unix.AF_INET, unix.SOCK_DGRAM
	if kind == want.ProbeTCPSYN {
		typ = unix.SOCK_STREAM
	}
	var at unix.Sockaddr = &unix.SockaddrInet4{Port: int(port), Addr: as4(r.plan.Src)}
	if r.plan.Src.Is6() {
		family = unix.AF_INET6
		six := &unix.SockaddrInet6{Port: int(port), Addr: r.plan.Src.As16()}
		if r.plan.Src.IsLinkLocalUnicast() {
			six.ZoneId = uint32(r.index)
		}
		at = six
	}
	if fd, err = unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return 0, 0, err
	}
	if err = unix.Bind(fd, at); err == nil {
		at, err = unix.Getsockname(fd)
	}
	if err != nil {
		unix.Close(fd)
		return 0, 0, err
	}
	switch a := at.(type) {
	case *unix.SockaddrInet4:
		got = uint16(a.Port)
	case *unix.SockaddrInet6:
		got = uint16(a.Port)
	}
	return fd, got, nil
}

func as4(a netip.Addr) (b [4]byte) {
	if a.Is4() {
		b = a.As4()
	}
	return b
}
