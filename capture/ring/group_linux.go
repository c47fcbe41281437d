package ring

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// fanoutIgnoreOutgoing is PACKET_FANOUT_FLAG_IGNORE_OUTGOING: in a group PACKET_IGNORE_OUTGOING has no effect. Before Linux 6.2 the
// kernel takes the flag and minds it not.
const fanoutIgnoreOutgoing = 0x4000

// joinGroup makes the ring, which is bound and takes nothing yet, a member of its group.
//
// Packets are divided by flow (PACKET_FANOUT_HASH: net/packet/af_packet.c, fanout_demux_hash takes the symmetric hash), and roll
// over to a ring with room where theirs is three quarters full. They are not put together from fragments
// (PACKET_FANOUT_FLAG_DEFRAG): a recording is of what was on the wire. So fragments behind the first, which have no ports, may
// be in another ring than the first.
func (r *Ring) joinGroup(loopback bool) error {
	g := r.cfg.Group
	g.mu.Lock()
	defer g.mu.Unlock()
	how := unix.PACKET_FANOUT_HASH | unix.PACKET_FANOUT_FLAG_ROLLOVER
	if loopback {
		if !since(6, 2) {
			return fmt.Errorf("join a group of rings: on a loopback that takes Linux 6.2: %w", errors.ErrUnsupported)
		}
		how |= fanoutIgnoreOutgoing
	}
	id := g.id
	if g.members == 0 {
		how |= unix.PACKET_FANOUT_FLAG_UNIQUEID
		id = 0
	}
	err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_FANOUT, how<<16|id)
	switch {
	case err == nil:
	case errors.Is(err, unix.EINVAL) && !r.isUp(): // before Linux 6.14
		return fmt.Errorf("join a group of rings: %w", ErrDown)
	case errors.Is(err, unix.EINVAL) && g.members > 0: // until they have noticed, too
		return fmt.Errorf("join a group of rings: that of the others %w", ErrGone)
	default:
		return fmt.Errorf("join a group of rings: %w", err)
	}
	r.member = true
	if g.members == 0 {
		if id, err = unix.GetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_FANOUT); err != nil {
			return fmt.Errorf("read the number of a group of rings: %w", err)
		}
		g.id = id & 0xffff
	}
	g.members++
	return nil
}

// leaveGroup comes after the socket is closed, which is how it leaves the group.
func (r *Ring) leaveGroup() {
	if !r.member {
		return
	}
	r.member = false
	g := r.cfg.Group
	g.mu.Lock()
	g.members--
	g.mu.Unlock()
}

func (r *Ring) isUp() bool {
	req, err := unix.NewIfreq(r.cfg.Interface)
	if err != nil || unix.IoctlIfreq(r.fd, unix.SIOCGIFFLAGS, req) != nil {
		return false
	}
	return req.Uint16()&unix.IFF_UP != 0
}

// since reports whether the kernel is of that version or a later one.
func since(major, minor int) bool {
	var u unix.Utsname
	var is [2]int
	if unix.Uname(&u) != nil {
		return false
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &is[0], &is[1]); err != nil {
		return false
	}
	return is[0] > major || is[0] == major && is[1] >= minor
}

// awaitReceivers returns when every packet that was on its way to some packet socket has been there. A member of a group cannot
// be bound again, so another socket is: the kernel waits for all alike (af_packet.c, packet_do_bind → __unregister_prot_hook →
// synchronize_net).
func awaitReceivers() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make packet socket: %w", err)
	}
	defer unix.Close(fd)
	for _, protocol := range [...]uint16{unusedProtocol, unusedProtocol + 1} {
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(protocol)}); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
	}
	return nil
}
