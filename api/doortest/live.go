package doortest

import (
	"context"
	"io"

	"opentap/auth"
	"opentap/fault"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
)

// LiveCalls returns what OpenLive was asked.
func (c *Controller) LiveCalls() []want.LiveRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]want.LiveRequest(nil), c.lives...)
}

// OpenLive implements the doors' Controller: ten packets and their account, and then nothing until the reader goes,
// unless a duration or a limit was asked for. The field Live gives something else.
func (c *Controller) OpenLive(ctx context.Context, id auth.Identity, r want.LiveRequest) (*want.Retrieval, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lives = append(c.lives, r)
	if err := c.Fail["OpenLive"]; err != nil {
		return nil, err
	}
	if !id.May(auth.ReadPayload) {
		return nil, fault.New(fault.Forbidden, "role %s may not read captured data", id.Role)
	}
	if _, _, err := checkFilter(r.Filter); err != nil {
		return nil, err
	}
	for _, p := range r.Points {
		if p != "eth0" && p != "eth1" && p != "uplink" && p != "virgo/eth0" && p != "virgo/eth1" {
			return nil, &fault.Error{Kind: fault.NotFound, Field: "point", Msg: "no observation point " + p}
		}
	}
	c.opened++
	rt := &want.Retrieval{Format: want.PcapNG, FileName: "opentap-live.pcapng", Size: -1}
	live := c.Live
	rt.Write = func(ctx context.Context, w io.Writer, _, _ int64) error {
		if live != nil {
			return live(ctx, w)
		}
		n := uint64(10)
		if r.Packets > 0 {
			n = r.Packets
		}
		if _, err := w.Write(LivePackets(n, 0)); err != nil || r.Duration > 0 || r.Packets > 0 {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	rt.Close = func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.closed++
		return nil
	}
	return rt, nil
}

// LivePackets is a live stream of n packets, of which slow more were lost by the reader.
func LivePackets(n, slow uint64) []byte {
	ts := packet.TimestampOf(Epoch)
	b := pcap.AppendSectionHeader(nil, pcap.Section{Application: "test"})
	b = pcap.AppendInterface(b, pcap.Interface{Name: "eth0", Link: packet.LinkEthernet})
	frame := make([]byte, 60)
	frame[12] = 8
	for i := range n {
		b = pcap.AppendPacket(b, 0, ts+packet.Timestamp(i), uint32(len(frame)), frame, pcap.DirectionIn)
	}
	a := ledger.Account{Seen: n + slow, Captured: n, Octets: 60 * n, StoredOctets: 60 * n}
	a.Dropped[ledger.SlowReader] = slow
	return pcap.AppendStats(b, pcap.AccountStats(0, ts, ts+packet.Timestamp(n), &a, ""))
}
