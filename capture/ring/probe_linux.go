package ring

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Probe says whether this process may open packet sockets; the error wraps os.ErrPermission when it lacks CAP_NET_RAW.
func Probe() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	return unix.Close(fd)
}
