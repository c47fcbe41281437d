package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"opentap/capture"
	"opentap/detect"
	"opentap/fault"
	"opentap/flow"
	"opentap/ledger"
	"opentap/packet"
	"opentap/point"
	"opentap/want"
	"opentap/wire/sflow"
)

// detecting is a set of rules that runs over the samples that come here, as long as somebody listens to what it tells.
type detecting struct {
	wake chan struct{}

	mu     sync.Mutex
	engine *detect.Engine
	told   []want.Crossing
	missed uint64   // crossings that nobody took in time
	points []string // whose packets are looked at
	counts []string // whose counters are
}

const (
	mostTold     = 1 << 12 // crossings that wait to be sent
	advanceEvery = 50 * time.Millisecond
	topsEvery    = time.Second
	topsMost     = 50
	mostDetects  = 8 // sets of rules at one time
)

func newDetecting(rules []want.Rule) (*detecting, error) {
	d := &detecting{wake: make(chan struct{}, 1)}
	var list []*detect.Compiled
	for i := range rules {
		c, err := detect.Compile(&rules[i])
		if err != nil {
			return nil, err
		}
		list = append(list, c)
		points := &d.points
		if c.Input == want.InputCounters {
			points = &d.counts
		}
		for _, p := range c.Points {
			if !slices.Contains(*points, p) {
				*points = append(*points, p)
			}
		}
	}
	d.engine = detect.New(list, func(c want.Crossing) {
		if len(d.told) >= mostTold {
			d.missed++
			return
		}
		d.told = append(d.told, c)
		select {
		case d.wake <- struct{}{}:
		default:
		}
	})
	return d, nil
}

// sample gives a sample to all sets of rules.
func (a *Agent) sample(at packet.Timestamp, d *sflow.Datagram, f *sflow.FlowSample, p *packet.Parsed) {
	all := a.detects.Load()
	if all == nil || len(*all) == 0 {
		return
	}
	s := detect.SampleOf(at, d, f, p)
	for _, x := range *all {
		x.mu.Lock()
		x.engine.Sample(&s)
		x.mu.Unlock()
	}
}

// sampledCounters gives a counter sample to all sets of rules.
func (a *Agent) sampledCounters(at packet.Timestamp, d *sflow.Datagram, s *sflow.CounterSample) {
	all := a.detects.Load()
	if all == nil {
		return
	}
	for _, x := range *all {
		x.mu.Lock()
		x.engine.Counters(at, d, s)
		x.mu.Unlock()
	}
}

// changeDetects changes which sets of rules run.
func (a *Agent) changeDetects(change func([]*detecting) []*detecting) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var now []*detecting
	if all := a.detects.Load(); all != nil {
		now = slices.Clone(*all)
	}
	now = change(now)
	a.detects.Store(&now)
}

