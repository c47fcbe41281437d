package controller

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"opentap/agentapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
	"opentap/point"
	"opentap/want"
)

type liveFunc func(ctx context.Context, end <-chan struct{}, nodeID string, spec want.LiveSpec, w io.Writer) error

// Stream implements Hub.
func (h *hub) Stream(ctx context.Context, end <-chan struct{}, nodeID, _ string, spec want.LiveSpec, w io.Writer) error {
	return h.live(ctx, end, nodeID, spec, w)
}

// twoNodes adds host2 with eth0 and eth1, of which eth1 is recorded.
func twoNodes(t *testing.T) *bench {
	b := newBench(t, nil)
	b.Joined(agentapi.Identity{NodeID: "n2", NodeName: "host2", Version: "test"})
	b.Inventory("n2", []point.Point{
		{Name: "eth0", Kind: point.Netdev, Present: true, Up: true, LinkType: 1},
		{Name: "eth1", Kind: point.Netdev, Present: true, Up: true, LinkType: 1},
	}, want.Node{Recorders: map[string]time.Time{"eth1": time.Now()}})
	return b
}

// section is what a node sends: n packets a point, numbered by their length, cut into writes of size octets.
func section(spec want.LiveSpec, n, size int, w io.Writer) error {
	b := pcap.AppendSectionHeader(nil, pcap.Section{Hardware: "a node"})
	for _, p := range spec.Points {
		b = pcap.AppendInterface(b, pcap.Interface{Name: p.Label, Link: packet.LinkEthernet})
	}
	for i := range n {
		for f := range spec.Points {
			b = pcap.AppendPacket(b, uint32(f), packet.Timestamp(i), 60, make([]byte, 20+i), pcap.DirectionIn)
		}
	}
	for f := range spec.Points {
		b = pcap.AppendStats(b, pcap.AccountStats(f, 0, 1, &ledger.Account{Seen: uint64(n), Captured: uint64(n)}, ""))
	}
	for len(b) > 0 {
		k := min(size, len(b))
		if _, err := w.Write(b[:k]); err != nil {
			return err
		}
		b = b[k:]
	}
	return nil
}

func TestLiveMergesNodes(t *testing.T) {
	for _, size := range []int{1, 7, 100, 1 << 20} {
		b := twoNodes(t)
		b.hub.live = func(_ context.Context, _ <-chan struct{}, _ string, spec want.LiveSpec, w io.Writer) error {
			return section(spec, 5, size, w)
		}
		rt, err := b.OpenLive(t.Context(), alice, want.LiveRequest{Points: []string{"host1/eth0", "host2/eth0", "host2/eth1"}, Filter: "tcp"})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(b.trail.actions(), "live.start:allowed") {
			t.Errorf("audit: %s", b.trail.actions())
		}
		var out bytes.Buffer
		if err := rt.Write(t.Context(), &out, 0, -1); err != nil {
			t.Fatal(err)
		}
		r, err := pcap.NewReader(&out)
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		var p pcap.Packet
		for err = r.Next(&p); err == nil; err = r.Next(&p) {
			name := r.Interfaces()[p.Interface].Name
			if len(p.Data) != 20+count[name] {
				t.Errorf("%s: packet %d has %d octets", name, count[name], len(p.Data))
			}
			count[name]++
		}
		if err != io.EOF || len(count) != 3 || count["host1/eth0"] != 5 || count["host2/eth0"] != 5 || count["host2/eth1"] != 5 || len(r.Stats()) != 3 {
			t.Errorf("writes of %d: %v %v, %d statistics", size, err, count, len(r.Stats()))
		}
		for _, s := range r.Stats() {
			if a, ok := s.Account(); !ok || a.Captured != 5 {
				t.Errorf("statistics %+v", s)
			}
		}
	}
}

