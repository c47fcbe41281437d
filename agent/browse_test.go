package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"opentap/capture/query"
	"opentap/fault"
	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
)

// shown decodes what a look writes.
func shown[T any](t *testing.T, look func(io.Writer) error) (out T) {
	t.Helper()
	var b bytes.Buffer
	if err := look(&b); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b.Bytes(), &out); err != nil {
		t.Fatalf("%v in %s", err, b.Bytes())
	}
	return out
}

func TestNetnsBrowse(t *testing.T) {
	needsRing(t)
	h := newHost(t, nil)
	h.start()
	out, port := newSender(t)
	pk, fl := asked(1, want.Packets, port), asked(2, want.Flows, port)
	h.obey(1, pk, fl)
	h.awaitState(pk.UID, want.Running)
	h.awaitState(fl.UID, want.Running)
	out.send(40)
	await.Until(t, "all is counted", func() bool { return h.state(pk.UID).Ledger.Captured == 40 && h.state(fl.UID).Ledger.Captured == 40 })
	ctx := t.Context()
	rows := func(l want.PacketsLook) want.PacketRows {
		t.Helper()
		return shown[want.PacketRows](t, func(w io.Writer) error { return h.showPackets(ctx, pk.UID, l, w) })
	}
	var all want.PacketRows
	await.Until(t, "what has been captured can be looked at", func() bool { all = rows(want.PacketsLook{Limit: 1000}); return all.Total == 40 })
	if len(all.Packets) != 40 || all.Final || !all.First.Equal(all.Packets[0].Time) || !all.Last.Equal(all.Packets[39].Time) {
		t.Errorf("%d of %d packets, final %v, %v to %v", len(all.Packets), all.Total, all.Final, all.First, all.Last)
	}
	for i, p := range all.Packets {
		if p.Number != uint64(i) || p.Point != "lo" || p.Src != "127.0.0.1" || p.Protocol != "UDP" || !strings.Contains(p.Info, fmt.Sprint(port)) {
			t.Fatalf("row %d: %+v", i, p)
		}
	}
	if got := rows(want.PacketsLook{From: 38, Limit: 10}); len(got.Packets) != 2 || got.From != 38 || got.Packets[0] != all.Packets[38] {
		t.Errorf("the last two: %+v", got)
	}
	if got := rows(want.PacketsLook{From: 99, Limit: 10}); len(got.Packets) != 0 || got.Total != 40 {
		t.Errorf("behind the end: %+v", got)
	}
	if got := rows(want.PacketsLook{At: all.Packets[7].Time, Limit: 1}); len(got.Packets) != 1 || !got.Packets[0].Time.Equal(all.Packets[7].Time) {
		t.Errorf("at a time: %+v", got)
	}
	if got := rows(want.PacketsLook{Filter: "tcp", Limit: 10}); got.Total != 0 || len(got.Packets) != 0 || !got.First.IsZero() {
		t.Errorf("a filter that takes none: %+v", got)
	}
	d := shown[want.PacketDetail](t, func(w io.Writer) error { return h.showPacket(ctx, pk.UID, want.PacketLook{Number: 3}, w) })
	if d.Number != 3 || d.Captured != len(d.Data) || !strings.Contains(string(d.Data), "datagram of a test") || d.Flow == nil || !strings.Contains(d.Flow.Conversation, fmt.Sprint("port ", port)) {
		t.Errorf("%+v, %s", d.PacketRow, base64.StdEncoding.EncodeToString(d.Data))
	}
	var walk func(list []want.Field)
	walk = func(list []want.Field) {
		for _, f := range list {
			if f.Offset < 0 || f.Length < 0 || f.Offset+f.Length > d.Captured || f.Name == "" {
				t.Errorf("field %+v of a packet of %d octets", f, d.Captured)
			}
			walk(f.Fields)
		}
	}
	if walk(d.Layers); len(d.Layers) < 3 {
		t.Errorf("layers: %+v", d.Layers)
	}
	// Following a conversation finds it.
	if got := rows(want.PacketsLook{Filter: d.Flow.Conversation, Limit: 1}); got.Total != 40 {
		t.Errorf("%q takes %d", d.Flow.Conversation, got.Total)
	}
	line := shown[want.Timeline](t, func(w io.Writer) error { return h.showTimeline(ctx, pk.UID, want.TimelineLook{Steps: 10}, w) })
	var packets, octets uint64
	for i := range line.Packets {
		packets, octets = packets+line.Packets[i], octets+line.Octets[i]
	}
	if packets != 40 || len(line.Packets) > 10 || octets != 40*uint64(all.Packets[0].Length) || line.Step <= 0 {
		t.Errorf("%+v", line)
	}
	later := want.TimelineLook{Steps: 5, From: all.Last.Add(time.Second), To: all.Last.Add(time.Minute)}
	if line = shown[want.Timeline](t, func(w io.Writer) error { return h.showTimeline(ctx, pk.UID, later, w) }); len(line.Packets) != 5 || line.Packets[0] != 0 {
		t.Errorf("when nothing was: %+v", line)
	}
	top := shown[want.FlowTop](t, func(w io.Writer) error {
		return h.showRecords(ctx, fl.UID, want.RecordsLook{By: []string{"dport"}, Metric: "packets", Top: 5}, w)
	})
	if len(top.Groups) != 1 || top.Groups[0].Key[0] != fmt.Sprint(port) || top.Groups[0].Packets != 40 || top.Total.Packets != 40 {
		t.Errorf("%+v", top)
	}
	series := shown[want.FlowSeries](t, func(w io.Writer) error {
		return h.showRecords(ctx, fl.UID, want.RecordsLook{By: []string{"dport"}, Metric: "packets", Top: 5, Step: want.Duration(time.Second)}, w)
	})
	packets = 0
	for _, p := range series.Points {
		packets += p.Packets
	}
	if packets != 40 {
		t.Errorf("a series of %d packets: %+v", packets, series)
	}
	for name, x := range map[string]struct {
		err  error
		kind fault.Kind
	}{
		"no such capture":      {h.showPackets(ctx, uidOf(9), want.PacketsLook{}, io.Discard), fault.NotFound},
		"no such packet":       {h.showPacket(ctx, pk.UID, want.PacketLook{Number: 40}, io.Discard), fault.NotFound},
		"packets of flows":     {h.showPackets(ctx, fl.UID, want.PacketsLook{}, io.Discard), fault.Unsupported},
		"flows of packets":     {h.showRecords(ctx, pk.UID, want.RecordsLook{Metric: "bytes"}, io.Discard), fault.Unsupported},
		"a filter with a slip": {h.showPackets(ctx, pk.UID, want.PacketsLook{Filter: "prot 5"}, io.Discard), fault.Invalid},
		"flows by a slip":      {h.showRecords(ctx, fl.UID, want.RecordsLook{Metric: "bytes", Filter: "prot 5"}, io.Discard), fault.Invalid},
	} {
		if !fault.Is(x.err, x.kind) {
			t.Errorf("%s: %v", name, x.err)
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := h.showRecords(gone, fl.UID, want.RecordsLook{By: []string{"src"}, Metric: "bytes"}, io.Discard); err == nil {
		t.Error("who has gone is shown flows")
	}
	// Plans are kept, few of them, and forgotten with their capture.
	for i := range 2 * browsedMax {
		rows(want.PacketsLook{Filter: fmt.Sprint("udp port ", port, " or udp port ", i+1), Limit: 1})
	}
	if n := len(h.browsed.plans); n != browsedMax {
		t.Errorf("%d plans are kept, want %d", n, browsedMax)
	}
	h.forgetBrowsed(pk.UID)
	if n := len(h.browsed.plans); n != 0 {
		t.Errorf("%d plans outlive their capture", n)
	}
}

func TestNarrow(t *testing.T) {
	udp := nettest.Packet{SrcPort: 1, DstPort: 53}.Bytes()
	eth := query.Source{Name: "a", Interface: pcap.Interface{Link: packet.LinkEthernet}}
	raw := query.Source{Name: "b", Interface: pcap.Interface{Link: packet.LinkRaw}}
	var w query.Window
	if err := narrow(&w, []query.Source{eth, raw}, "", false); err != nil || w.Match != nil {
		t.Errorf("no filter: %v", err)
	}
	if err := narrow(&w, []query.Source{eth, raw}, "udp", false); !fault.Is(err, fault.Unsupported) {
		t.Errorf("two kinds of links: %v", err)
	}
	if err := narrow(&w, []query.Source{eth, eth}, "udp", false); err != nil || w.Need == nil || !w.Match(udp, uint32(len(udp))) {
		t.Errorf("udp: %v", err)
	}
	if err := narrow(&w, []query.Source{eth}, "port 80", false); err != nil || w.Match(udp, uint32(len(udp))) {
		t.Errorf("both must take it: %v", err)
	}
}

func TestFlowFilterOf(t *testing.T) {
	for _, x := range []struct {
		name, conversation string
		frame              []byte
	}{
		{"udp", "host 192.0.2.1 and host 192.0.2.2 and udp port 7 and port 53", nettest.Packet{SrcPort: 7, DstPort: 53}.Bytes()},
		{"tcp", "host 192.0.2.1 and host 192.0.2.2 and tcp port 7 and port 80", nettest.Packet{Proto: nettest.TCP, SrcPort: 7, DstPort: 80}.Bytes()},
		{"icmp has no ports", "host 192.0.2.1 and host 192.0.2.2", nettest.Packet{Proto: nettest.ICMP}.Bytes()},
		{"arp is no conversation", "", nettest.ARP([6]byte{2}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"))},
		{"cut off", "", []byte{1, 2, 3}},
	} {
		got := ""
		if f := flowFilterOf(packet.LinkEthernet, &pcap.Packet{Data: x.frame, OrigLen: uint32(len(x.frame))}); f != nil {
			got = f.Conversation
		}
		if got != x.conversation {
			t.Errorf("%s: %q, want %q", x.name, got, x.conversation)
		}
	}
}
