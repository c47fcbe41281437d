package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"opentap/internal/nettest"
	"opentap/ledger"
	"opentap/pcap"
)

// tool is a program that captures to disk. All get 128 MiB of ring and nanosecond time stamps, and keep whole packets.
type tool struct {
	name    string
	command func(out string) (string, []string)
	quiet   time.Duration // how long it may sit on packets: longer than its ring's timeout
	ours    bool
	xdp     bool // it takes the port over, so that nobody else can have a program there
}

var tools = []*tool{
	{name: "opentap", ours: true, quiet: 150 * time.Millisecond, command: func(out string) (string, []string) {
		return "/proc/self/exe", []string{childCapture, rxName, out, "index", "ring"}
	}},
	{name: "opentap-no-index", ours: true, quiet: 150 * time.Millisecond, command: func(out string) (string, []string) {
		return "/proc/self/exe", []string{childCapture, rxName, out, "no-index", "ring"}
	}},
	{name: "opentap-dedicated", ours: true, xdp: true, quiet: 150 * time.Millisecond, command: func(out string) (string, []string) {
		return "/proc/self/exe", []string{childCapture, rxName, out, "index", "dedicated"}
	}},
	{name: "opentap-dedicated-no-index", ours: true, xdp: true, quiet: 150 * time.Millisecond, command: func(out string) (string, []string) {
		return "/proc/self/exe", []string{childCapture, rxName, out, "no-index", "dedicated"}
	}},
	{name: "tcpdump", quiet: 1100 * time.Millisecond, command: func(out string) (string, []string) {
		return "tcpdump", []string{"-i", rxName, "-n", "-s", "0", "-B", "131072", "--time-stamp-precision=nano", "-Z", "root", "-w", out}
	}},
	{name: "netsniff-ng", quiet: 300 * time.Millisecond, command: func(out string) (string, []string) {
		return "netsniff-ng", []string{
			"--in", rxName, "--out", out + ".pcap", "--silent", "--ring-size", "128MiB", "--magic", "0xa1b23c4d",
			"--no-sock-mem", "--notouch-irq",
		}
	}},
	{name: "dumpcap", quiet: 1100 * time.Millisecond, command: func(out string) (string, []string) {
		return "dumpcap", []string{"-i", rxName, "-q", "-B", "128", "-w", out}
	}},
}

// contest is one tool at one mix.
type contest struct {
	*tool
	cpu, loss, kpps, rss series

	lossless, lossy float64 // kpps: the most that it took whole, the least that it did not
	bound           bool    // the generator could do no more
	broken          error
}

func (b *bench) capture(ctx context.Context) error {
	l, err := newLab()
	if err != nil {
		if errors.Is(err, errNotPermitted) {
			b.note("capture is left out: it %v", err)
			return nil
		}
		return err
	}
	defer l.close()
	l.limit = 2500 * time.Millisecond
	if b.quick {
		l.limit = 1500 * time.Millisecond
	}
	var use []*tool
	for _, t := range tools {
		if b.tools != nil && !slices.Contains(b.tools, t.name) {
			continue
		}
		if !t.ours && (b.quick && t.name != "tcpdump" || !b.has(t.name)) {
			continue
		}
		use = append(use, t)
	}
	if b.quick {
		b.note("-quick: capture is compared with tcpdump alone")
	}
	for i, m := range b.mixes {
		mix := nettest.Mix(m)
		if err := l.do(func() error { return l.setMix(mix) }); err != nil {
			return err
		}
		var all []*contest
		for _, t := range use {
			c := &contest{tool: t}
			for _, s := range []*series{&c.cpu, &c.loss, &c.kpps, &c.rss} {
				s.tool = t.name
			}
			all = append(all, c)
		}
		if err := b.contest(ctx, l, mix, all, captureShare*float64(i+1)/float64(len(b.mixes))); err != nil {
			return err
		}
		b.captureRows(mix, all)
	}
	return nil
}

// captureShare is how much of the time of a run capture may take.
const captureShare = 0.72

// pace is the rate of the paced runs in packets a second: what every tool but dumpcap takes without loss.
const pace = 1_300_000

// contest lets the tools capture in turns: paced, then as fast as it goes. When share of the time is over, the rest of
// the repeats is left out.
func (b *bench) contest(ctx context.Context, l *lab, mix nettest.Mix, all []*contest, share float64) error {
	paced, flood, rounds := uint64(2_600_000), uint64(4_000_000), 3
	if b.quick {
		paced, flood, rounds = 1_300_000, 2_000_000, 2
	}
	for range 3 {
		if b.late(share) {
			break
		}
		for _, c := range all {
			tr, err := b.try(ctx, l, c, paced, pace)
			if err != nil {
				return err
			}
			if c.broken != nil || tr.stored == 0 {
				continue
			}
			c.cpu.add(tr.use.cpu.Seconds() / float64(tr.stored) * 1e6)
			c.loss.add(100 * (1 - float64(tr.stored)/float64(tr.sent)))
			c.rss.add(float64(tr.use.rss) / (1 << 20))
		}
	}
	for range rounds {
		if b.late(share) {
			return nil
		}
		for _, c := range all {
			rate := uint64(0)
			if c.lossy > 0 { // between what was whole and what was not
				low := c.lossless
				if low == 0 {
					low = c.lossy / 3
				}
				rate = uint64((low + c.lossy) / 2 * 1e3)
			}
			tr, err := b.try(ctx, l, c, flood, rate)
			if err != nil {
				return err
			}
			switch {
			case c.broken != nil:
			case tr.stored == tr.sent:
				c.lossless = max(c.lossless, tr.kpps)
				if rate == 0 {
					c.bound = true
					c.kpps.add(tr.kpps)
				}
			case c.bound: // a stall that came once: the figure stands, the loss is said
				b.note("capture %s unpaced: %s lost %.2f %% in one run and nothing in another", mix, c.name, 100*(1-float64(tr.stored)/float64(tr.sent)))
			default:
				if c.lossy == 0 || tr.kpps < c.lossy {
					c.lossy = tr.kpps
				}
			}
		}
	}
	return nil
}

