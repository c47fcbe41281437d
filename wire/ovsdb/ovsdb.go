// Package ovsdb writes and reads the transactions of the Open vSwitch Database protocol.
//
// The protocol is RFC 7047: JSON-RPC 1.0 over a stream. A Conn asks one thing at a time and answers the server's echoes in between.
//
// Runs in: agent
package ovsdb

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxAnswer bounds an answer, octets.
const maxAnswer = 64 << 20

// Conn speaks over a stream that somebody else opened and closes. It is used by one goroutine at a time.
type Conn struct {
	w    io.Writer
	in   *bounded
	dec  *json.Decoder
	next uint64
}

// NewConn makes a Conn of a stream.
func NewConn(rw io.ReadWriter) *Conn {
	in := &bounded{r: rw}
	return &Conn{w: rw, in: in, dec: json.NewDecoder(in)}
}

// bounded refuses answers that are too long.
type bounded struct {
	r    io.Reader
	left int
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("an answer is longer than %d octets", maxAnswer)
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// message is a JSON-RPC message of either side.
type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method,omitempty"`
	Params json.RawMessage `json:"params,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  json.RawMessage `json:"error,omitempty"`
}

// Operation is one step of a transaction, RFC 7047 section 5.2.
type Operation map[string]any

// Result is what came of a step.
type Result struct {
	Count   int    `json:"count"`
	UUID    UUID   `json:"uuid"`
	Rows    []Row  `json:"rows"`
	Error   string `json:"error"`
	Details string `json:"details"`
}

// Refusal is an error that the database gives for a transaction.
type Refusal struct {
	Step    int // of the transaction; -1 = of all of it
	Code    string
	Details string
}

// Error implements error.
func (r *Refusal) Error() string {
	return fmt.Sprintf("the database refuses step %d: %s: %s", r.Step, r.Code, r.Details)
}

// Transact has all steps done, or none. There is a result for each.
func (c *Conn) Transact(database string, steps ...Operation) ([]Result, error) {
	params := make([]any, 0, len(steps)+1)
	params = append(params, database)
	for _, s := range steps {
		params = append(params, s)
	}
	var results []*Result
	if err := c.Call("transact", params, &results); err != nil {
		return nil, err
	}
	out := make([]Result, 0, len(steps))
	for i, r := range results {
		if r == nil {
			continue // not reached, as a step before was refused
		}
		if r.Error != "" {
			if i >= len(steps) {
				i = -1
			}
			return nil, &Refusal{Step: i, Code: r.Error, Details: r.Details}
		}
		out = append(out, *r)
	}
	if len(out) < len(steps) {
		return nil, fmt.Errorf("%d results of %d steps", len(out), len(steps))
	}
	return out, nil
}

// Call sends a request and reads until its answer, which it puts into result. Open vSwitch's daemons take commands in this way
// at their control sockets (ovs-appctl(8)).
func (c *Conn) Call(method string, params, result any) error {
	c.next++
	id := c.next
	b, err := json.Marshal(map[string]any{"id": id, "method": method, "params": params})
	if err != nil {
		return fmt.Errorf("write %s: %w", method, err)
	}
	if _, err := c.w.Write(b); err != nil {
		return fmt.Errorf("send %s: %w", method, err)
	}
	for {
		c.in.left = maxAnswer
		var m message
		if err := c.dec.Decode(&m); err != nil {
			return fmt.Errorf("read the answer to %s: %w", method, err)
		}
		if m.Method == "echo" { // RFC 7047 section 4.1.11
			b, err := json.Marshal(map[string]any{"id": m.ID, "result": m.Params, "error": nil})
			if err != nil {
				return err
			}
			if _, err := c.w.Write(b); err != nil {
				return fmt.Errorf("answer an echo: %w", err)
			}
			continue
		}
		if m.Method != "" || string(m.ID) != fmt.Sprint(id) {
			continue // not asked for
		}
		if len(m.Error) > 0 && string(m.Error) != "null" {
			return fmt.Errorf("%s is refused: %.300s", method, m.Error)
		}
		if err := json.Unmarshal(m.Result, result); err != nil {
			return fmt.Errorf("read the answer to %s: %w", method, err)
		}
		return nil
	}
}

// UUID names a row. RFC 7047 section 5.1.
type UUID string

// MarshalJSON implements json.Marshaler.
func (u UUID) MarshalJSON() ([]byte, error) { return json.Marshal([2]string{"uuid", string(u)}) }

// UnmarshalJSON implements json.Unmarshaler.
func (u *UUID) UnmarshalJSON(b []byte) error {
	var pair [2]string
	if err := json.Unmarshal(b, &pair); err != nil {
		return err
	}
	if pair[0] != "uuid" {
		return fmt.Errorf("%q is no UUID", pair[0])
	}
	*u = UUID(pair[1])
	return nil
}

// Named names a row that the same transaction makes.
type Named string

// MarshalJSON implements json.Marshaler.
func (n Named) MarshalJSON() ([]byte, error) { return json.Marshal([2]string{"named-uuid", string(n)}) }

// Set writes a set.
func Set[T any](v ...T) any {
	if v == nil {
		v = []T{}
	}
	return []any{"set", v}
}

// Map writes a map.
func Map(m map[string]string) any {
	pairs := make([][2]string, 0, len(m))
	for k, v := range m {
		pairs = append(pairs, [2]string{k, v})
	}
	return []any{"map", pairs}
}

// Row is a row of an answer, by column.
type Row map[string]json.RawMessage

// errNot says that a value is of another kind.
var errNot = errors.New("the value is of another kind")

// String reads a column that holds a string; "" if it holds none.
func (r Row) String(column string) string {
	var s string
	if json.Unmarshal(r[column], &s) != nil {
		return ""
	}
	return s
}

// Int reads a column that holds an integer.
func (r Row) Int(column string) (n int64, ok bool) {
	return n, json.Unmarshal(r[column], &n) == nil && len(r[column]) > 0
}

// UUIDs reads a column that holds one UUID or a set of them.
func (r Row) UUIDs(column string) []UUID {
	var one UUID
	if json.Unmarshal(r[column], &one) == nil {
		return []UUID{one}
	}
	var set struct{ of []UUID }
	raw, err := tagged(r[column], "set")
	if err != nil || json.Unmarshal(raw, &set.of) != nil {
		return nil
	}
	return set.of
}

// Map reads a column that holds a map. Numbers are as they were written.
func (r Row) Map(column string) map[string]string {
	raw, err := tagged(r[column], "map")
	var pairs [][2]json.RawMessage
	if err != nil || json.Unmarshal(raw, &pairs) != nil {
		return nil
	}
	out := make(map[string]string, len(pairs))
	for _, p := range pairs {
		var k, v string
		if json.Unmarshal(p[0], &k) != nil {
			continue
		}
		if json.Unmarshal(p[1], &v) != nil {
			v = string(p[1])
		}
		out[k] = v
	}
	return out
}

// tagged reads ["set", …] and ["map", …].
func tagged(b json.RawMessage, tag string) (json.RawMessage, error) {
	var pair []json.RawMessage
	if err := json.Unmarshal(b, &pair); err != nil {
		return nil, err
	}
	var t string
	if len(pair) != 2 || json.Unmarshal(pair[0], &t) != nil || t != tag {
		return nil, errNot
	}
	return pair[1], nil
}
