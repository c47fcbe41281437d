package flow

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net/netip"
	"time"

	"opentap/packet"
)

// A classic pcap file in memory, nanosecond times, and a walker over it: enough for the tests here.

func pcapHeader() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b23c4d)
	b = binary.LittleEndian.AppendUint16(b, 2)
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = binary.LittleEndian.AppendUint32(b, 65535)
	return binary.LittleEndian.AppendUint32(b, 1)
}

func pcapPacket(b []byte, ts int64, frame []byte, origLen int) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(ts/1e9))
	b = binary.LittleEndian.AppendUint32(b, uint32(ts%1e9))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	b = binary.LittleEndian.AppendUint32(b, uint32(origLen))
	return append(b, frame...)
}

// eachPacket walks a file that pcapHeader and pcapPacket made.
func eachPacket(b []byte, fn func(ts int64, frame []byte, origLen uint32)) {
	next, some := batchesOf(b, io.EOF), Frames{}
	for err := error(nil); err == nil; {
		some.List = some.List[:0]
		err = next(&some)
		for _, f := range some.List {
			fn(int64(f.Time), f.Data, f.OrigLen)
		}
	}
}

// batchesOf returns what Parallel calls for the packets of such a file; after the last it returns err.
func batchesOf(b []byte, err error) func(*Frames) error {
	b = b[24:]
	return func(fs *Frames) error {
		for range 1000 {
			if len(b) < 16 {
				return err
			}
			n := binary.LittleEndian.Uint32(b[8:])
			fs.List = append(fs.List, Frame{
				Time: packet.Timestamp(int64(binary.LittleEndian.Uint32(b))*1e9 + int64(binary.LittleEndian.Uint32(b[4:]))),
				Link: packet.LinkEthernet, OrigLen: binary.LittleEndian.Uint32(b[12:]), Data: b[16 : 16+n],
			})
			b = b[16+n:]
		}
		return nil
	}
}

// frameOf makes an Ethernet frame with an IP datagram of some octets, cut to snap octets.
func frameOf(dst []byte, src, to netip.Addr, proto uint8, l4 []byte, octets, snap int) []byte {
	f := append(dst[:0], 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1)
	if src.Is4() {
		f = append(f, 8, 0, 0x45, 0, byte(octets>>8), byte(octets), 0, 1, 0, 0, 64, proto, 0, 0)
		f = append(f, src.AsSlice()...)
		f = append(f, to.AsSlice()...)
		var sum uint32
		for i := 14; i < 34; i += 2 {
			sum += uint32(f[i])<<8 | uint32(f[i+1])
		}
		for sum>>16 != 0 {
			sum = sum&0xffff + sum>>16
		}
		binary.BigEndian.PutUint16(f[24:], ^uint16(sum))
	} else {
		f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, byte((octets-40)>>8), byte(octets-40), proto, 64)
		f = append(f, src.AsSlice()...)
		f = append(f, to.AsSlice()...)
	}
	f = append(f, l4...)
	for len(f) < min(octets+14, snap) {
		f = append(f, 0)
	}
	return f
}

func tcp(src, dst uint16, flags byte) []byte {
	return []byte{byte(src >> 8), byte(src), byte(dst >> 8), byte(dst), 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0}
}

func udp(src, dst uint16, n int) []byte {
	return []byte{byte(src >> 8), byte(src), byte(dst >> 8), byte(dst), byte(n >> 8), byte(n), 0, 0}
}

func host4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

func host6(n uint32) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})
}

// mixed is packets of some flows in both families: three quarters TCP, the rest UDP; a quarter IPv6. It starts at start and
// spreads the packets evenly over span.
func mixed(flows, packets int, start time.Time, span time.Duration, snap int) []byte {
	r := rand.New(rand.NewPCG(3, 4))
	file := pcapHeader()
	var frame []byte
	for i := range packets {
		n := uint32(r.IntN(flows))
		src, dst := host4(n), host4(1<<20|n&0xff)
		if n%4 == 3 {
			src, dst = host6(n), host6(1<<20|n&0xff)
		}
		octets := 60 + int(n*7919%1400)
		proto, l4 := uint8(6), tcp(uint16(1024+n%60000), 443, 0x10)
		if n%8 == 5 {
			head := 20
			if src.Is6() {
				head = 40
			}
			proto, l4 = 17, udp(uint16(1024+n%60000), 53, octets-head)
		}
		frame = frameOf(frame, src, dst, proto, l4, octets, snap)
		file = pcapPacket(file, start.UnixNano()+int64(span)*int64(i)/int64(packets), frame, octets+14)
	}
	return file
}