// try is one capture and its count. A tool that fails is out; only an interrupt or a broken lab is an error.
func (b *bench) try(ctx context.Context, l *lab, c *contest, count, rate uint64) (trial, error) {
	if c.broken != nil || ctx.Err() != nil {
		return trial{}, ctx.Err()
	}
	out := b.file("capture")
	os.RemoveAll(out)
	os.Remove(out + ".pcap")
	tr, p, err := l.run(ctx, c.tool, out, count, rate)
	if err != nil {
		if ctx.Err() != nil {
			return trial{}, ctx.Err()
		}
		if c.ours {
			return trial{}, err
		}
		c.broken = err
		b.note("%s failed and is left out: %v", c.name, err)
		return trial{}, nil
	}
	if tr.stored, err = countStored(out); err != nil {
		return trial{}, fmt.Errorf("count what %s stored: %w", c.name, err)
	}
	os.RemoveAll(out)
	os.Remove(out + ".pcap")
	if c.ours {
		if err := b.audit(p, &tr); err != nil {
			return trial{}, err
		}
	}
	b.logf("%-11s %-4s rate %-8d sent %d at %.0f kpps, stored %d (lost %d), %.4f CPU s/M, %d MiB", c.name, l.mix, rate, tr.sent, tr.kpps,
		tr.stored, tr.sent-tr.stored, tr.use.cpu.Seconds()/float64(max(tr.stored, 1))*1e6, tr.use.rss>>20)
	return tr, nil
}

// audit compares our ledger with the truth: what the generator delivered and what the files hold.
func (b *bench) audit(p *process, tr *trial) error {
	var a ledger.Account
	if err := json.Unmarshal(p.out.Bytes(), &a); err != nil {
		return fmt.Errorf("read our ledger: %w", err)
	}
	if err := a.Check(); err != nil {
		return err
	}
	if a.Seen != tr.sent || a.Captured != tr.stored {
		return fmt.Errorf("our ledger is wrong: seen %d of %d sent, captured %d of %d in the files", a.Seen, tr.sent, a.Captured, tr.stored)
	}
	if d := a.DroppedTotal(); d > 0 {
		b.logf("ledger: %d lost in the ring, %d to the disk", a.Dropped[ledger.Ring], a.Dropped[ledger.Disk])
	}
	return nil
}

// countStored counts the packets in what a tool wrote: a file, or a recording's directory.
func countStored(out string) (uint64, error) {
	files, err := filepath.Glob(filepath.Join(out, "*.pcapng"))
	if err != nil {
		return 0, err
	}
	if len(files) == 0 {
		if _, err := os.Stat(out); err != nil {
			out += ".pcap"
		}
		files = []string{out}
	}
	var n uint64
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return 0, err
		}
		k, err := countPackets(bufio.NewReaderSize(f, 1<<20))
		f.Close()
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		n += k
	}
	return n, nil
}

func countPackets(r io.Reader) (uint64, error) {
	d, err := pcap.NewReader(r)
	if err != nil {
		return 0, err
	}
	var p pcap.Packet
	for n := uint64(0); ; n++ {
		if err := d.Next(&p); err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, err
		}
	}
}

func (b *bench) captureRows(mix nettest.Mix, all []*contest) {
	name := "64 B"
	if mix == nettest.MixIMIX {
		name = "IMIX"
	}
	cpu := row{task: "capture " + name + ", 1.3 M packets/s", unit: "CPU s per M packets", better: lower, digits: 3}
	rss := row{task: "capture " + name + ", memory", unit: "MiB, ring included", better: lower}
	rate := row{task: "capture " + name + ", as fast as it goes", unit: "lossless kpps", better: higher}
	for _, c := range all {
		if c.broken != nil {
			continue
		}
		_, _, most := stats(c.loss.values)
		lost := "nothing lost"
		if most > 0 {
			_, mid, _ := stats(c.loss.values)
			lost = fmt.Sprintf("lost %.2f %% (median), %.2f %% (most)", mid, most)
		}
		if c.ours {
			lost = joinNotes(lost, "ledger = truth")
		}
		c.cpu.extra = lost
		switch {
		case c.bound:
			c.kpps.extra = "generator bound"
		case c.lossless > 0:
			c.kpps.values = []float64{c.lossless}
			c.kpps.extra = fmt.Sprintf("bisected, loss at %.0f", c.lossy)
		case c.lossy == 0: // no time left
		default:
			c.kpps.values = []float64{0}
			c.kpps.extra = fmt.Sprintf("no lossless run, loss at %.0f", c.lossy)
		}
		cpu.series = append(cpu.series, &c.cpu)
		rss.series = append(rss.series, &c.rss)
		rate.series = append(rate.series, &c.kpps)
	}
	b.rows = append(b.rows, cpu, rate, rss)
}
