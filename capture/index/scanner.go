package index

import (
	"math/bits"

	"opentap/packet"
)

// Keys is what the packets of one chunk are looked up by, block for block. A Scanner fills it, a Builder copies it.
// The zero value is empty.
type Keys struct {
	keys []Key
	ends []uint32 // of each block but the open one: where its keys end
}

// Reset empties k and keeps its memory.
func (k *Keys) Reset() { k.keys, k.ends = k.keys[:0], k.ends[:0] }

// Scanner finds the keys of frames, block for block. It remembers keys and flows that it has seen in the block, exactly,
// so that the packets of a flow cost a comparison. What it finds follows from the frames alone: the same ones give the same keys again.
// It is used by one goroutine.
type Scanner struct {
	out *Keys

	block    uint32 // number of the block, of all; what was seen in another does not count
	recent   [1024]uint64
	flows4   [512]flow4
	flows6   [128]flow6
	protos   [4]uint64
	lastType uint32 // 1<<16: none
	lastTag  uint32
	raw      bool

	// Where hardly a packet is of a flow that the block has had, looking for its flow is lost time.
	flows, again uint32 // packets of the block whose flow was looked for, and found
	blind        uint32 // blocks, with this one, in which flows are not looked for
}

// flow4 is the two ends of a flow over IPv4, lower one first: each address and port, 48 bits. Above them are the protocol, and the
// low half of the block's number.
type flow4 struct{ low, high uint64 }

// flow6 is the same over IPv6, as the packet had it.
type flow6 struct {
	addresses [4]uint64
	ports     uint32
	block     uint32
	proto     uint8
}

// NewScanner makes a Scanner of frames of a link.
func NewScanner(link packet.LinkType) *Scanner {
	return &Scanner{raw: link == packet.LinkRaw}
}

// Begin starts a chunk, and its first block. out is filled until the next Begin.
func (s *Scanner) Begin(out *Keys) {
	out.Reset()
	s.out = out
	s.flows, s.again, s.blind = 0, 0, 0
	s.begin()
}

// Next ends the block and starts another one.
func (s *Scanner) Next() {
	s.out.ends = append(s.out.ends, uint32(len(s.out.keys)))
	if s.blind > 0 {
		s.blind--
	} else if s.flows >= enoughFlows && s.again < s.flows/8 {
		s.blind = blindFor
	}
	s.flows, s.again = 0, 0
	s.begin()
}

// A block is believed that has so many packets of flows, for so many blocks behind it.
const (
	enoughFlows = 16
	blindFor    = 15
)

func (s *Scanner) begin() {
	s.block++
	if s.block&0xffff == 0 { // what comes round again must not find what is 65536 blocks old
		clear(s.flows4[:])
		if s.block++; s.block == 1 {
			clear(s.recent[:])
			clear(s.flows6[:])
		}
	}
	s.protos, s.lastType, s.lastTag = [4]uint64{}, 1<<16, 1<<16
}

// add notes that the block has a packet with the key.
func (s *Scanner) add(k Key) {
	p := uint64(k)<<32 | uint64(s.block)
	if r := &s.recent[k>>22]; *r != p {
		*r = p
		s.out.keys = append(s.out.keys, k)
	}
}

// seen4 reports whether the block has had a packet between the two ends, either way, and remembers this one.
func (s *Scanner) seen4(src, dst uint32, ports uint32, proto uint8) bool {
	if s.blind > 0 {
		return false
	}
	s.flows++
	a, b := uint64(src)<<16|uint64(ports>>16), uint64(dst)<<16|uint64(ports&0xffff)
	now := flow4{min(a, b) | uint64(proto)<<48, max(a, b) | uint64(s.block)<<48}
	f := &s.flows4[(now.low*0x9e3779b97f4a7c15+max(a, b)*0xd6e8feb86659fd93)>>55]
	if *f == now {
		s.again++
		return true
	}
	*f = now
	return false
}

// seen6 is seen4 for the 32 octets of the addresses.
func (s *Scanner) seen6(h []byte, ports uint32, proto uint8) bool {
	if s.blind > 0 {
		return false
	}
	s.flows++
	_ = h[31]
	now := flow6{[4]uint64{be.Uint64(h), be.Uint64(h[8:]), be.Uint64(h[16:]), be.Uint64(h[24:])}, ports, s.block, proto}
	a := &now.addresses
	f := &s.flows6[(((a[0]^a[2])+(a[1]+a[3])*0xd6e8feb86659fd93)*0x9e3779b97f4a7c15+uint64(ports>>16+ports&0xffff)*0xe7037ed1a0b428db)>>57]
	if f.block == now.block && f.proto == proto {
		if o := &f.addresses; f.ports == ports && *o == *a ||
			f.ports == bits.RotateLeft32(ports, 16) && o[0] == a[2] && o[1] == a[3] && o[2] == a[0] && o[3] == a[1] {
			s.again++
			return true
		}
	}
	*f = now
	return false
}
