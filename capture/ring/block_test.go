package ring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"opentap/packet"
)

// testFrame is one frame of a hand-made block.
type testFrame struct {
	sec, nsec uint32
	data      []byte
	orig      uint32
	status    uint32
	tci, tpid uint16
	outgoing  bool
}

// blockOf lays frames out as the kernel does.
func blockOf(frames ...testFrame) []byte {
	mem := make([]byte, 64<<10)
	ne := binary.NativeEndian
	off := uint32(blockHeader)
	ne.PutUint32(mem[blockStatus:], 1)
	ne.PutUint32(mem[blockCount:], uint32(len(frames)))
	ne.PutUint32(mem[blockFirst:], off)
	for i, f := range frames {
		h := mem[off:]
		const mac = 86
		next := (mac + uint32(len(f.data)) + 7) &^ 7
		ne.PutUint32(h[frameSec:], f.sec)
		ne.PutUint32(h[frameNsec:], f.nsec)
		ne.PutUint32(h[frameSnap:], uint32(len(f.data)))
		ne.PutUint32(h[frameLen:], f.orig)
		ne.PutUint32(h[frameStatus:], f.status)
		ne.PutUint16(h[frameMAC:], mac)
		ne.PutUint32(h[frameTCI:], uint32(f.tci))
		ne.PutUint16(h[frameTPID:], f.tpid)
		if f.outgoing {
			h[framePktType] = packetOutgoing
		}
		copy(h[mac:], f.data)
		if i < len(frames)-1 {
			ne.PutUint32(h[frameNext:], next)
		}
		off += next
	}
	ne.PutUint32(mem[blockUsed:], off)
	return mem
}

func TestBlockNext(t *testing.T) {
	plain := []byte("AAAAAABBBBBB\x08\x00payload")
	tests := []struct {
		name string
		f    testFrame
		snap uint32
		raw  bool
		want string
		orig uint32
	}{
		{name: "plain", f: testFrame{data: plain, orig: 21}, want: "AAAAAABBBBBB\x08\x00payload", orig: 21},
		{
			name: "tag restored", f: testFrame{data: plain, orig: 21, status: statusVLAN | statusVLANTPID, tci: 0x6064, tpid: 0x88a8},
			want: "AAAAAABBBBBB\x88\xa8\x60\x64\x08\x00payload", orig: 25,
		},
		{name: "tag without TPID", f: testFrame{data: plain, orig: 21, status: statusVLAN, tci: 5}, want: "AAAAAABBBBBB\x81\x00\x00\x05\x08\x00payload", orig: 25},
		{name: "tag cut", f: testFrame{data: plain[:14], orig: 21, status: statusVLAN, tci: 5}, snap: 14, want: "AAAAAABBBBBB\x81\x00", orig: 25},
		{name: "addresses cut", f: testFrame{data: plain[:9], orig: 21, status: statusVLAN, tci: 5}, snap: 9, want: "AAAAAABBB", orig: 25},
		{name: "no link header", f: testFrame{data: plain, orig: 21, status: statusVLAN, tci: 5}, raw: true, want: string(plain), orig: 21},
		{name: "empty", f: testFrame{}, want: ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.f.sec, tt.f.nsec = 4_000_000_000, 999_999_999 // beyond 2038
			b := Block{snap: tt.snap, ethernet: !tt.raw}
			b.reset(blockOf(tt.f, testFrame{data: plain, outgoing: true}))
			for walk := range 2 {
				var f Frame
				if !b.Next(&f) || string(f.Data) != tt.want || f.OrigLen != tt.orig || f.Outgoing || cap(f.Data) != len(f.Data) {
					t.Errorf("walk %d: %q of %d, outgoing %v; want %q of %d", walk, f.Data, f.OrigLen, f.Outgoing, tt.want, tt.orig)
				}
				if f.Time != packet.Timestamp(4_000_000_000_999_999_999) {
					t.Errorf("time %d", f.Time)
				}
				if !b.Next(&f) || !f.Outgoing {
					t.Error("second frame is missing or not outgoing")
				}
				if b.Next(&f) || b.Len() != 2 {
					t.Errorf("a third frame of %d", b.Len())
				}
				b.Rewind()
			}
		})
	}
}

func TestBlockNextDoesNotAllocate(t *testing.T) {
	frames := make([]testFrame, 100)
	for i := range frames {
		frames[i] = testFrame{data: bytes.Repeat([]byte{1}, 300), orig: 300, status: uint32(i%2) * statusVLAN}
	}
	b := Block{ethernet: true}
	b.reset(blockOf(frames...))
	var f Frame
	if n := testing.AllocsPerRun(100, func() {
		b.Rewind()
		for b.Next(&f) {
		}
	}); n != 0 {
		t.Errorf("%v allocations a block", n)
	}
}

func TestLinkTypeOf(t *testing.T) {
	for hw, want := range map[uint16]packet.LinkType{1: packet.LinkEthernet, 772: packet.LinkEthernet, 0xfffe: packet.LinkRaw, 512: packet.LinkRaw, 519: packet.LinkRaw} {
		if got, err := linkTypeOf("x", hw); err != nil || got != want {
			t.Errorf("ARPHRD %d: %d, %v; want %d", hw, got, err, want)
		}
	}
	_, err := linkTypeOf("wlan0", 803)
	var lte *LinkTypeError
	if !errors.Is(err, errors.ErrUnsupported) || !errors.As(err, &lte) || lte.ARPHRD != 803 {
		t.Errorf("radiotap: %v", err)
	}
}

func TestConfigValidate(t *testing.T) {
	good := DefaultConfig()
	good.Interface = "eth0"
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no interface":    func(c *Config) { c.Interface = "" },
		"one block":       func(c *Config) { c.Blocks = 1 },
		"odd block":       func(c *Config) { c.BlockSize = 100_000 },
		"small block":     func(c *Config) { c.BlockSize = 4096 },
		"too much memory": func(c *Config) { c.Blocks = 1 << 30 },
		"no retire":       func(c *Config) { c.Retire = 0 },
		"negative snap":   func(c *Config) { c.SnapLen = -1 },
	} {
		c := good
		spoil(&c)
		if _, err := Open(c); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func FuzzBlock(f *testing.F) {
	f.Add(blockOf(testFrame{data: []byte("AAAAAABBBBBB\x08\x00payload"), orig: 21, status: statusVLAN, tci: 5}), uint32(0))
	f.Add(blockOf(testFrame{}, testFrame{data: make([]byte, 100)}), uint32(20))
	f.Add(make([]byte, blockHeader), uint32(1))
	f.Fuzz(func(t *testing.T, mem []byte, snap uint32) {
		if len(mem) < blockHeader {
			return
		}
		b := Block{snap: snap, ethernet: true}
		b.reset(bytes.Clone(mem))
		var fr Frame
		for b.Next(&fr) {
			if snap != 0 && len(fr.Data) > int(snap) {
				t.Fatalf("%d octets beyond snap length %d", len(fr.Data), snap)
			}
		}
	})
}
