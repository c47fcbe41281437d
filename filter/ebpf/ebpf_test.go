package ebpf

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/net/bpf"
)

func TestRefusals(t *testing.T) {
	ret := bpf.RawInstruction{Op: 6, K: 1}
	for _, p := range [][]bpf.RawInstruction{
		nil,
		{{Op: 0x20, K: 0xfffff02c}, ret},
		{{Op: 5, K: 7}, ret},
		{{Op: 0x15, Jt: 9}, ret},
		{{Op: 2, K: 16}, ret},
		{{Op: 0x34}, ret},
		{{Op: 0x64, K: 32}, ret},
		{{Op: 0x20}},
		{{Op: 0x38}, ret},
		{{Op: 0x1e}, {Op: 0x0e}},
	} {
		if _, err := Function("f", p, 256); err == nil {
			t.Errorf("%v is taken", p)
		}
	}
	for _, size := range []int{0, 63, 4097} {
		if _, err := Function("f", []bpf.RawInstruction{ret}, size); !errors.Is(err, ErrOctets) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	if _, err := Function("f", []bpf.RawInstruction{{Op: 0x20, K: 0xfffff02c}, ret}, 256); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("ancillary load: %v", err)
	}
}

// TestDeterministic: a program is described, not made; the same one is described the same.
func TestDeterministic(t *testing.T) {
	p := []bpf.RawInstruction{{Op: 0x28, K: 12}, {Op: 0x15, Jf: 1, K: 0x800}, {Op: 6, K: 1}, {Op: 6}}
	a, err := Classifier(p, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := Classifier(p, 0)
	if fmt.Sprint(a.Programs[ProgramName].Instructions) != fmt.Sprint(b.Programs[ProgramName].Instructions) {
		t.Error("two descriptions differ")
	}
}

// FuzzFunction: any program is translated or refused, without panic.
func FuzzFunction(f *testing.F) {
	f.Add([]byte{0x28, 0, 0, 0, 12, 0x15, 0, 1, 8, 0, 6, 0, 0, 0, 1, 6, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p []bpf.RawInstruction
		for ; len(b) >= 5; b = b[5:] {
			p = append(p, bpf.RawInstruction{Op: uint16(b[0]), Jt: b[1], Jf: b[2], K: uint32(b[3])<<8 | uint32(b[4])})
		}
		ins, err := Function("f", p, 256)
		if err == nil && len(ins) == 0 {
			t.Fatal("nothing, and no error")
		}
	})
}
