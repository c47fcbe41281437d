// Package netdev finds a node's network devices, following them as they come, go and change.
//
// Runs in: agent | tools
package netdev

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"opentap/packet"
)

// ErrNoDefaultRoute says that no device carries a default route.
var ErrNoDefaultRoute = errors.New("no default route")

// Bounds of how a burst of changes becomes one snapshot. A snapshot comes when nothing has changed for quiet, and at the
// latest window after the first change, so that a host that creates a thousand devices is told of them a few times.
const (
	quiet  = 20 * time.Millisecond
	window = 200 * time.Millisecond
	// resync is how often everything is listed though nothing was heard: what is told of need not be all that changed.
	resync = time.Minute
)

// Watcher follows the network devices of the network namespace its Run is called in.
type Watcher struct {
	log *slog.Logger
}

// New makes a Watcher; it touches nothing until Run. A nil log discards.
func New(log *slog.Logger) *Watcher {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Watcher{log: log}
}

// Values of ARPHRD_*, include/uapi/linux/if_arp.h (Linux 6.1), of the device types that Link tells apart.
const (
	arphrdEther    = 1
	arphrdPPP      = 512
	arphrdRawIP    = 519
	arphrdTunnel   = 768
	arphrdTunnel6  = 769
	arphrdLoopback = 772
	arphrdSIT      = 776
	arphrdNone     = 0xfffe
)

// arphrdNames names device types that give no packets, for the reason shown to people.
var arphrdNames = map[uint16]string{
	32: "InfiniBand", 280: "CAN", 778: "GRE tunnel", 823: "GRE tunnel over IPv6", 801: "raw 802.11", 802: "802.11 with Prism header",
	803: "802.11 with radiotap header", 804: "802.15.4", 824: "netlink monitor", 825: "6LoWPAN", 826: "vsock monitor",
}

// Link returns how frames of a device begin, given its ARPHRD_* type (netdevice(7), SIOCGIFHWADDR): what a ring on it can
// record. reason says why there is none, in words for people; it is "" when link is valid.
func Link(arphrd uint16) (link packet.LinkType, reason string) {
	switch arphrd {
	case arphrdEther, arphrdLoopback: // loopback frames carry an Ethernet header of zeros
		return packet.LinkEthernet, ""
	case arphrdNone, arphrdPPP, arphrdRawIP, arphrdTunnel, arphrdTunnel6, arphrdSIT: // no link-layer header at all, as capture/ring takes them
		return packet.LinkRaw, ""
	}
	if n, ok := arphrdNames[arphrd]; ok {
		return 0, fmt.Sprintf("%s frames (device type %d) cannot be recorded", n, arphrd)
	}
	return 0, fmt.Sprintf("frames of device type %d cannot be recorded", arphrd)
}
