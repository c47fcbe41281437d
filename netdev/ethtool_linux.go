package netdev

import (
	"math"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtool asks a device's driver by ioctl. It is used instead of sysfs because sysfs shows the network namespace it was
// mounted in, and this the one of the thread that opened it. Not safe for concurrent use.
type ethtool struct{ fd int }

func openEthtool() (*ethtool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == unix.EAFNOSUPPORT { // a kernel without IPv4
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	}
	if err != nil {
		return nil, err
	}
	return &ethtool{fd}, nil
}

func (e *ethtool) close() { _ = unix.Close(e.fd) }

// driver returns the name of the device's driver; "" = it does not say.
func (e *ethtool) driver(name string) string {
	info, err := unix.IoctlGetEthtoolDrvinfo(e.fd, name)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Driver[:])
}

// ethtoolCmd is struct ethtool_cmd of include/uapi/linux/ethtool.h (Linux 6.1).
type ethtoolCmd struct {
	cmd, supported, advertising    uint32
	speed                          uint16 // low half, Mbit/s
	duplex, port, phy, transceiver uint8
	autoneg, mdio                  uint8
	maxTxPkt, maxRxPkt             uint32
	speedHi                        uint16
	mdix, mdixCtrl                 uint8
	lpAdvertising                  uint32
	reserved                       [2]uint32
}

// ifreq is struct ifreq of netdevice(7) with ifr_data in the union, which has 24 octets on 64-bit machines.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// speed returns the device's speed in bit/s; 0 = it has none or does not say.
func (e *ethtool) speed(name string) uint64 {
	var r ifreq
	if len(name) >= len(r.name) {
		return 0
	}
	cmd := ethtoolCmd{cmd: unix.ETHTOOL_GSET}
	copy(r.name[:], name)
	r.data = unsafe.Pointer(&cmd)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
	runtime.KeepAlive(&cmd)
	if errno != 0 {
		return 0
	}
	return speedBPS(uint32(cmd.speedHi)<<16 | uint32(cmd.speed))
}

// speedBPS turns ethtool's Mbit/s into bit/s. SPEED_UNKNOWN is all ones, in 32 bits or (old drivers) in 16.
func speedBPS(mbps uint32) uint64 {
	if mbps == math.MaxUint32 || mbps == math.MaxUint16 {
		return 0
	}
	return uint64(mbps) * 1_000_000
}

// SpeedBPS returns the speed of the named device in bit/s; 0 = it has none, does not say, or is not there.
func SpeedBPS(name string) uint64 {
	e, err := openEthtool()
	if err != nil {
		return 0
	}
	defer e.close()
	return e.speed(name)
}
