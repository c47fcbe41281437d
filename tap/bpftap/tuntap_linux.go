package bpftap

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/tap"
)

// madeAlias marks a device that we made; the id of its sink follows.
const madeAlias = "OpenTap: made for "

// makeTapDevice makes a tap device that stays. A tool may open it, or listen on it.
func (d *Driver) makeTapDevice(name, id string) (netlink.Link, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: make a tap device: /dev/net/tun: %w", tap.ErrUnsupported, err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("make a tap device %q: %w", name, err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, fmt.Errorf("make the tap device %s: %w", name, err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return nil, fmt.Errorf("make the tap device %s stay: %w", name, err)
	}
	l, err := d.nl.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := d.nl.LinkSetAlias(l, madeAlias+id); err != nil {
		return nil, errors.Join(err, d.nl.LinkDel(l))
	}
	// The host shall not talk on it.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.log.Warn("IPv6 stays on at a tap device", "device", name, "err", err)
	}
	if err := errors.Join(d.nl.LinkSetARPOff(l), d.nl.LinkSetMTU(l, madeMTU), d.nl.LinkSetUp(l)); err != nil {
		return nil, fmt.Errorf("set %s up: %w", name, err)
	}
	return d.device(name)
}

// madeMTU is that of devices we make: copies of jumbo frames fit.
const madeMTU = 9216

// removeTapDevice removes a device that was made for a sink, if it still is that one.
func (d *Driver) removeTapDevice(name, id string) error {
	l, err := d.nl.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.Attrs().Alias != madeAlias+id {
		return nil
	}
	return d.nl.LinkDel(l)
}