func TestLiveTellsWhatCannotBegin(t *testing.T) {
	b := twoNodes(t)
	b.hub.live = func(ctx context.Context, _ <-chan struct{}, nodeID string, spec want.LiveSpec, w io.Writer) error {
		if nodeID == "n2" {
			return fault.New(fault.Exhausted, "too many streams")
		}
		if err := section(spec, 1, 100, w); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	rt, err := b.OpenLive(t.Context(), alice, want.LiveRequest{Points: []string{"host1/eth0", "host2/eth1"}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := rt.Write(t.Context(), &out, 0, -1); !fault.Is(err, fault.Exhausted) {
		t.Errorf("%v", err)
	}
}

func TestLiveRefuses(t *testing.T) {
	b := twoNodes(t)
	for name, c := range map[string]struct {
		who  auth.Identity
		r    want.LiveRequest
		kind fault.Kind
		says string
	}{
		"viewer":        {eve, want.LiveRequest{Points: []string{"eth0"}}, fault.Forbidden, "viewer"},
		"no such point": {alice, want.LiveRequest{Points: []string{"host1/eth9"}}, fault.NotFound, "eth9"},
		"sensor":        {alice, want.LiveRequest{Points: []string{"host1/temp1"}}, fault.Invalid, "temp1"},
		"no packets":    {alice, want.LiveRequest{Points: []string{"host1/can0"}}, fault.Unsupported, "can0"},
		"twice":         {alice, want.LiveRequest{Points: []string{"host1/eth0", "host1/eth0"}}, fault.Invalid, "already"},
		"filter":        {alice, want.LiveRequest{Points: []string{"host1/eth0"}, Filter: "tcp and"}, fault.Invalid, ""},
		"snap":          {alice, want.LiveRequest{Points: []string{"host1/eth0"}, Snap: 1}, fault.Invalid, "octets"},
		"past":          {alice, want.LiveRequest{Points: []string{"host1/eth0"}, Past: want.Duration(time.Second)}, fault.Invalid, "recorded"},
		"far past":      {alice, want.LiveRequest{Points: []string{"host2/eth1"}, Past: want.Duration(25 * time.Hour)}, fault.Invalid, "up to"},
		"two counts":    {alice, want.LiveRequest{Points: []string{"host1/eth0", "host2/eth1"}, Packets: 5}, fault.Invalid, "one node"},
	} {
		if _, err := b.OpenLive(t.Context(), c.who, c.r); !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.Left("n2")
	if _, err := b.OpenLive(t.Context(), alice, want.LiveRequest{Points: []string{"host2/eth1"}}); !fault.Is(err, fault.Unavailable) {
		t.Error(err)
	}
	b.trail.err = errors.New("disk full")
	if _, err := b.OpenLive(t.Context(), alice, want.LiveRequest{Points: []string{"host1/eth0"}}); !fault.Is(err, fault.Unavailable) {
		t.Error(err)
	}
}

func TestLiveEndsWithTheController(t *testing.T) {
	b := twoNodes(t)
	b.hub.live = func(ctx context.Context, end <-chan struct{}, _ string, spec want.LiveSpec, w io.Writer) error {
		select {
		case <-end:
			return section(spec, 1, 1000, w)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	rt, err := b.OpenLive(t.Context(), alice, want.LiveRequest{Points: []string{"host1/eth0"}, Past: 0})
	if err != nil {
		t.Fatal(err)
	}
	b.EndLive()
	b.EndLive()
	if err := rt.Write(t.Context(), io.Discard, 0, -1); err != nil {
		t.Error(err)
	}
}

func TestLiveRefusesMalformedBlocks(t *testing.T) {
	for name, bad := range map[string][]byte{
		"length":    binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, 6), 5),
		"interface": pcap.AppendPacket(nil, 0, 1, 1, []byte{1}, 0),
		"half":      make([]byte, 0, 4),
	} {
		b := twoNodes(t)
		b.hub.live = func(_ context.Context, _ <-chan struct{}, _ string, _ want.LiveSpec, w io.Writer) error {
			if name == "half" {
				_, err := w.Write([]byte{1, 2, 3})
				return err
			}
			_, err := w.Write(append(bad, make([]byte, 12)...))
			return err
		}
		rt, err := b.OpenLive(t.Context(), alice, want.LiveRequest{Points: []string{"host1/eth0"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := rt.Write(t.Context(), io.Discard, 0, -1); !fault.Is(err, fault.Internal) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
