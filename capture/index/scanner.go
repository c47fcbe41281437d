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

// Room for keys: at first, about what a chunk of 4 MiB of short packets has; and what a frame can have at most, which is
// each of maxTags tags twice, maxExtensions+1 protocols and a handful besides.
const (
	firstKeys = 64 << 10
	frameKeys = 64
)

// reserve makes room for the keys of a frame.
func (k *Keys) reserve() {
	if len(k.room)-k.n < frameKeys {
		room := make([]Key, max(firstKeys, 2*len(k.room)))
		copy(room, k.list())
		k.room = room
	}
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
	protos   [4]uint64
	lastType uint32 // 1<<16: none
	lastTag  uint32
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
	}
	s.protos, s.lastType, s.lastTag = [4]uint64{}, 1<<16, 1<<16
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

// ends notes the keys of the two ends of a flow.
func (s *Scanner) ends(a, b, c, d Key) {
	o := s.out
	room, n := o.room[o.n:][:4], 0
	stamp := s.stamp << keyRest

	room[0] = a
	r, p := &s.recent[a>>keyRest], stamp|uint32(a)&(1<<keyRest-1)
	if *r != p {
		n = 1
	}
	*r = p

	room[n&3] = b
	r, p = &s.recent[b>>keyRest], stamp|uint32(b)&(1<<keyRest-1)
	m := n + 1
	if *r != p {
		n = m
	}
	*r = p

	room[n&3] = c
	r, p = &s.recent[c>>keyRest], stamp|uint32(c)&(1<<keyRest-1)
	m = n + 1
	if *r != p {
		n = m
	}
	*r = p

	room[n&3] = d
	r, p = &s.recent[d>>keyRest], stamp|uint32(d)&(1<<keyRest-1)
	m = n + 1
	if *r != p {
		n = m
	}
	*r = p
	o.n += n
}

// seen4 reports whether the block has had a packet between the two ends, either way, and remembers this one.
func (s *Scanner) seen4(src, dst uint32, ports uint32, proto uint8) bool {
	a, b := uint64(src)<<16|uint64(ports>>16), uint64(dst)<<16|uint64(ports&0xffff)
	low, high := min(a, b), max(a, b)
	f := &s.flows4[(low*0x9e3779b97f4a7c15+high*0xd6e8feb86659fd93)>>57]
	low |= uint64(proto) << 48
	high |= uint64(s.stamp) << 48
	if f.low == low && f.high == high {
		return true
	}
	f.low, f.high = low, high
	return false
}

// seen6 is seen4 for the 32 octets of the addresses.
func (s *Scanner) seen6(h []byte, ports uint32, proto uint8) bool {
	_ = h[31]
	src0, src1, dst0, dst1 := be.Uint64(h), be.Uint64(h[8:]), be.Uint64(h[16:]), be.Uint64(h[24:])
	rest := uint64(s.stamp)<<40 | uint64(proto)<<32
	f := &s.flows6[(((src0^dst0)+(src1+dst1)*0xd6e8feb86659fd93)*0x9e3779b97f4a7c15+uint64(ports>>16+ports&0xffff)*0xe7037ed1a0b428db)>>58]
	same := f.src[0] ^ src0 | f.src[1] ^ src1 | f.dst[0] ^ dst0 | f.dst[1] ^ dst1 | f.rest ^ (rest | uint64(ports))
	back := f.src[0] ^ dst0 | f.src[1] ^ dst1 | f.dst[0] ^ src0 | f.dst[1] ^ src1 | f.rest ^ (rest | uint64(ports<<16|ports>>16))
	if same == 0 || back == 0 {
		return true
	}
	f.src[0], f.src[1], f.dst[0], f.dst[1], f.rest = src0, src1, dst0, dst1, rest|uint64(ports)
	return false
}
