package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"opentap/flow/collect"
	"opentap/internal/await"
	"opentap/packet"
	"opentap/want"
	"opentap/wire/netflow"
)

// TestDetectionRunsWhileSomebodyListens: what comes to a collector is looked at by rules, told at once, and no more when nobody
// listens.
func TestDetectionRunsWhileSomebodyListens(t *testing.T) {
	h := newHost(t, func(c *Config) {
		c.Collectors = []Collector{{Bytes: 8 << 20, Collect: collect.Config{Name: "udp", Transport: "udp", Address: "127.0.0.1:0"}}}
	})
	h.start()
	await.Until(t, "it listens", func() bool { return h.collectors[0].c.Address() != "" })
	rules := []want.Rule{{
		Name: "big", Flow: want.RuleFlow{Input: want.InputRecords, Keys: []string{"src"}, Value: "packets", Window: want.Duration(time.Second)},
		Threshold: want.RuleThreshold{Above: "1kpps", Hold: want.Duration(100 * time.Millisecond)},
	}}
	if err := h.Live(t.Context(), nil, want.LiveSpec{Look: &want.Look{Detect: []want.Rule{{Name: "bad"}}}}, io.Discard); err == nil {
		t.Error("a rule that is none is taken")
	}
	out, in := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		err := h.Live(ctx, end, want.LiveSpec{Look: &want.Look{Detect: rules}}, in)
		_ = in.Close()
		ended <- err
	}()
	defer cancel()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("it does not run")
	}
	conn, err := net.Dial("udp", h.collectors[0].c.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	enc, err := netflow.NewEncoder(netflow.EncoderConfig{Version: netflow.IPFIX})
	if err != nil {
		t.Fatal(err)
	}
	now := packet.TimestampOf(time.Now())
	f := netflow.Flow{First: now, Last: now, IP: 4, Proto: 17, Src: netip.MustParseAddr("::ffff:10.0.0.1").As16(), Packets: 5000, Octets: 1 << 20}
	msg, _ := enc.Append(nil, now, []netflow.Flow{f}, true, nil)
	if _, err := conn.Write(msg); err != nil {
		t.Fatal(err)
	}
	var told []want.Crossing
	for len(told) < 2 && lines.Scan() {
		var line want.Detections
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line.Crossing != nil {
			told = append(told, *line.Crossing)
		}
	}
	if len(told) != 2 || told[0].Over || !told[1].Over || told[0].Keys[0] != "10.0.0.1" || told[0].Value != 5000 || told[0].Agent != "127.0.0.1" {
		t.Errorf("%+v", told)
	}
	close(end)
	go func() { _, _ = io.Copy(io.Discard, out) }()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := len(*h.detects.Load()); n != 0 {
		t.Errorf("%d sets of rules run that nobody listens to", n)
	}
}

// TestNetnsDetectionBesideAMeter: rules look at the packets of a point that is metered for the flow store, too, which gives
// records to the same rules while it takes packets. Neither waits for the other for ever.
func TestNetnsDetectionBesideAMeter(t *testing.T) {
	needsRing(t)
	s, port := newSender(t)
	other, otherPort := newSender(t)
	expr := fmt.Sprintf("udp dst port %d or udp dst port %d", port, otherPort)
	h := newHost(t, func(c *Config) {
		c.Flow.MaxFlows = 1                                  // each packet of another flow ends one, so that there is a record for it
		c.Flows = []FlowStore{{Point: "lo", Bytes: 8 << 20}} // without a filter, as the rules look: both share one source
	})
	h.start()
	rules := []want.Rule{{
		Name: "any", Flow: want.RuleFlow{Input: want.InputPackets, Points: []string{"lo"}, Filter: expr, Keys: []string{"dport"}, Value: "packets", Window: want.Duration(time.Second)},
		Threshold: want.RuleThreshold{Above: "1pps", Hold: want.Duration(time.Minute)},
	}}
	out, in := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- h.Live(ctx, nil, want.LiveSpec{Look: &want.Look{Detect: rules}}, in)
		_ = in.Close()
	}()
	samples := make(chan uint64, 100)
	go func() {
		defer close(samples)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var line want.Detections
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Counts != nil {
				samples <- line.Counts.Samples
			}
		}
	}()
	var seen uint64
	await.Until(t, "the rules have seen packets again and again", func() bool {
		s.send(1)
		other.send(1)
		select {
		case n := <-samples:
			seen = n
		default:
		}
		return seen >= 500
	})
	cancel()
	<-ended
}