// showDetections runs rules until end is closed, and tells as lines of want.Detections what they find.
func (a *Agent) showDetections(ctx context.Context, end <-chan struct{}, rules []want.Rule, w io.Writer) error {
	d, err := newDetecting(rules)
	if err != nil {
		return err
	}
	full := false
	a.changeDetects(func(all []*detecting) []*detecting {
		if full = len(all) >= mostDetects; full {
			return all
		}
		return append(all, d)
	})
	if full {
		return &fault.Error{Kind: fault.Exhausted, Msg: "node " + a.cfg.NodeName + " runs as many sets of rules as it may", RetryAfter: time.Second}
	}
	defer a.changeDetects(func(all []*detecting) []*detecting {
		return slices.DeleteFunc(all, func(x *detecting) bool { return x == d })
	})
	sniffing, stop := context.WithCancel(ctx)
	var sniffers sync.WaitGroup
	defer sniffers.Wait()
	defer stop()
	for _, p := range d.points {
		sniffers.Go(func() { a.sniff(sniffing, d, p) })
	}
	for _, p := range d.counts {
		sniffers.Go(func() { a.count(sniffing, d, p) })
	}
	enc := json.NewEncoder(w)
	advance, tops := time.NewTicker(advanceEvery), time.NewTicker(topsEvery)
	defer advance.Stop()
	defer tops.Stop()
	if err := enc.Encode(want.Detections{Tops: map[string][]want.Ranked{}}); err != nil { // it runs
		return err
	}
	for {
		var line want.Detections
		select {
		case <-d.wake:
		case now := <-advance.C:
			d.mu.Lock()
			d.engine.Advance(packet.TimestampOf(now))
			d.mu.Unlock()
		case <-tops.C:
			d.mu.Lock()
			line.Tops = d.engine.Top(topsMost)
			counts := d.engine.DetectCounts
			counts.Suppressed += d.missed
			line.Counts = &counts
			d.mu.Unlock()
		case <-end:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		d.mu.Lock()
		told := d.told
		d.told = nil
		d.mu.Unlock()
		for i := range told {
			if err := enc.Encode(want.Detections{Crossing: &told[i]}); err != nil {
				return err
			}
		}
		if line.Tops != nil {
			if err := enc.Encode(line); err != nil {
				return err
			}
		}
	}
}

// record gives a flow record to all sets of rules.
func (a *Agent) record(from netip.Addr, r *flow.Record) {
	all := a.detects.Load()
	if all == nil || len(*all) == 0 || r.Packets == 0 {
		return
	}
	e := r.Estimate()
	p := packet.Parsed{
		Layers: packet.LayerIPv4, Src: r.Src, Dst: r.Dst, Proto: r.Proto, TOS: r.TOS, TCPFlags: r.TCPFlags, SrcMAC: r.SrcMAC, DstMAC: r.DstMAC,
		SrcPort: r.SrcPort, DstPort: r.DstPort,
	}
	if r.Version == 6 {
		p.Layers = packet.LayerIPv6
	}
	if r.SrcMAC != (packet.MAC{}) || r.DstMAC != (packet.MAC{}) {
		p.Layers |= packet.LayerEthernet
	}
	switch {
	case r.PortsUnknown:
	case r.Proto == packet.ProtoICMP || r.Proto == packet.ProtoICMP6:
		p.Layers |= packet.LayerICMP
		p.ICMPType, p.ICMPCode, p.SrcPort, p.DstPort = r.ICMPType, r.ICMPCode, 0, 0
	case r.Proto == packet.ProtoTCP:
		p.Layers |= packet.LayerTransport | packet.LayerTCP
	case r.SrcPort|r.DstPort != 0:
		p.Layers |= packet.LayerTransport
	}
	if r.VLAN != 0 {
		p.Layers |= packet.LayerVLAN
		p.VLANs[0], p.VLANCount = r.VLAN, 1
	}
	s := detect.Sample{
		At: packet.TimestampOf(time.Now()), Agent: from, Packet: &p, Octets: e.Octets, Packets: e.Packets, Duration: r.Duration(), Counted: r.Packets, Rate: 1,
	}
	for _, x := range *all {
		x.mu.Lock()
		x.engine.Sample(&s)
		x.mu.Unlock()
	}
}

// sniffer gives the packets of a point to a set of rules. It belongs to the source's goroutine.
type sniffer struct {
	d     *detecting
	point string
	index uint32
}

// Begin implements capture.Consumer. The rules are locked for each frame and not for the block: a meter at the same source
// gives them its records in between.
func (s *sniffer) Begin() {}

// End implements capture.Consumer.
func (s *sniffer) End() {}

// Frame implements capture.Consumer.
func (s *sniffer) Frame(f *capture.Frame) capture.Verdict {
	p := f.Parsed()
	x := detect.Sample{
		At: f.Time, Agent: netip.IPv4Unspecified(), Source: sflow.Source{Type: 3, Index: s.index}, In: s.index, Point: s.point,
		Packet: p, Octets: uint64(f.OrigLen), Rate: 1,
	}
	if p.Link == packet.LinkEthernet {
		x.Header = f.Data
	}
	s.d.mu.Lock()
	s.d.engine.Sample(&x)
	s.d.mu.Unlock()
	return capture.Took
}

// Idle implements capture.Consumer.
func (s *sniffer) Idle(packet.Timestamp, *ledger.Account) {}

// sniff looks at the packets of a point until ctx ends, if this host has it; what fails is tried again.
func (a *Agent) sniff(ctx context.Context, d *detecting, name string) {
	for ctx.Err() == nil {
		devices := *a.devices.Load()
		if i := slices.IndexFunc(devices, func(p point.Point) bool { return p.Name == name }); i >= 0 {
			err := a.sniffOnce(ctx, &sniffer{d: d, point: name, index: uint32(devices[i].IfIndex)})
			if ctx.Err() != nil {
				return
			}
			a.trouble("detect "+name, fmt.Sprintf("the packets of %s cannot be looked at: %s", name, errText(err)))
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryExporter):
		}
	}
}

func (a *Agent) sniffOnce(ctx context.Context, s *sniffer) error {
	att, err := a.engine.Attach(capture.Spec{Point: s.point, Promiscuous: true}, s)
	if err != nil {
		return err
	}
	awaitOpen(att)
	a.trouble("detect "+s.point, "")
	select {
	case <-ctx.Done():
	case <-att.Done():
	}
	if err := att.Detach(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	return att.Progress().Err
}
