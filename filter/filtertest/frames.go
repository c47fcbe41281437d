package filtertest

import (
	"encoding/binary"
	"math/rand/v2"
)

// The generator draws from small sets of addresses and ports, so that conditions that name one of them often hold.
var (
	genIP4  = []uint32{0x0a000001, 0x0a000002, 0x0a010203, 0xc0a80105, 0xe0000001, 0xffffffff, 0x01020304, 0x7f000001, 0}
	genIP6  = []string{"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01", "\xfe\x80\x00\x00\x00\x00\x00\x00\x02\x00\x00\xff\xfe\x00\x00\x01", "\xff\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01", "\x20\x01\x0d\xb8\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02"}
	genPort = []uint16{80, 443, 53, 22, 5060, 6000, 0, 65535, 1024}
	genMAC  = []string{"\x02\x00\x00\x00\x00\x01", "\x02\x00\x00\x00\x00\x02", "\xff\xff\xff\xff\xff\xff", "\x01\x00\x5e\x00\x00\x01", "\x00\x01\x02\x03\x04\x05"}
	genVID  = []uint16{1, 100, 200, 300, 4095, 0}
)

func pick[T any](r *rand.Rand, s []T) T { return s[r.IntN(len(s))] }

// Frame makes a frame: Ethernet with 0 to 3 tags, or raw IP; sometimes cut short or damaged.
func Frame(r *rand.Rand, raw bool) []byte {
	var b []byte
	etherType, payload := genPayload(r, raw)
	if !raw {
		b = append(append(b, pick(r, genMAC)...), pick(r, genMAC)...)
		for range []int{0, 0, 0, 0, 1, 1, 1, 2, 2, 3}[r.IntN(10)] {
			b = binary.BigEndian.AppendUint16(b, []uint16{0x8100, 0x8100, 0x88a8, 0x9100}[r.IntN(4)])
			b = binary.BigEndian.AppendUint16(b, pick(r, genVID)|uint16(r.IntN(16))<<12)
		}
		b = binary.BigEndian.AppendUint16(b, etherType)
	}
	b = append(b, payload...)
	switch r.IntN(12) {
	case 0:
		b = b[:r.IntN(len(b)+1)]
	case 1:
		if len(b) > 0 {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
	case 2:
		b = append(b, make([]byte, r.IntN(60))...)
	}
	return b
}

// genPayload makes what follows the EtherType, and the EtherType.
func genPayload(r *rand.Rand, raw bool) (uint16, []byte) {
	kind := r.IntN(23)
	if raw {
		if kind < 20 {
			kind %= 12
		}
	}
	switch {
	case kind >= 20: // tunnels
		l4, proto := genTunnel(r, 0)
		if r.IntN(3) == 0 {
			return 0x86dd, ip6Around(r, proto, l4)
		}
		return 0x0800, ip4Around(r, proto, l4)
	case kind < 7:
		return 0x0800, genIPv4(r)
	case kind < 12:
		return 0x86dd, genIPv6(r)
	case kind < 14: // ARP, RARP
		b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
		b = append(b, pick(r, genMAC)...)
		b = binary.BigEndian.AppendUint32(b, pick(r, genIP4))
		b = append(b, pick(r, genMAC)...)
		b = binary.BigEndian.AppendUint32(b, pick(r, genIP4))
		return []uint16{0x0806, 0x8035}[r.IntN(2)], append(b, make([]byte, 18)...)
	case kind < 15: // LLC
		return uint16(r.IntN(1502)), append([]byte(pick(r, []string{"\xaa\xaa\x03\x00\x00\x00\x81\x37", "\xfe\xfe\x03", "\x42\x42\x03", "\xe0\xe0\x03", "\xff\xff\x00", "\xf0\xf0\x03", "\xaa\xaa\x03\x08\x00\x07\x80\x9b"})), make([]byte, 40)...)
	case kind < 17: // MPLS
		var b []byte
		for n := r.IntN(3); ; n-- {
			e := pick(r, []uint32{5, 6, 100})<<12 | 64
			if n <= 0 {
				e |= 0x100
			}
			b = binary.BigEndian.AppendUint32(b, e)
			if n <= 0 {
				break
			}
		}
		if r.IntN(2) == 0 {
			return 0x8847, append(b, genIPv4(r)...)
		}
		return 0x8847, append(b, genIPv6(r)...)
	case kind < 18: // PPPoE
		b := []byte{0x11, 0, 0, byte(r.IntN(4)), 0, 60}
		if r.IntN(2) == 0 {
			return 0x8864, append(append(b, 0, 0x21), genIPv4(r)...)
		}
		return 0x8864, append(append(b, 0, 0x57), genIPv6(r)...)
	}
	b := make([]byte, r.IntN(60))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return pick(r, []uint16{0x8863, 0x6003, 0x809b, 0x80f3, 0x8137, 0x88cc, 0x0600, 0x6004, 0x9000}), b
}

func genIPv4(r *rand.Rand) []byte {
	proto := pick(r, []byte{6, 6, 6, 17, 17, 132, 1, 2, 50, 51, 103, 112, 4, 9})
	return ip4Around(r, proto, genTransport(r, proto))
}

func ip4Around(r *rand.Rand, proto byte, l4 []byte) []byte {
	opts := []int{0, 0, 0, 4, 12, 40}[r.IntN(6)]
	b := []byte{byte(0x45 + opts/4), byte(r.Uint32())}
	b = binary.BigEndian.AppendUint16(b, uint16(20+opts+len(l4)))
	b = binary.BigEndian.AppendUint16(b, uint16(r.Uint32()))
	b = binary.BigEndian.AppendUint16(b, []uint16{0, 0, 0, 0x4000, 0x2000, 0x00b9, 0x20b9}[r.IntN(7)])
	b = append(b, byte(r.IntN(8)), proto, 0, 0)
	b = binary.BigEndian.AppendUint32(b, pick(r, genIP4))
	b = binary.BigEndian.AppendUint32(b, pick(r, genIP4))
	return append(append(b, make([]byte, opts)...), l4...)
}

func genIPv6(r *rand.Rand) []byte {
	proto := pick(r, []byte{6, 6, 17, 17, 58, 132, 44, 44, 0, 50, 51, 103, 89})
	l4 := genTransport(r, proto)
	if proto == 44 {
		next := pick(r, []byte{6, 17, 58, 132})
		l4 = append([]byte{next, 0, 0, byte(r.IntN(2)), 1, 2, 3, 4}, genTransport(r, next)...)
	}
	return ip6Around(r, proto, l4)
}

func ip6Around(r *rand.Rand, proto byte, l4 []byte) []byte {
	b := []byte{0x60, byte(r.IntN(4)), 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(l4)))
	b = append(b, proto, byte(r.IntN(8)))
	return append(append(append(b, pick(r, genIP6)...), pick(r, genIP6)...), l4...)
}

