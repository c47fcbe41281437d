package ring

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/bpf"

	"opentap/internal/nettest"
)

// patient is a ring that nobody needs to read for a while: it goes through its blocks slowly.
func patient(iface string) Config {
	return Config{Interface: iface, Blocks: 32, BlockSize: 128 << 10, Retire: 250 * time.Millisecond}
}

// members opens n rings of one group.
func members(t *testing.T, ns *nettest.NS, cfg Config, n int) []*Ring {
	t.Helper()
	cfg.Group = &Group{}
	rings := make([]*Ring, n)
	for i := range rings {
		rings[i] = open(t, ns, cfg)
	}
	return rings
}

// arrived waits until the rings have met so many packets.
func arrived(t *testing.T, rings []*Ring, want uint64) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		seen := uint64(0)
		for _, r := range rings {
			seen += counts(t, r).Seen
		}
		if seen >= want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d packets arrived", seen, want)
		}
	}
}

// Every packet is in one ring of a group, both directions of a flow are in the same one, fragments come as they were on the
// wire, and the counts of the rings add up to what was sent.
func TestNetnsGroupSharesPackets(t *testing.T) {
	for name, filter := range map[string][]bpf.RawInstruction{"no filter": nil, "filter": port53(t)} {
		t.Run(name, func(t *testing.T) {
			ns := cable(t)
			cfg := patient("b0")
			cfg.Filter = filter
			rings := members(t, ns, cfg, 3)
			s := nettest.NewSender(t, ns, "a0")
			a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
			const flows = 300
			for i := range uint16(flows) {
				body := binary.BigEndian.AppendUint16(make([]byte, 0, 64), i)
				s.Send(nettest.Packet{Src: a, Dst: b, SrcPort: 2000 + i, DstPort: 53, Payload: body}.Bytes())
				s.Send(nettest.Packet{Src: b, Dst: a, SrcPort: 53, DstPort: 2000 + i, Payload: body}.Bytes())
			}
			long := nettest.Packet{Src: a, Dst: b, SrcPort: 7, DstPort: 8, Payload: make([]byte, 4000)}.Fragments(1400)
			s.Send(long...)
			arrived(t, rings, s.Count())
			in := make(map[uint16]int) // flow: ring
			var seen, filtered, frames, fragments uint64
			for i, r := range rings {
				got := drain(t, r)
				c := counts(t, r)
				if c.Dropped != 0 || c.Passed != uint64(len(got)) || !c.FilterCounted {
					t.Errorf("ring %d: %d frames, counts %+v", i, len(got), c)
				}
				if c.Seen < s.Count()/10 {
					t.Errorf("ring %d has met %d of %d packets", i, c.Seen, s.Count())
				}
				seen, filtered, frames = seen+c.Seen, filtered+c.Filtered, frames+uint64(len(got))
				for _, f := range got {
					if binary.BigEndian.Uint16(f.data[20:])&0x3fff != 0 {
						fragments++
						continue
					}
					flow := binary.BigEndian.Uint16(f.data[42:])
					if was, ok := in[flow]; ok && was != i {
						t.Errorf("flow %d is in rings %d and %d", flow, was, i)
					}
					in[flow] = i
				}
			}
			want, cut := s.Count(), uint64(0)
			if filter != nil {
				want, cut = flows, s.Count()-flows
			}
			if seen != s.Count() || filtered != cut || frames != want || len(in) != flows {
				t.Errorf("%d packets sent: seen %d, filtered %d, in rings %d of %d flows", s.Count(), seen, filtered, frames, len(in))
			}
			if filter == nil && fragments != uint64(len(long)) {
				t.Errorf("%d fragments, %d were sent", fragments, len(long))
			}
		})
	}
}

// A ring that leaves its group leaves its packets to the others; one that joins again takes its share.
func TestNetnsGroupMembersComeAndGo(t *testing.T) {
	ns := cable(t)
	cfg := patient("b0")
	rings := members(t, ns, cfg, 2)
	cfg.Group = rings[0].cfg.Group
	s := nettest.NewSender(t, ns, "a0")
	send := func() {
		for i := range uint16(200) {
			s.Send(nettest.Packet{SrcPort: 2000 + i, DstPort: 80}.Bytes())
		}
	}
	if err := rings[0].Close(); err != nil {
		t.Fatal(err)
	}
	send()
	arrived(t, rings[1:], 200)
	again := open(t, ns, cfg)
	send()
	arrived(t, []*Ring{again, rings[1]}, 400)
	if c := counts(t, again); c.Seen < 20 || c.Seen > 180 {
		t.Errorf("the ring that joined again has met %d of 200 packets", c.Seen)
	}
	if got := len(drain(t, again)) + len(drain(t, rings[1])); got != 400 {
		t.Errorf("%d of 400 packets", got)
	}
	for _, r := range []*Ring{again, rings[1]} {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if cfg.Group.members != 0 {
		t.Errorf("%d members after all have left", cfg.Group.members)
	}
	open(t, ns, cfg) // a new group, under another number
}

// A group waits for its interface as a ring alone does, and leaves out what a loopback shows twice.
func TestNetnsGroupOnOtherInterfaces(t *testing.T) {
	ns := cable(t)
	ns.Down("b0")
	cfg := patient("b0")
	cfg.Group = &Group{}
	var r *Ring
	var err error
	ns.Do(func() { r, err = Open(cfg) })
	if err == nil { // Linux 6.14
		_, err = r.Read(time.Second, func(*Block) {})
		defer r.Close()
	}
	if !errors.Is(err, ErrDown) {
		t.Errorf("interface is down: %v", err)
	}
	ns.Up("lo")
	rings := members(t, ns, patient("lo"), 2)
	s := nettest.NewSender(t, ns, "lo")
	for i := range uint16(100) {
		s.Send(nettest.Packet{SrcPort: 2000 + i, DstPort: 80}.Bytes())
	}
	arrived(t, rings, 100)
	if got := len(drain(t, rings[0])) + len(drain(t, rings[1])); got != 100 {
		t.Errorf("%d packets on the loopback, 100 were sent", got)
	}
}

func TestKernelVersion(t *testing.T) {
	if !since(3, 1) || since(999, 0) {
		t.Error("the version of the kernel is not read")
	}
}
