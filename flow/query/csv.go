package query

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"opentap/flow"
	"opentap/packet"
)

// maxLine bounds a line of CSV.
const maxLine = 64 << 10

// ReadCSV gives the records of a CSV as flow/csvout writes it to fn; the record is lent. Columns are found by their names,
// others are ignored. Counts in such a file are multiplied already: Sampling is 1.
func ReadCSV(r io.Reader, fn func(*flow.Record) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	var set []func(c *cells, v []byte) // nil where a column is not ours
	need := map[string]bool{"first": true, "last": true, "src_addr": true, "dst_addr": true, "protocol_number": true, "packets": true, "octets": true}
	line := 0
	var c cells
	ends := endReasons()
	for s.Scan() {
		line++
		if set == nil {
			for name := range strings.SplitSeq(s.Text(), ",") {
				set = append(set, columns[name])
				delete(need, name)
			}
			for name := range need {
				return fmt.Errorf("line 1: no column %s: this is no CSV of flow records (opentap writes one with -o csv)", name)
			}
			continue
		}
		c.r, c.err = flow.Record{PortsUnknown: false}, nil
		c.ends = ends
		rest := s.Bytes()
		for i, f := range set {
			v, after, more := bytes.Cut(rest, []byte{','})
			if f != nil && len(v) > 0 {
				f(&c, v)
			}
			if rest = after; more != (i < len(set)-1) {
				return fmt.Errorf("line %d: not %d cells", line, len(set))
			}
		}
		if c.err == nil && c.r.Last < c.r.First {
			c.err = errors.New("it ends before it begins")
		}
		if c.err != nil {
			return fmt.Errorf("line %d: %w", line, c.err)
		}
		if err := fn(&c.r); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("line %d: %w", line+1, err)
	}
	if set == nil {
		return errors.New("it is empty: not even a header")
	}
	return nil
}

// cells fills a record.
type cells struct {
	r    flow.Record
	err  error
	ends map[string]flow.EndReason
}

func (c *cells) number(v []byte, bits int) uint64 {
	n, err := strconv.ParseUint(string(v), 10, bits)
	if err != nil {
		c.fail(err)
	}
	return n
}

func (c *cells) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *cells) time(v []byte) packet.Timestamp {
	t, err := time.Parse(time.RFC3339Nano, string(v))
	if err != nil {
		c.fail(err)
	}
	return packet.TimestampOf(t)
}

func (c *cells) addr(v []byte) [16]byte {
	a, err := netip.ParseAddr(string(v))
	if err != nil {
		c.fail(err)
	}
	c.r.Version = 6
	if a.Is4() {
		c.r.Version = 4
	}
	return a.As16()
}

func (c *cells) mac(v []byte) (m packet.MAC) {
	for i := range m {
		if len(v) != 17 || i > 0 && v[3*i-1] != ':' {
			c.fail(fmt.Errorf("%q is not a MAC address", v))
			return m
		}
		n, err := strconv.ParseUint(string(v[3*i:3*i+2]), 16, 8)
		if err != nil {
			c.fail(err)
		}
		m[i] = byte(n)
	}
	return m
}

// columns are what the names of a header mean.
var columns = map[string]func(c *cells, v []byte){
	"first":           func(c *cells, v []byte) { c.r.First = c.time(v) },
	"last":            func(c *cells, v []byte) { c.r.Last = c.time(v) },
	"src_addr":        func(c *cells, v []byte) { c.r.Src = c.addr(v) },
	"dst_addr":        func(c *cells, v []byte) { c.r.Dst = c.addr(v) },
	"src_port":        func(c *cells, v []byte) { c.r.SrcPort = uint16(c.number(v, 16)) },
	"dst_port":        func(c *cells, v []byte) { c.r.DstPort = uint16(c.number(v, 16)) },
	"protocol_number": func(c *cells, v []byte) { c.r.Proto = uint8(c.number(v, 8)) },
	"icmp_type":       func(c *cells, v []byte) { c.r.ICMPType = uint8(c.number(v, 8)) },
	"icmp_code":       func(c *cells, v []byte) { c.r.ICMPCode = uint8(c.number(v, 8)) },
	"tos":             func(c *cells, v []byte) { c.r.TOS = uint8(c.number(v, 8)) },
	"packets":         func(c *cells, v []byte) { c.r.Packets = c.number(v, 64) },
	"octets":          func(c *cells, v []byte) { c.r.Octets = c.number(v, 64) },
	"rev_packets":     func(c *cells, v []byte) { c.r.RevPackets = c.number(v, 64) },
	"rev_octets":      func(c *cells, v []byte) { c.r.RevOctets = c.number(v, 64) },
	"rev_tos":         func(c *cells, v []byte) { c.r.RevTOS = uint8(c.number(v, 8)) },
	"fragments":       func(c *cells, v []byte) { c.r.Fragments = c.number(v, 64) },
	"ports_known":     func(c *cells, v []byte) { c.r.PortsUnknown = string(v) == "false" },
	"vlan":            func(c *cells, v []byte) { c.r.VLAN = uint16(c.number(v, 16)) },
	"inner_vlan":      func(c *cells, v []byte) { c.r.InnerVLAN = uint16(c.number(v, 16)) },
	"src_mac":         func(c *cells, v []byte) { c.r.SrcMAC = c.mac(v) },
	"dst_mac":         func(c *cells, v []byte) { c.r.DstMAC = c.mac(v) },
	"end_reason": func(c *cells, v []byte) {
		if e, ok := c.ends[string(v)]; ok {
			c.r.EndReason = e
			return
		}
		c.fail(fmt.Errorf("%q is no end reason", v))
	},
}

func endReasons() map[string]flow.EndReason {
	m := make(map[string]flow.EndReason)
	for e := range flow.EndUnsaid + 1 {
		m[e.String()] = e
	}
	return m
}
