package taptest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"opentap/tap"
)

// Far is another host that the node has a route to, over IPv4, and the node as that host knows it.
type Far struct {
	Addr, Here netip.Addr
	// Send has a host send UDP datagrams with these payloads to a port of the node: the far one, or a third one from Stranger.
	Send     func(from netip.Addr, port uint16, payloads ...[]byte)
	Stranger netip.Addr
	// Hear returns the frames that came to the far host since it was last asked. It waits until it was quiet for a moment.
	Hear func() [][]byte
	// NoSinks says that the driver takes no copies out of tunnels.
	NoSinks bool
}

const tunnelID = 0x2a5

// filters: a filter chooses by what it says, can be changed, and is each tap's own.
func filters(b *bench) {
	s := b.source("a")
	s.Options.Filter = fmt.Sprintf("udp port %d", port)
	err := b.try(s)
	if b.NoFilter {
		b.refused(err)
		b.expect(10, 0)
		return
	}
	if err != nil {
		b.Fatalf("with a filter: %v", err)
	}
	b.expect(100, 1)
	other := b.source("b")
	other.Options.Filter = fmt.Sprintf("tcp port %d or udp port %d", port, port+1)
	b.update(other)
	b.expect(50, 1)
	b.counted("a", 150)
	b.counted("b", 0)
	s.Options.Filter = other.Options.Filter
	b.update(s)
	b.expect(50, 0)
	b.counted("a", 150)
	s.Options.Filter = fmt.Sprintf("dst port %d", port)
	b.update(s)
	b.expect(50, 1)
}

// refused wants an error that says in its type that the driver cannot do it.
func (b *bench) refused(err error) {
	b.Helper()
	if !errors.Is(err, tap.ErrUnsupported) {
		b.Fatalf("what the driver cannot do: %v, want ErrUnsupported", err)
	}
	b.Logf("refused: %v", err)
}

// reaches: copies go to another host in a tunnel, and to the tool's device again when that is wished for instead.
func reaches(b *bench) {
	s := b.source("a")
	s.To = tap.Target{Remote: netip.MustParseAddr("198.51.100.9"), Encap: tap.VXLAN, TunnelID: tunnelID}
	if b.Far == nil {
		b.refused(b.try(s))
		b.expect(10, 0)
		return
	}
	s.To.Remote = b.Far.Addr
	b.update(s)
	away := func(n, times int) {
		b.Helper()
		frames := b.packets(n)
		b.Send(frames...)
		b.copied(outOfVXLAN(b.Far.Hear()), n, times)
		b.copied(b.Hear(), n, 0)
	}
	away(100, 1)
	b.counted("a", 100)
	b.crash()
	b.update(s)
	away(100, 1)
	b.counted("a", 200)
	b.update(b.source("a"))
	b.expect(50, 1)
	b.update(s)
	away(50, 1)
	b.delete("a")
	away(10, 0)
}

// outOfVXLAN returns the frames that are in tunnel packets of IPv4, UDP and VXLAN (RFC 7348 section 5) with our id.
func outOfVXLAN(frames [][]byte) (inner [][]byte) {
	const proto, udp, vxlan, begin = 14 + 9, 14 + 20, 14 + 20 + 8, 14 + 20 + 8 + 8
	for _, f := range frames {
		if len(f) > begin && binary.BigEndian.Uint16(f[12:]) == 0x0800 && f[14] == 0x45 && f[proto] == 17 &&
			binary.BigEndian.Uint16(f[udp+2:]) == 4789 && f[vxlan] == 0x08 && binary.BigEndian.Uint32(f[vxlan+4:])>>8 == tunnelID {
			inner = append(inner, f[begin:])
		}
	}
	return inner
}

// intoVXLAN puts frames into VXLAN, what comes after UDP's header.
func intoVXLAN(id uint32, frames [][]byte) (payloads [][]byte) {
	for _, f := range frames {
		p := binary.BigEndian.AppendUint32([]byte{0x08, 0, 0, 0}, id<<8)
		payloads = append(payloads, append(p, f...))
	}
	return payloads
}

// sinks: of what comes in tunnels the tool gets what is for it, from who may send, and nothing when the sink is away.
func sinks(b *bench) {
	s := tap.Sink{ID: "s", Device: tap.Device{Name: b.Tool}, Encap: tap.VXLAN, TunnelID: tunnelID, UDPPort: tap.NodeVXLAN}
	update := func() (err error) {
		b.Do(func() { _, err = b.d.UpdateSink(context.Background(), s) })
		return err
	}
	if b.Far == nil { // then copies come to the tool's port as they are, and there is none but those that there are
		s.Make = true
		b.refused(update())
		return
	}
	s.From = []netip.Addr{b.Far.Addr}
	comes := func(from netip.Addr, id uint32, n, times int) {
		b.Helper()
		b.Far.Send(from, tap.NodeVXLAN, intoVXLAN(id, b.packets(n))...)
		b.copied(b.Hear(), n, times)
	}
	err := update()
	if b.Far.NoSinks {
		b.refused(err)
		comes(b.Far.Addr, tunnelID, 10, 0)
		return
	}
	if err != nil {
		b.Fatalf("update the sink: %v", err)
	}
	comes(b.Far.Addr, tunnelID, 100, 1)
	comes(b.Far.Addr, tunnelID+1, 10, 0)
	comes(b.Far.Stranger, tunnelID, 10, 0)
	b.counted("s", 100)
	b.crash()
	comes(b.Far.Addr, tunnelID, 100, 1) // nobody was asked
	if err := update(); err != nil {
		b.Fatalf("update the sink again: %v", err)
	}
	comes(b.Far.Addr, tunnelID, 100, 1)
	b.counted("s", 300)
	s.From = []netip.Addr{b.Far.Stranger}
	if err := update(); err != nil {
		b.Fatalf("update the sink with another sender: %v", err)
	}
	comes(b.Far.Addr, tunnelID, 10, 0)
	comes(b.Far.Stranger, tunnelID, 10, 1)
	b.delete("s")
	comes(b.Far.Stranger, tunnelID, 10, 0)
}
