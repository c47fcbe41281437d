package main

import (
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"

	"opentap/packet"
)

// idealFlow is what a flow is in the idealised loop: a key and two counters in one line of memory.
type idealFlow struct {
	src, dst        [2]uint64
	ports           uint64 // and protocol; 0 = an empty place
	packets, octets uint64
	_               uint64
}

// runIdeal is what metering would cost if a flow were two counters: a file in memory, decoding, and one table that knows at
// the start how large it will be. No time passes, so nothing ends; there is no other field, no VLAN, no limit, and no order.
func runIdeal(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	file, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(file) }()
	const places = 1 << 21
	table := make([]idealFlow, places)
	var p packet.Parsed
	for b := file[24:]; len(b) >= 16; {
		n, wire := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
		p.Decode(packet.LinkEthernet, b[16:16+n], wire)
		b = b[16+n:]
		src := [2]uint64{binary.BigEndian.Uint64(p.Src[:]), binary.BigEndian.Uint64(p.Src[8:])}
		dst := [2]uint64{binary.BigEndian.Uint64(p.Dst[:]), binary.BigEndian.Uint64(p.Dst[8:])}
		sp, dp := p.SrcPort, p.DstPort
		if src[0] > dst[0] || src[0] == dst[0] && src[1] > dst[1] {
			src, dst, sp, dp = dst, src, dp, sp
		}
		ports := uint64(sp)<<24 | uint64(dp)<<8 | uint64(p.Proto)
		h, l := bits.Mul64(src[0]^src[1]^0x9e3779b97f4a7c15, dst[0]^dst[1]^bits.RotateLeft64(ports, 20)^0xc2b2ae3d27d4eb4f)
		for at := (h ^ l) & (places - 1); ; at = (at + 1) & (places - 1) {
			e := &table[at]
			if e.ports == 0 {
				e.src, e.dst, e.ports = src, dst, ports
			}
			if e.ports == ports && e.src == src && e.dst == dst {
				e.packets++
				e.octets += uint64(p.IPOctets)
				break
			}
		}
	}
	var total metered
	for i := range table {
		if e := &table[i]; e.ports != 0 {
			total.Packets += e.packets
			total.Octets += e.octets
			total.Records++
		}
	}
	return json.NewEncoder(os.Stdout).Encode(total)
}
