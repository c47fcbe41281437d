package pcap

import (
	"errors"
	"fmt"
	"io"
)

// need makes n octets from d.at on available; what is the thing they belong to.
func (d *Reader) need(n int, what string) error {
	for d.end-d.at < n {
		if err := d.fill(); err != nil {
			return d.cut(d.Offset(), what, err)
		}
	}
	return nil
}

// needOrEOF is need, but io.EOF when not even one octet is left.
func (d *Reader) needOrEOF(n int, what string) error {
	if d.end == d.at {
		if err := d.fill(); err != nil {
			if err == io.EOF {
				return io.EOF
			}
			return d.cut(d.Offset(), what, err)
		}
	}
	return d.need(n, what)
}

// fill reads once into the buffer, at least one octet. The buffer doubles only when it is full of octets that were
// really read, so that no claim of a file makes it grow.
func (d *Reader) fill() error {
	if d.readErr != nil {
		return d.readErr
	}
	if d.at > 0 && (d.at == d.end || len(d.buf)-d.end < startBuffer/2) {
		copy(d.buf, d.buf[d.at:d.end])
		d.base += int64(d.at)
		d.at, d.end = 0, d.end-d.at
	}
	if d.end == len(d.buf) {
		d.buf = append(d.buf, make([]byte, len(d.buf))...)
	}
	for range 100 {
		n, err := d.r.Read(d.buf[d.end:])
		d.end += n
		d.readErr = err
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	d.readErr = io.ErrNoProgress
	return d.readErr
}

// cut says that the file ended, or could not be read, inside something.
func (d *Reader) cut(at int64, what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &FormatError{Offset: at, Msg: "file ends inside " + what, Err: io.ErrUnexpectedEOF}
	}
	return fmt.Errorf("read capture file: offset %d: %w", at, err)
}

func (d *Reader) bad(format string, args ...any) error {
	return &FormatError{Offset: d.Offset(), Msg: fmt.Sprintf(format, args...)}
}