func genTransport(r *rand.Rand, proto byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, pick(r, genPort))
	b = binary.BigEndian.AppendUint16(b, pick(r, genPort))
	switch proto {
	case 1, 58:
		b = []byte{pick(r, []byte{0, 8, 3, 128, 129, 135, 11}), byte(r.IntN(4)), 0, 0}
	case 6:
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, byte(r.Uint32()), 1, 0, 0, 0, 0, 0)
	case 17:
		b = append(b, 0, 30, 0, 0)
	}
	p := make([]byte, []int{0, 4, 20, 60}[r.IntN(4)])
	for i := range p {
		p[i] = byte(r.IntN(5))
	}
	return append(b, p...)
}

// genTunnel makes a transport header, a tunnel's header and its payload, and says the protocol.
func genTunnel(r *rand.Rand, depth int) (b []byte, proto byte) {
	udp := func(port uint16) []byte {
		b := binary.BigEndian.AppendUint16([]byte{0xc0, byte(r.Uint32())}, port)
		return append(b, 0, 60, 0, 0)
	}
	ether := func() []byte {
		if depth == 0 && r.IntN(3) == 0 {
			l4, proto := genTunnel(r, depth+1)
			return append(append([]byte(genMAC[0]), genMAC[1]...), append([]byte{8, 0}, ip4Around(r, proto, l4)...)...)
		}
		return Frame(r, false)
	}
	raw := func() []byte {
		if depth == 0 && r.IntN(4) == 0 {
			l4, proto := genTunnel(r, depth+1)
			return ip4Around(r, proto, l4)
		}
		return Frame(r, true)
	}
	vni := []byte{0, 0, byte(r.IntN(8)), 0}
	switch r.IntN(4) {
	case 0: // VXLAN
		b = append(udp([]uint16{4789, 8472}[r.IntN(2)]), []byte{8, 8, 8, 0}[r.IntN(4)], 0, 0, 0)
		return append(append(b, vni...), ether()...), 17
	case 1: // Geneve
		opts := []int{0, 0, 1, 2, 5}[r.IntN(5)]
		b = append(udp(6081), []byte{0, 0, 0, 0x40}[r.IntN(4)]|byte(opts), byte(r.Uint32()))
		typ := []uint16{0x6558, 0x6558, 0x0800, 0x86dd, 0x0806, 0x8847}[r.IntN(6)]
		b = append(binary.BigEndian.AppendUint16(b, typ), vni...)
		b = append(b, make([]byte, 4*opts)...)
		if typ == 0x6558 {
			return append(b, ether()...), 17
		}
		return append(b, raw()...), 17
	case 2: // GRE
		flags := []byte{0, 0, 0x20, 0x30, 0x80, 0xb0, 0x10, 0x40}[r.IntN(8)]
		typ := []uint16{0x6558, 0x6558, 0x0800, 0x86dd, 0x88be, 0x880b}[r.IntN(6)]
		b = binary.BigEndian.AppendUint16([]byte{flags, []byte{0, 0, 0, 1}[r.IntN(4)]}, typ)
		for _, f := range []byte{0x80, 0x20, 0x10} {
			if flags&f != 0 {
				b = append(b, 0, 0, 0, 7)
			}
		}
		switch {
		case typ == 0x88be && flags&0x10 != 0:
			b = append(b, 0x10, 0, 0, 1, 0, 0, 0, 0)
		case typ != 0x6558 && typ != 0x88be:
			return append(b, raw()...), 47
		}
		return append(b, ether()...), 47
	}
	flags := []byte{0, 0, 1, 2, 4, 4, 7}[r.IntN(7)] // GTP-U
	b = append(udp(2152), []byte{0x30, 0x30, 0x30, 0x20, 0x50}[r.IntN(5)]|flags, []byte{0xff, 0xff, 0xff, 1}[r.IntN(4)], 0, 60, 0, 0, 0, 9)
	if flags == 0 {
		return append(b, raw()...), 17
	}
	n := r.IntN(4)
	if flags&4 == 0 {
		n = 0
	}
	b = append(b, 0, 1, 0, []byte{0, 0x85}[min(n, 1)])
	for ; n > 0; n-- {
		words := []byte{1, 1, 1, 2, 0}[r.IntN(5)]
		b = append(b, words)
		if words > 0 {
			b = append(b, make([]byte, 4*int(words)-2)...)
			b = append(b, []byte{0, 0x85}[min(n-1, 1)])
		}
	}
	return append(b, raw()...), 17
}

// Frames makes n frames, the same for the same seed.
func Frames(seed uint64, n int, raw bool) [][]byte {
	r := rand.New(rand.NewPCG(seed, 1))
	f := make([][]byte, n)
	for i := range f {
		f[i] = Frame(r, raw)
	}
	return f
}
