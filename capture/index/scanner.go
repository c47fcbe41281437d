package index

import "opentap/packet"

// Keys is what the packets of one chunk are looked up by, block for block. A Scanner fills it, a Builder copies it.
// The zero value is empty.
type Keys struct {
	room []Key // the first n are keys
	n    int
	ends []uint32 // of each block but the open one: where its keys end
}

// Reset empties k and keeps its memory.
func (k *Keys) Reset() { k.n, k.ends = 0, k.ends[:0] }

func (k *Keys) list() []Key { return k.room[:k.n] }

// Room for keys: at first, of which a slow recording needs no more; and what a frame can have at most, which is each of maxTags tags
// twice, maxExtensions+1 protocols and a handful besides.
const (
	firstKeys = 8 << 10
	frameKeys = 64
)

// reserve makes room for the keys of a frame.
func (k *Keys) reserve() {
	if len(k.room)-k.n < frameKeys {
		k.grow()
	}
}

func (k *Keys) grow() {
	room := make([]Key, max(firstKeys, 2*len(k.room)))
	copy(room, k.list())
	k.room = room
}

// Scanner finds the keys of frames, block for block. It remembers keys and flows that it has seen in the block, exactly,
// so that the packets of a flow cost a comparison. What it finds follows from the frames alone: the same ones give the same keys again.
// It is used by one goroutine. What it remembers is small, since the packets that are copied meanwhile want the nearest cache too.
type Scanner struct {
	out *Keys

	stamp    uint32 // of the block, 1 to lastStamp: what was seen in another does not count
	recent   [1 << recentBits]uint32
	flows4   [128]flow4
	flows6   [64]flow6
	servers4 [16]uint64 // ends whose keys have been added, as in flow4, of those with the lower port: they come again most
	servers6 [8]server6
	protos   [4]uint64
	lastType uint32 // 1<<16: none
	lastTag  uint32
	carried  uint8 // protocols with ports whose keys, and those of IPv4 or IPv6 below them, have been added
	raw      bool
}

// An entry of recent is all of a key but the bits that number the entry, and above them the stamp of the block.
const (
	recentBits = 10
	keyRest    = 32 - recentBits
	lastStamp  = 1<<recentBits - 1
)

// flow4 is the two ends of a flow over IPv4, lower one first: each address and port, 48 bits. Above them are the protocol, and the
// stamp of the block.
type flow4 struct{ low, high uint64 }

// flow6 is the same over IPv6, as the packet had it.
type flow6 struct {
	src, dst [2]uint64
	rest     uint64 // stamp, protocol, ports
}

// server6 is the end of a flow over IPv6.
type server6 struct {
	address [2]uint64
	rest    uint64 // stamp, port
}

// NewScanner makes a Scanner of frames of a link.
func NewScanner(link packet.LinkType) *Scanner {
	return &Scanner{raw: link == packet.LinkRaw}
}

// Begin starts a chunk, and its first block. out is filled until the next Begin.
func (s *Scanner) Begin(out *Keys) {
	out.Reset()
	s.out = out
	s.begin()
}

// Next ends the block and starts another one.
func (s *Scanner) Next() {
	s.out.ends = append(s.out.ends, uint32(s.out.n))
	s.begin()
}

func (s *Scanner) begin() {
	if s.stamp++; s.stamp > lastStamp { // what comes round again must not find what is so old
		s.stamp = 1
		clear(s.recent[:])
		clear(s.flows4[:])
		clear(s.flows6[:])
		clear(s.servers4[:])
		clear(s.servers6[:])
	}
	s.protos, s.lastType, s.lastTag, s.carried = [4]uint64{}, 1<<16, 1<<16, 0
}

// add notes that the block has a packet with the key. There must be room.
func (s *Scanner) add(k Key) {
	o := s.out
	o.room[o.n] = k // kept if it is new: what happens is hard to foretell, so nothing branches
	p := s.stamp<<keyRest | uint32(k)&(1<<keyRest-1)
	r := &s.recent[k>>keyRest]
	n := o.n
	if *r != p {
		n++
	}
	*r, o.n = p, n
}

