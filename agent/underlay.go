package agent

import (
	"net/netip"

	"opentap/netdev"
)

// underlay returns where other nodes reach this one with tapped packets: what the configuration says, or else this host's
// addresses. None, when they cannot be read: taps to other nodes then say that they have no address.
func (a *Agent) underlay() []netip.Addr {
	if len(a.cfg.Underlay) > 0 {
		return a.cfg.Underlay
	}
	list, err := netdev.Underlay()
	if err != nil {
		a.log.Debug("this host's addresses cannot be listed", "err", err)
	}
	return list
}
