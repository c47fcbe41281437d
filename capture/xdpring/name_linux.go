package xdpring

import (
	"bytes"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nameOf returns the present name of an interface, netdevice(7). ENODEV: it is gone, or in another network namespace.
func nameOf(fd, ifindex int) (string, error) {
	req := struct { // struct ifreq
		name  [unix.IFNAMSIZ]byte
		index int32
		_     [20]byte
	}{index: int32(ifindex)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFNAME, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return "", errno
	}
	name, _, _ := bytes.Cut(req.name[:], []byte{0})
	return string(name), nil
}