// flow4 notes the keys of a packet with ports over IPv4, if it is not of a flow that the block has had, either way.
func (s *Scanner) flow4(src, dst uint32, ports uint32, proto uint8) {
	a, b := uint64(src)<<16|uint64(ports>>16), uint64(dst)<<16|uint64(ports&0xffff)
	low, high := min(a, b), max(a, b)
	f := &s.flows4[(low*0x9e3779b97f4a7c15+high*0xd6e8feb86659fd93)>>57]
	low |= uint64(proto) << 48
	high |= uint64(s.stamp) << 48
	if f.low == low && f.high == high {
		return
	}
	f.low, f.high = low, high
	s.out.reserve()
	if bit := uint8(1) << (proto & 3); s.carried&bit == 0 { // it differs for TCP, UDP and SCTP
		s.carried |= bit
		s.add(KeyType(0x0800))
		s.proto(proto)
	}
	if a&0xffff < b&0xffff {
		a, b = b, a
	}
	s.end(KeyIPv4(uint32(a>>16)), uint16(a))
	r := &s.servers4[b*0x9e3779b97f4a7c15>>60] // of the end alone: what is noted must not depend on how many blocks came before
	if b |= uint64(s.stamp) << 48; *r != b {
		*r = b
		s.end(KeyIPv4(uint32(b>>16)), uint16(b))
	}
}

// flow6 is flow4 for the 32 octets of the addresses.
func (s *Scanner) flow6(h []byte, ports uint32, proto uint8) {
	_ = h[31]
	src0, src1, dst0, dst1 := be.Uint64(h), be.Uint64(h[8:]), be.Uint64(h[16:]), be.Uint64(h[24:])
	rest := uint64(s.stamp)<<40 | uint64(proto)<<32
	f := &s.flows6[(((src0^dst0)+(src1+dst1)*0xd6e8feb86659fd93)*0x9e3779b97f4a7c15+uint64(ports>>16+ports&0xffff)*0xe7037ed1a0b428db)>>58]
	if f.src[1] == src1 && f.dst[1] == dst1 && f.src[0] == src0 && f.dst[0] == dst0 && f.rest == rest|uint64(ports) ||
		f.src[1] == dst1 && f.dst[1] == src1 && f.src[0] == dst0 && f.dst[0] == src0 && f.rest == rest|uint64(ports<<16|ports>>16) {
		return
	}
	f.src[0], f.src[1], f.dst[0], f.dst[1], f.rest = src0, src1, dst0, dst1, rest|uint64(ports)
	s.out.reserve()
	if bit := uint8(16) << (proto & 3); s.carried&bit == 0 {
		s.carried |= bit
		s.add(KeyType(0x86dd))
		s.proto(proto)
	}
	if ports>>16 < ports&0xffff {
		src0, src1, dst0, dst1, ports = dst0, dst1, src0, src1, ports<<16|ports>>16
	}
	s.end(key6(src0, src1), uint16(ports>>16))
	rest = uint64(s.stamp)<<16 | uint64(ports&0xffff)
	r := &s.servers6[(dst0+dst1*0xd6e8feb86659fd93+uint64(ports&0xffff))*0x9e3779b97f4a7c15>>61]
	if r.address[0] != dst0 || r.address[1] != dst1 || r.rest != rest {
		r.address[0], r.address[1], r.rest = dst0, dst1, rest
		s.end(key6(dst0, dst1), uint16(ports))
	}
}

// end notes the keys of one end of a flow. What is new is hard to foretell, so nothing branches.
func (s *Scanner) end(address Key, port uint16) {
	o, stamp := s.out, s.stamp<<keyRest
	room, n := o.room[o.n:][:2], 0
	const rest = 1<<keyRest - 1

	room[0] = address
	r, p := &s.recent[address>>keyRest], stamp|uint32(address)&rest
	if *r != p {
		n = 1
	}
	*r = p

	k := KeyPort(port)
	room[n&1] = k
	r, p = &s.recent[k>>keyRest], stamp|uint32(k)&rest
	m := n + 1
	if *r != p {
		n = m
	}
	*r = p
	o.n += n
}
