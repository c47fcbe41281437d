package bpftap

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// featureBlocks bounds the words of 32 features that a kernel may have.
const featureBlocks = 8

// offloadsOff turns everything off that can be, so that packets come out as they would on the wire: segmented, with their
// checksums, and their VLAN tag in them. include/uapi/linux/ethtool.h.
func offloadsOff(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// struct ethtool_gfeatures: cmd, size, then available, requested, active, never changed for each block.
	get := make([]byte, 8+16*featureBlocks)
	binary.NativeEndian.PutUint32(get, unix.ETHTOOL_GFEATURES)
	binary.NativeEndian.PutUint32(get[4:], featureBlocks)
	if err := ethtool(fd, name, get); err != nil {
		return fmt.Errorf("read features: %w", err)
	}
	blocks := binary.NativeEndian.Uint32(get[4:])
	if blocks > featureBlocks {
		return fmt.Errorf("the kernel has %d words of features", blocks)
	}
	// struct ethtool_sfeatures: cmd, size, then valid, requested for each block.
	set := make([]byte, 8+8*blocks)
	binary.NativeEndian.PutUint32(set, unix.ETHTOOL_SFEATURES)
	binary.NativeEndian.PutUint32(set[4:], blocks)
	for i := range blocks {
		copy(set[8+8*i:], get[8+16*i:][:4]) // all that is available is meant, nothing of it requested
	}
	if err := ethtool(fd, name, set); err != nil {
		return fmt.Errorf("set features: %w", err)
	}
	return nil
}

func ethtool(fd int, name string, data []byte) error {
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&data[0])}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}
