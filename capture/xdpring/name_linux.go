package xdpring

import (
	"bytes"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ifreq is struct ifreq of netdevice(7), for a value of 32 bits.
type ifreq struct {
	name  [unix.IFNAMSIZ]byte
	value int32
	_     [20]byte
}

func (r *ifreq) ask(fd int, what uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), what, uintptr(unsafe.Pointer(r))); errno != 0 {
		return errno
	}
	return nil
}

// mtuOf returns the MTU of an interface, whatever its name is by now. It allocates nothing unless it fails.
func mtuOf(fd, ifindex int) (int, error) {
	req := ifreq{value: int32(ifindex)}
	if err := req.ask(fd, unix.SIOCGIFNAME); err != nil {
		return 0, err
	}
	err := req.ask(fd, unix.SIOCGIFMTU)
	return int(req.value), err
}

// nameOf returns the present name of an interface, netdevice(7). ENODEV: it is gone, or in another network namespace.
func nameOf(fd, ifindex int) (string, error) {
	req := ifreq{value: int32(ifindex)}
	if err := req.ask(fd, unix.SIOCGIFNAME); err != nil {
		return "", err
	}
	name, _, _ := bytes.Cut(req.name[:], []byte{0})
	return string(name), nil
}
