package xdpring

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtool asks the driver of an interface by way of any socket of its namespace. value is one of the structs of linux
// include/uapi/linux/ethtool.h, its command first.
func ethtool(fd int, name string, value unsafe.Pointer) error {
	req := struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: value}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}

// queuesOf returns how many receive queues an interface uses. A driver that does not say has one.
func queuesOf(fd int, name string) int {
	// struct ethtool_channels
	ch := struct{ cmd, maxRx, maxTx, maxOther, maxCombined, rx, tx, other, combined uint32 }{cmd: unix.ETHTOOL_GCHANNELS}
	if err := ethtool(fd, name, unsafe.Pointer(&ch)); err != nil {
		return 1
	}
	return int(min(max(ch.rx+ch.combined, 1), 1024))
}

// ethtoolValue is struct ethtool_value.
type ethtoolValue struct{ cmd, data uint32 }

// switches are settings of an interface that were changed, and how they were.
type switches struct {
	restore []func() error
}

// rxVLAN is ETH_FLAG_RXVLAN, linux include/uapi/linux/ethtool.h: the device takes VLAN tags out of frames.
const rxVLAN = 1 << 8

// keepTags has the device leave VLAN tags in the frames: what it takes out, an XDP program never sees.
func (s *switches) keepTags(fd int, name string) error {
	v := ethtoolValue{cmd: unix.ETHTOOL_GFLAGS}
	if err := ethtool(fd, name, unsafe.Pointer(&v)); err != nil {
		return fmt.Errorf("read whether %s takes VLAN tags out of frames: %w", name, err)
	}
	if v.data&rxVLAN == 0 {
		return nil
	}
	set := func(data uint32) error {
		v := ethtoolValue{cmd: unix.ETHTOOL_SFLAGS, data: data}
		return ethtool(fd, name, unsafe.Pointer(&v))
	}
	if err := set(v.data &^ rxVLAN); err != nil {
		return fmt.Errorf("%s takes VLAN tags out of frames, and cannot be told not to (rxvlan): %w", name, err)
	}
	s.restore = append(s.restore, func() error { return set(v.data) })
	return nil
}

// keepApart has the kernel not join frames before the program (generic receive offload).
func (s *switches) keepApart(fd int, name string) error {
	v := ethtoolValue{cmd: unix.ETHTOOL_GGRO}
	if err := ethtool(fd, name, unsafe.Pointer(&v)); err != nil || v.data == 0 {
		return err
	}
	set := func(data uint32) error {
		v := ethtoolValue{cmd: unix.ETHTOOL_SGRO, data: data}
		return ethtool(fd, name, unsafe.Pointer(&v))
	}
	if err := set(0); err != nil {
		return fmt.Errorf("turn receive offload of %s off: %w", name, err)
	}
	s.restore = append(s.restore, func() error { return set(1) })
	return nil
}

// undo puts everything back as it was. An interface that is gone has nothing to be put back.
func (s *switches) undo() error {
	var errs []error
	for _, fn := range s.restore {
		if err := fn(); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("restore a setting: %w", err))
		}
	}
	s.restore = nil
	return errors.Join(errs...)
}
