package segment

import (
	"fmt"
	"hash/crc32"

	"opentap/ledger"
	"opentap/pcap"
)

const (
	maxHead    = 65536
	headFields = 24 // offset of the head's option in the file
	headLanes  = 64 + accountSize
	headOption = headLanes + 4 // end of its fields
	headCRC    = 44
)

// head is what the first blocks of a segment say.
type head struct {
	length    int // octets; where the first chunk is
	recordID  uint64
	segment   uint32
	limit     int            // largest chunk
	lanes     int            // 0 = one, in which chunks are in the order of time
	account   ledger.Account // before the segment, without FilterUncounted
	Interface pcap.Interface
}

// appendHead appends the section header and interface description of a segment, padded to whole pages.
func appendHead(dst []byte, h *head, s pcap.Section) ([]byte, error) {
	at := len(dst)
	shb := pcap.AppendSectionHeader(nil, s)
	idb := pcap.AppendInterface(nil, h.Interface)
	opts := shb[headFields : len(shb)-4] // with their end, or empty
	if len(opts) == 0 {
		opts = make([]byte, 4)
	}
	used := headOption + len(opts) + 4 + len(idb)
	h.length = pageUp(used)
	if h.length > maxHead {
		return dst, fmt.Errorf("segment head: descriptions take %d octets, more than %d", used, maxHead)
	}
	pad := h.length - used
	b := append(dst, shb[:headFields]...)
	b = le.AppendUint32(b, customHead|uint32(headOption+pad-28)<<16)
	b = le.AppendUint32(b, pcap.PEN)
	b = le.AppendUint16(b, kindHead)
	b = le.AppendUint16(b, formatVersion)
	b = append(b, magicHead...)
	b = le.AppendUint32(b, uint32(h.length))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, h.recordID)
	b = le.AppendUint32(b, h.segment)
	b = le.AppendUint32(b, uint32(h.limit))
	b = append(b, make([]byte, headOption-64+pad)...)
	putAccount(b[at+64:], &h.account)
	if h.lanes > 1 {
		le.PutUint32(b[at+headLanes:], uint32(h.lanes))
	}
	b = append(b, opts...)
	size := uint32(len(b) - at + 4)
	b = le.AppendUint32(b, size)
	le.PutUint32(b[at+4:], size)
	b = append(b, idb...)
	le.PutUint32(b[at+headCRC:], crc32.Checksum(b[at:], castagnoli))
	return b, nil
}

// headLength returns how long the head that starts with b is, if b starts one.
func headLength(b []byte) (int, bool) {
	if len(b) < headLanes || le.Uint32(b) != pcap.BlockSection || le.Uint32(b[28:]) != pcap.PEN ||
		le.Uint16(b[32:]) != kindHead || string(b[36:40]) != magicHead {
		return 0, false
	}
	n := int(le.Uint32(b[40:]))
	return n, n >= Page && n <= maxHead && n%Page == 0
}

// parseHead reads a whole head. It returns what is wrong, or ""; foreign means that it is whole, and not for us.
func parseHead(b []byte, h *head) (msg string, foreign bool) {
	n, ok := headLength(b)
	if !ok {
		return "no segment head", false
	}
	if len(b) < n {
		return "file ends inside the segment head", false
	}
	b = b[:n]
	crc := crc32.Update(0, castagnoli, b[:headCRC])
	crc = crc32.Update(crc, castagnoli, zeroCRC[:])
	crc = crc32.Update(crc, castagnoli, b[headCRC+4:])
	if crc != le.Uint32(b[headCRC:]) {
		return "head checksum mismatch", false
	}
	if v := le.Uint16(b[34:]); v != formatVersion {
		return fmt.Sprintf("format version %d, this program reads %d", v, formatVersion), true
	}
	*h = head{length: n, recordID: le.Uint64(b[48:]), segment: le.Uint32(b[56:]), limit: int(le.Uint32(b[60:]))}
	getAccount(b[64:], &h.account)
	if 28+int(le.Uint16(b[26:])) >= headOption { // else it is from before there were lanes
		h.lanes = int(min(le.Uint32(b[headLanes:]), MaxLanes))
	}
	if h.limit < Page || h.limit > MaxChunkBytes || h.limit%Page != 0 {
		return "impossible chunk limit", true
	}
	return "", false
}

func pageUp(n int) int { return (n + Page - 1) &^ (Page - 1) }
