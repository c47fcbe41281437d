package ring

import (
	"fmt"

	"golang.org/x/sys/unix"

	"opentap/packet"
)

// LinkTypeOf says how frames of an interface begin, so that a filter can be compiled before the ring is opened. It needs
// no privilege. Errors: ErrGone; *LinkTypeError.
func LinkTypeOf(iface string) (packet.LinkType, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("look up interface %q: %w", iface, err)
	}
	defer unix.Close(fd)
	r := &Ring{cfg: Config{Interface: iface}, fd: fd}
	if _, err := r.findInterface(); err != nil {
		return 0, fmt.Errorf("look up interface %q: %w", iface, err)
	}
	return r.link, nil
}
