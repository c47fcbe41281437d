package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"opentap/ledger"
	"opentap/pcap"
)

// tally copies a live stream and counts what is in it.
type tally struct {
	packets, octets uint64
	head            []byte // the section header and the interfaces, to read statistics with
	accounts        map[uint32]ledger.Account
}

// account adds up what the last statistics said.
func (t *tally) account() (sum ledger.Account) {
	for _, a := range t.accounts {
		sum.Add(&a)
	}
	return sum
}

// copy copies until the stream ends, and never leaves half a block behind. each is called after every write.
func (t *tally) copy(w io.Writer, r io.Reader, each func()) error {
	t.accounts = make(map[uint32]ledger.Account)
	buf := make([]byte, 0, 1<<20)
	for {
		n, rerr := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		whole := 0
		for b := buf; len(b) >= 12; b = buf[whole:] {
			size := binary.LittleEndian.Uint32(b[4:])
			if size < 12 || size%4 != 0 || size > 1<<20 {
				return fmt.Errorf("read the stream: a block of %d octets; is it OpenTap that answers there?", size)
			}
			if uint32(len(b)) < size {
				break
			}
			t.block(b[:size])
			whole += int(size)
		}
		if whole > 0 {
			if _, err := w.Write(buf[:whole]); err != nil {
				if readerGone(err) {
					return errReader
				}
				return fmt.Errorf("write the stream: %w", err)
			}
			each()
			buf = buf[:copy(buf, buf[whole:])]
		}
		switch {
		case rerr == io.EOF && len(buf) > 0:
			return io.ErrUnexpectedEOF
		case rerr == io.EOF:
			return nil
		case rerr != nil:
			return rerr
		}
	}
}

func (t *tally) block(b []byte) {
	switch binary.LittleEndian.Uint32(b) {
	case pcap.BlockPacket:
		if len(b) >= 32 {
			t.packets++
			t.octets += uint64(binary.LittleEndian.Uint32(b[20:]))
		}
	case pcap.BlockSection, pcap.BlockInterface:
		t.head = append(t.head, b...)
	case pcap.BlockStatistics:
		r, err := pcap.NewReader(io.MultiReader(bytes.NewReader(t.head), bytes.NewReader(b)))
		if err != nil {
			return
		}
		var p pcap.Packet
		for r.Next(&p) == nil { // there are none
		}
		for _, s := range r.Stats() {
			if a, ok := s.Account(); ok {
				t.accounts[uint32(s.Interface)] = a
			}
		}
	}
}
