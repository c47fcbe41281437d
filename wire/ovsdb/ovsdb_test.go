package ovsdb

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
)

// stream is a server that has said all it will.
type stream struct {
	io.Reader
	sent bytes.Buffer
}

func (s *stream) Write(p []byte) (int, error) { return s.sent.Write(p) }

func TestTransact(t *testing.T) {
	s := &stream{Reader: strings.NewReader(`{"id":"echo","method":"echo","params":[]}{"id":7,"result":[]}{"id":1,"error":null,"result":[{"rows":[` +
		`{"name":"p0","_uuid":["uuid","a"],"ports":["set",[["uuid","b"],["uuid","c"]]],"statistics":["map",[["tx_packets",12],["x","y"]]]}]},{"uuid":["uuid","d"]}]}`)}
	got, err := NewConn(s).Transact("Open_vSwitch", Operation{"op": "select", "table": "Port"}, Operation{"op": "insert"})
	if err != nil || len(got) != 2 || got[1].UUID != "d" {
		t.Fatalf("%+v, %v", got, err)
	}
	r := got[0].Rows[0]
	if r.String("name") != "p0" || !slices.Equal(r.UUIDs("_uuid"), []UUID{"a"}) || !slices.Equal(r.UUIDs("ports"), []UUID{"b", "c"}) ||
		!maps.Equal(r.Map("statistics"), map[string]string{"tx_packets": "12", "x": "y"}) {
		t.Errorf("row %s", r)
	}
	if r.String("ports") != "" || r.Map("name") != nil || r.UUIDs("name") != nil {
		t.Error("values of other kinds are read")
	}
	if want := `{"id":1,"method":"transact","params":["Open_vSwitch",{"op":"select","table":"Port"},{"op":"insert"}]}{"error":null,"id":"echo","result":[]}`; s.sent.String() != want {
		t.Errorf("sent %s", s.sent.String())
	}
}

func TestRefusals(t *testing.T) {
	var r *Refusal
	_, err := NewConn(&stream{Reader: strings.NewReader(`{"id":1,"error":null,"result":[{},{"error":"constraint violation","details":"no"},null]}`)}).
		Transact("x", Operation{}, Operation{}, Operation{})
	if !errors.As(err, &r) || r.Step != 1 || r.Code != "constraint violation" {
		t.Errorf("%v", err)
	}
	for _, s := range []string{`{"id":1,"error":"unknown database","result":null}`, `{"id":1,"result":[]}`, `{"id":1,`, ``, `[]`} {
		if _, err := NewConn(&stream{Reader: strings.NewReader(s)}).Transact("x", Operation{}); err == nil {
			t.Errorf("%s is taken", s)
		}
	}
}

func TestValues(t *testing.T) {
	b, err := json.Marshal([]any{UUID("u"), Named("n"), Set[UUID](), Set(UUID("a")), Map(map[string]string{"k": "v"})})
	if want := `[["uuid","u"],["named-uuid","n"],["set",[]],["set",[["uuid","a"]]],["map",[["k","v"]]]]`; err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
}

// FuzzTransact: whatever a server says, nothing panics, and there are either results for all steps or an error.
func FuzzTransact(f *testing.F) {
	f.Add(`{"id":1,"error":null,"result":[{"rows":[{"a":["set",[]]}]}]}`)
	f.Add(`{"id":1,"error":null,"result":[null]}`)
	f.Add(`{"id":[],"method":"echo","params":{}}`)
	f.Fuzz(func(t *testing.T, s string) {
		got, err := NewConn(&stream{Reader: strings.NewReader(s)}).Transact("x", Operation{})
		if err == nil && len(got) < 1 {
			t.Fatal("neither results nor an error")
		}
		for _, r := range got {
			for _, row := range r.Rows {
				for c := range row {
					row.String(c)
					row.UUIDs(c)
					row.Map(c)
				}
			}
		}
	})
}
