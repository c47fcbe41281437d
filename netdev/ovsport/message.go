package ovsport

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// monitor asks for the interfaces and their changes, RFC 7047 section 4.1.5.
const monitor = `{"method":"monitor","params":["Open_vSwitch","ports",{"Interface":{"columns":["name","type","mac_in_use","mtu","link_state","external_ids"]}}],"id":"monitor"}`

// message is any JSON-RPC 1.0 message: a request, a notification or an answer.
type message struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	ID     json.RawMessage `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

// tables are the table-updates of RFC 7047 section 4.1.6.
type tables struct {
	Interface map[string]struct { // by the row's UUID
		New *row `json:"new"` // absent: the row is gone. All columns asked for, though one alone has changed
	} `json:"Interface"`
}

type row struct {
	Name        string          `json:"name"`
	Type        string          `json:"type"`
	MAC         json.RawMessage `json:"mac_in_use"` // string, or an empty set
	MTU         json.RawMessage `json:"mtu"`        // number, or an empty set
	Link        json.RawMessage `json:"link_state"` // string, or an empty set
	ExternalIDs ids             `json:"external_ids"`
}

// kernelTypes are the types of interfaces that a kernel device of their name stands for; patches are no ports at all, but joints between bridges
// (ovs-vswitchd.conf.db(5), table Interface).
var kernelTypes = []string{"", "system", "internal", "tap", "afxdp", "afxdp-nonpmd", "patch"}

// port is what a row says; ok is false if it is of no interest. Columns of another kind are left out: nothing is said of them.
func (r *row) port() (p Port, ok bool) {
	p = Port{Name: r.Name, IfaceID: r.ExternalIDs["iface-id"]}
	if len(p.IfaceID) > maxIfaceID {
		p.IfaceID = ""
	}
	if !slices.Contains(kernelTypes, r.Type) && len(r.Name) <= maxName {
		p.Type = r.Type
		var link string
		_, _, _ = json.Unmarshal(r.MAC, &p.MAC), json.Unmarshal(r.MTU, &p.MTU), json.Unmarshal(r.Link, &link)
		p.Up = link == "up"
	}
	return p, p.Name != "" && (p.IfaceID != "" || p.Type != "")
}

// ids is a map of RFC 7047 section 5.1: ["map", [[key, value], …]].
type ids map[string]string

// UnmarshalJSON implements json.Unmarshaler.
func (m *ids) UnmarshalJSON(b []byte) error {
	var outer []json.RawMessage
	if err := json.Unmarshal(b, &outer); err != nil {
		return err
	}
	var kind string
	if len(outer) != 2 || json.Unmarshal(outer[0], &kind) != nil || kind != "map" {
		return errors.New("it is not a map")
	}
	var pairs [][2]string
	if err := json.Unmarshal(outer[1], &pairs); err != nil {
		return err
	}
	*m = make(ids, len(pairs))
	for _, p := range pairs {
		(*m)[p[0]] = p[1]
	}
	return nil
}

// state is what the server has told.
type state struct {
	rows map[string]Port // by UUID
}

func newState() *state { return &state{rows: make(map[string]Port)} }

// Bounds of what is taken over, octets; Neutron's ids have 36, and names of devices 15.
const (
	maxIfaceID = 255
	maxName    = 64
)

// take takes over one message. answer is to be sent back; changed says that ids may be others now.
func (s *state) take(m *message) (answer []byte, changed bool, err error) {
	switch {
	case m.Method == "echo": // RFC 7047 section 4.1.11
		if len(m.Params) == 0 {
			m.Params = json.RawMessage("[]")
		}
		answer, err = json.Marshal(map[string]any{"result": m.Params, "error": nil, "id": m.ID})
		return answer, false, err
	case m.Method == "update":
		var params []json.RawMessage
		if err := json.Unmarshal(m.Params, &params); err != nil || len(params) != 2 {
			return nil, false, errors.New("an update without two parameters")
		}
		return nil, true, s.update(params[1])
	case m.Method == "" && bytes.Equal(m.ID, []byte(`"monitor"`)):
		if len(m.Error) > 0 && !bytes.Equal(m.Error, []byte("null")) {
			return nil, false, fmt.Errorf("the database server refuses: %.200s", m.Error)
		}
		clear(s.rows)
		return nil, true, s.update(m.Result)
	}
	return nil, false, nil // of no interest
}

func (s *state) update(b json.RawMessage) error {
	var t tables
	if err := json.Unmarshal(b, &t); err != nil {
		return fmt.Errorf("an update of interfaces: %w", err)
	}
	for uuid, r := range t.Interface {
		delete(s.rows, uuid)
		if r.New == nil {
			continue
		}
		if p, ok := r.New.port(); ok {
			s.rows[uuid] = p
		}
	}
	return nil
}

// ports are those ports, in the order of their names.
func (s *state) ports() []Port {
	return slices.SortedFunc(maps.Values(s.rows), func(a, b Port) int { return cmp.Compare(a.Name, b.Name) })
}
