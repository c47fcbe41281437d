package ring

import (
	"encoding/binary"

	"opentap/packet"
)

// Layout of a TPACKET_V3 block, linux include/uapi/linux/if_packet.h: struct tpacket_block_desc with struct
// tpacket_hdr_v1, then per frame struct tpacket3_hdr, struct sockaddr_ll, room, frame. Integers in host order.
const (
	blockStatus = 8  // u32: TP_STATUS_USER = ours
	blockCount  = 12 // u32: frames
	blockFirst  = 16 // u32: offset of the first frame header
	blockUsed   = 20 // u32: bytes in use
	blockHeader = 48

	frameNext    = 0  // u32: offset of the next frame header from this one
	frameSec     = 4  // u32
	frameNsec    = 8  // u32
	frameSnap    = 12 // u32: octets captured
	frameLen     = 16 // u32: octets of the frame
	frameStatus  = 20 // u32
	frameMAC     = 24 // u16: offset of the frame from this header
	frameTCI     = 32 // u32
	frameTPID    = 36 // u16
	framePktType = 58 // u8: sll_pkttype of the sockaddr_ll at 48
	frameHeader  = 68 // tpacket3_hdr and sockaddr_ll

	statusVLAN     = 1 << 4 // TP_STATUS_VLAN_VALID
	statusVLANTPID = 1 << 6 // TP_STATUS_VLAN_TPID_VALID

	packetOutgoing = 4 // PACKET_OUTGOING, linux include/uapi/linux/if_packet.h

	tagSize = 4
	touch   = 8192 // bytes read ahead in one go, one word of each cache line
	line    = 64
)

// Block is a borrowed run of frames in arrival order. It is valid until the callback it was given to returns, and
// belongs to that one goroutine.
type Block struct {
	mem      []byte
	off      uint32 // of the next frame header
	left     uint32 // frames not yet returned
	count    uint32
	used     uint32 // bytes in use
	touched  uint32 // bytes that are on their way to the cache
	snap     uint32 // octets kept of each frame
	ethernet bool
	sink     byte
}

// reset takes the block in mem. What the header says is checked against len(mem) on the way.
func (b *Block) reset(mem []byte) {
	b.mem = mem
	b.count = binary.NativeEndian.Uint32(mem[blockCount:])
	b.used = min(binary.NativeEndian.Uint32(mem[blockUsed:]), uint32(len(mem)))
	b.Rewind()
}

// Len returns the number of frames in the block.
func (b *Block) Len() int { return int(b.count) }

// Octets returns the ring memory the frames occupy, headers included.
func (b *Block) Octets() int { return int(b.used) }

// Rewind makes Next begin with the first frame again.
func (b *Block) Rewind() {
	b.left = b.count
	b.off = binary.NativeEndian.Uint32(b.mem[blockFirst:])
	b.touched = b.off
}

// Next fills f with the next frame, and reports whether there was one. f.Data is borrowed from the block; its bytes
// may be changed, its capacity is cut to its length.
func (b *Block) Next(f *Frame) bool {
	if b.left == 0 {
		return false
	}
	mem := b.mem
	if b.off >= b.touched {
		b.ahead()
	}
	if uint64(b.off)+frameHeader > uint64(len(mem)) {
		b.left = 0 // never from the kernel
		return false
	}
	h := mem[b.off:]
	_ = h[frameHeader-1]
	mac := uint32(binary.NativeEndian.Uint16(h[frameMAC:]))
	snap := binary.NativeEndian.Uint32(h[frameSnap:])
	if uint64(mac)+uint64(snap) > uint64(len(h)) {
		b.left = 0
		return false
	}
	if binary.NativeEndian.Uint32(h[frameStatus:])&statusVLAN != 0 && b.ethernet {
		mac, snap = restoreTag(h, mac, snap)
	}
	if b.snap != 0 && snap > b.snap {
		snap = b.snap
	}
	f.Time = packet.Timestamp(int64(binary.NativeEndian.Uint32(h[frameSec:]))*1e9 + int64(binary.NativeEndian.Uint32(h[frameNsec:])))
	f.Data = h[mac : mac+snap : mac+snap]
	f.OrigLen = binary.NativeEndian.Uint32(h[frameLen:])
	f.Outgoing = h[framePktType] == packetOutgoing
	next := binary.NativeEndian.Uint32(h[frameNext:])
	if b.left--; next == 0 || next >= uint32(len(h)) { // 0 in the last frame
		b.left = 0
	}
	b.off += next
	return true
}

// ahead reads one byte of each cache line of the next stretch, so that the misses overlap instead of stalling the
// walk at every header.
func (b *Block) ahead() {
	from := b.off &^ (line - 1)
	to := min(from+touch, b.used)
	if from < to {
		s, sink := b.mem[from:to], byte(0)
		for i := 0; i < len(s); i += line {
			sink += s[i]
		}
		b.sink += sink
	}
	b.touched = from + touch
}

// restoreTag puts the VLAN tag that the kernel took out of the frame (net/core/skbuff.c, skb_vlan_untag) back behind
// the addresses, in the room that PACKET_RESERVE left before the frame, and mends the header so that a second walk
// finds the frame whole. It returns the frame's new offset and captured length.
func restoreTag(h []byte, mac, snap uint32) (uint32, uint32) {
	status := binary.NativeEndian.Uint32(h[frameStatus:])
	if mac < frameHeader+tagSize {
		return mac, snap // no room: never with our PACKET_RESERVE
	}
	tpid := uint16(0x8100) // ETH_P_8021Q
	if status&statusVLANTPID != 0 {
		tpid = binary.NativeEndian.Uint16(h[frameTPID:])
	}
	if snap >= 12 { // both addresses were captured; else the tag lies behind the snap length
		d := h[mac-tagSize : mac+12]
		a0, a1 := binary.NativeEndian.Uint64(d[4:]), binary.NativeEndian.Uint32(d[12:])
		binary.NativeEndian.PutUint64(d, a0)
		binary.NativeEndian.PutUint32(d[8:], a1)
		binary.BigEndian.PutUint16(d[12:], tpid)
		binary.BigEndian.PutUint16(d[14:], uint16(binary.NativeEndian.Uint32(h[frameTCI:])))
		mac -= tagSize
		snap += tagSize
	}
	binary.NativeEndian.PutUint16(h[frameMAC:], uint16(mac))
	binary.NativeEndian.PutUint32(h[frameSnap:], snap)
	binary.NativeEndian.PutUint32(h[frameLen:], binary.NativeEndian.Uint32(h[frameLen:])+tagSize)
	binary.NativeEndian.PutUint32(h[frameStatus:], status&^(statusVLAN|statusVLANTPID))
	return mac, snap
}
