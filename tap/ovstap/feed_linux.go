package ovstap

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/tap"
)

// layFeed makes a feed's devices, or makes them again as they must be: the far end is down, so the kernel has no carrier at the near one, sends
// nothing of its own there, and drops what has passed the hook.
func layFeed(name, alias string, mtu int) error {
	l, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.TxQLen = name, mtu, 0
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "x", PeerMTU: uint32(mtu)}); err != nil {
			return fmt.Errorf("%w: make the device %s: %w", tap.ErrUnsupported, name, err)
		}
		l, err = netlink.LinkByName(name)
	}
	if err == nil && l.Attrs().Alias == "" { // now, or before a crash: nobody else calls a device so
		err = markFeed(l, alias)
	}
	if err != nil {
		return fmt.Errorf("make the device %s: %w", name, err)
	}
	if l.Attrs().Alias != alias {
		return fmt.Errorf("%w: there is a device %s that is not ours", tap.ErrUnsupported, name)
	}
	if l.Attrs().MTU != mtu {
		if err := netlink.LinkSetMTU(l, mtu); err != nil {
			return fmt.Errorf("set the MTU of %s: %w", name, err)
		}
	}
	if l.Attrs().RawFlags&unix.IFF_UP == 0 {
		if err := errors.Join(netlink.LinkSetARPOff(l), netlink.LinkSetUp(l)); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	return nil
}

// markFeed marks both ends as ours, or takes them away.
func markFeed(l netlink.Link, alias string) error {
	far, err := netlink.LinkByName(l.Attrs().Name + "x")
	if err == nil {
		err = errors.Join(netlink.LinkSetAlias(far, alias), netlink.LinkSetAlias(l, alias))
	}
	if err != nil {
		return errors.Join(err, netlink.LinkDel(l))
	}
	l.Attrs().Alias = alias
	return nil
}

// liftFeed takes a feed's devices away.
func liftFeed(name string) error {
	l, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil && !strings.HasPrefix(l.Attrs().Alias, aliasMark) {
		return nil // somebody else's
	}
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		return fmt.Errorf("take the device %s away: %w", name, err)
	}
	return nil
}

// feedLaid reports whether a feed's device is there and up.
func feedLaid(name string) bool {
	l, err := netlink.LinkByName(name)
	return err == nil && l.Attrs().RawFlags&unix.IFF_UP != 0
}

// feedsLaid names the feeds whose devices have this alias.
func feedsLaid(alias string) (names []string, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	for _, l := range links {
		if a := l.Attrs(); a.Alias == alias && !strings.HasSuffix(a.Name, "x") {
			names = append(names, a.Name)
		}
	}
	return names, nil
}
