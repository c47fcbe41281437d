package of13

import (
	"encoding/binary"
	"fmt"
)

// reader takes a message apart. After the first error it gives zeros; the error stays.
type reader struct {
	b    []byte
	at   int
	what string
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("decode %s: offset %d: %s", r.what, r.at, fmt.Sprintf(format, args...))
	}
}

func (r *reader) left() int { return len(r.b) - r.at }

// take returns the next n octets, which stay the buffer's.
func (r *reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > r.left() {
		r.fail("%d octets are wanted, %d are there", n, r.left())
		return nil
	}
	b := r.b[r.at : r.at+n : r.at+n]
	r.at += n
	return b
}

func (r *reader) skip(n int) { r.take(n) }

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// bytes returns a copy of the next n octets.
func (r *reader) bytes(n int) []byte {
	b := r.take(n)
	if len(b) == 0 {
		return nil
	}
	return append([]byte(nil), b...)
}

func (r *reader) rest() []byte { return r.bytes(r.left()) }

// text reads a field of n octets that ends at its first zero.
func (r *reader) text(n int) string {
	b := r.take(n)
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// part returns a reader of the next n octets alone.
func (r *reader) part(n int, what string) *reader {
	b := r.take(n)
	if r.err != nil {
		return &reader{what: what, err: r.err}
	}
	return &reader{b: r.b[:r.at], at: r.at - len(b), what: r.what + ": " + what}
}

// join takes over the error of a part.
func (r *reader) join(p *reader) {
	if r.err == nil {
		r.err = p.err
	}
}

func zeros(b []byte, n int) []byte {
	for range n {
		b = append(b, 0)
	}
	return b
}

// fixed appends s in a field of n octets, the last of which is always zero.
func fixed(b []byte, s string, n int) []byte {
	if len(s) > n-1 {
		s = s[:n-1]
	}
	return zeros(append(b, s...), n-len(s))
}

// padTo8 fills b, whose thing began at start, to a multiple of eight octets.
func padTo8(b []byte, start int) []byte {
	return zeros(b, (8-(len(b)-start)%8)%8)
}
