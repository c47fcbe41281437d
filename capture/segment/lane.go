package segment

import (
	"hash/crc32"
	"sync"

	"opentap/capture/index"
	"opentap/packet"
	"opentap/pcap"
)

// MaxLanes bounds Config.Lanes.
const MaxLanes = 64

// Lane is a way into a Writer with an open chunk of its own, so that several goroutines append beside one another and share
// a lock once a chunk. The packets of a lane are kept in the order of the calls; those of different lanes are put in the order
// of time by who reads them. All methods may be called from any goroutine.
type Lane struct {
	w      *Writer
	number uint32

	mu      sync.Mutex
	open    *buffer        // being filled; nil = none
	opened  uint64         // buffers that were
	aged    uint64         // opened at the last tick
	scanner *index.Scanner // nil: no index
	refused uint64
}

// Append copies one packet into the recording. false means that it was not kept: the disk is late (no free buffer) or
// has failed (Err), or the Writer is closed; the caller counts it as ledger.Disk. data longer than pcap.MaxPacket or
// than fits in a chunk is cut, as by a snap length. It allocates nothing.
func (l *Lane) Append(ts packet.Timestamp, origLen uint32, data []byte, dir pcap.Direction) bool {
	l.mu.Lock()
	ok := l.append(ts, origLen, data, dir)
	l.mu.Unlock()
	return ok
}

// Batch is a Lane that is held for many appends in a row, which saves the lock of each.
type Batch Lane

// Begin holds the lane until End: for a block of packets at a time, since Flush, Stats and the disk wait.
func (l *Lane) Begin() *Batch {
	l.mu.Lock()
	return (*Batch)(l)
}

// Append is Lane.Append.
func (b *Batch) Append(ts packet.Timestamp, origLen uint32, data []byte, dir pcap.Direction) bool {
	return (*Lane)(b).append(ts, origLen, data, dir)
}

// End lets go of the lane.
func (b *Batch) End() { b.mu.Unlock() }

// Room is how many octets of packet blocks (pcap.PacketSize) can be appended now whatever the disk does, and the other lanes
// if they keep to their share. It grows when the disk is done with a buffer.
func (l *Lane) Room() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.w
	// The end of a chunk that the next packet does not fit in stays empty.
	each := w.cfg.ChunkBytes - chunkHeaderSize - pcap.PacketSize(pcap.MaxPacket, pcap.DirectionIn)
	if w.cfg.ChunkBytes < 2*pcap.MaxPacket {
		each = w.cfg.ChunkBytes / 2
	}
	w.mu.Lock()
	room := len(w.free) / len(w.lanes) * each
	w.mu.Unlock()
	if l.open != nil {
		room += max(each-len(l.open.b), 0)
	}
	return room
}

func (l *Lane) append(ts packet.Timestamp, origLen uint32, data []byte, dir pcap.Direction) bool {
	if limit := min(pcap.MaxPacket, l.w.cfg.ChunkBytes-chunkHeaderSize-64); len(data) > limit {
		data = data[:limit]
	}
	if l.w.failed.Load() {
		l.refused++
		return false
	}
	size := pcap.PacketSize(len(data), dir)
	c := l.open
	if c != nil && len(c.b)+size > cap(c.b)-minPad && len(c.b)+size != cap(c.b) {
		l.handOver()
		c = nil
	}
	if c == nil {
		if c = l.take(); c == nil {
			l.refused++
			return false
		}
	}
	at := len(c.b)
	c.b = pcap.AppendPacket(c.b, 0, ts, origLen, data, dir)
	h := &c.h
	h.Last = uint32(at)
	h.Octets += uint64(origLen)
	h.StoredOctets += uint64(len(data))
	if h.Packets == 0 {
		h.Earliest, h.Latest = ts, ts
	} else {
		h.Earliest, h.Latest = min(h.Earliest, ts), max(h.Latest, ts)
	}
	h.Packets++
	if at-c.summed >= crcWindow { // the last block may still be padded: never summed here
		c.crc = crc32.Update(c.crc, castagnoli, c.b[c.summed:at])
		c.summed = at
		c.marks = append(c.marks, index.Mark{Offset: uint32(at), CRC: c.crc})
		if l.scanner != nil {
			l.scanner.Next()
		}
	}
	if l.scanner != nil { // here, since the packet is in the nearest cache now and will not be again
		l.scanner.Frame(data)
	}
	return true
}

// take opens a free buffer, if there is one and appending is allowed.
func (l *Lane) take() *buffer {
	w := l.w
	w.mu.Lock()
	n := len(w.free)
	if n == 0 || w.closed {
		w.mu.Unlock()
		return nil
	}
	c := w.free[n-1]
	w.free = w.free[:n-1]
	w.least = min(w.least, n-1)
	w.mu.Unlock()
	c.b = c.b[:chunkHeaderSize]
	c.h = ChunkHeader{Header: chunkHeaderSize, Lane: l.number}
	c.crc, c.summed, c.finished = 0, chunkHeaderSize, false
	c.marks = append(c.marks[:0], index.Mark{Offset: chunkHeaderSize})
	if l.scanner != nil {
		l.scanner.Begin(&c.keys)
	}
	l.open = c
	l.opened++
	return c
}

// handOver gives the open buffer, which holds a packet, to the sink.
func (l *Lane) handOver() {
	c := l.open
	l.open = nil
	h := &c.h
	h.PacketOctets = uint32(len(c.b) - chunkHeaderSize)
	h.time = h.Latest
	w := l.w
	w.mu.Lock()
	h.Account, h.Before = w.account, w.packets
	w.packets += uint64(h.Packets)
	w.stats.Packets += uint64(h.Packets)
	w.stats.Octets += h.Octets
	w.stats.Stored += h.StoredOctets
	w.handed++
	w.full <- c // never waits; here, so that chunks are written in the order in which Before counts them
	w.mu.Unlock()
}

// flush hands over what is open.
func (l *Lane) flush() {
	l.mu.Lock()
	if l.open != nil {
		l.handOver()
	}
	l.mu.Unlock()
}

// tick hands over what was open at the last tick and still is.
func (l *Lane) tick() {
	l.mu.Lock()
	if l.open != nil && l.aged == l.opened {
		l.handOver()
	}
	l.aged = l.opened
	l.mu.Unlock()
}
