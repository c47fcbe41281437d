package pcap

// batchBuffer is enough for a thousand packets, and little enough to stay in the caches of a core.
const batchBuffer = 128 << 10

// NextBatch reads on into buf and calls fn for each packet that is then there, whole: at least one, unless it returns an
// error, which is what Next would return. It returns the buffer that the packets' Data lie in, which is buf, or a new one
// if buf is too small (nil is): they stay valid until the caller uses that again. The *Packet is lent to fn. Next and
// NextBatch may be mixed.
func (d *Reader) NextBatch(buf []byte, fn func(*Packet)) ([]byte, error) {
	if d.err != nil {
		return buf, d.err
	}
	if n := max(batchBuffer, d.end-d.at); len(buf) < n {
		buf = make([]byte, n)
	}
	own := d.buf
	d.move(buf)
	given := false
	for d.err == nil && (!given || d.whole()) {
		ok := true
		if d.ng {
			ok, d.err = d.nextBlock(&d.batch)
		} else {
			d.err = d.nextRecord(&d.batch)
		}
		if ok && d.err == nil {
			given = true
			fn(&d.batch)
		}
	}
	buf = d.buf
	if left := d.end - d.at; left > len(own) {
		own = make([]byte, left)
	}
	d.move(own)
	if given {
		return buf, nil // an error can wait for the next call
	}
	return buf, d.err
}

// move puts what is unread into another buffer.
func (d *Reader) move(to []byte) {
	d.end = copy(to, d.buf[d.at:d.end])
	d.base += int64(d.at)
	d.at, d.buf = 0, to
}

// whole says whether the next record or block is in the buffer, so that reading it moves nothing there.
func (d *Reader) whole() bool {
	b := d.buf[d.at:d.end]
	if d.ng { // a section may change the byte order of its own length
		return len(b) >= 8 && le.Uint32(b) != BlockSection && uint64(d.bo.Uint32(b[4:])) <= uint64(len(b))
	}
	if len(b) < classicRecord {
		return false
	}
	capLen := le.Uint32(b[8:])
	if d.big {
		capLen = d.bo.Uint32(b[8:])
	}
	return uint64(capLen)+classicRecord <= uint64(len(b))
}
