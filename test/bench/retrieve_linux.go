package main

import (
	"bufio"
	"context"
	"fmt"
	"os"

	"opentap/capture/query"
	"opentap/capture/segment"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// retrieve measures how fast a whole recording comes out as one pcapng file: both read from the page cache and write
// to /dev/null. The peer reads the same packets from a pcap file, its own format.
func (b *bench) retrieve(ctx context.Context) error {
	octets := int64(1 << 30)
	if b.quick {
		octets = 256 << 20
	}
	dir, file := b.file("recording"), b.file("recording.pcap")
	defer os.RemoveAll(dir)
	defer os.Remove(file)
	packets, err := writeRecording(dir, file, octets)
	if err != nil {
		return err
	}
	wall := row{task: fmt.Sprintf("retrieve %d MiB, %.1f M packets", octets>>20, float64(packets)/1e6), unit: "GB/s", better: higher, digits: 2}
	cpu := row{task: "the same, CPU", unit: "CPU s per GB", better: lower, digits: 3}
	runs := []struct {
		name string
		run  func() (usage, error)
	}{
		{"opentap", func() (usage, error) { _, u, err := runSelf(ctx, childRetrieve, dir); return u, err }},
		{"tcpdump -r -w", func() (usage, error) {
			_, u, err := runTool(ctx, "tcpdump", "-r", file, "--time-stamp-precision=nano", "-Z", "root", "-w", "/dev/null")
			return u, err
		}},
	}
	if !b.has("tcpdump") {
		runs = runs[:1]
	}
	for _, r := range runs {
		wall.series = append(wall.series, &series{tool: r.name})
		cpu.series = append(cpu.series, &series{tool: r.name})
	}
	for range 5 {
		for i, r := range runs {
			u, err := r.run()
			if err != nil {
				return err
			}
			gb := float64(octets) / 1e9
			wall.series[i].add(gb / u.wall.Seconds())
			cpu.series[i].add(u.cpu.Seconds() / gb)
			b.logf("%-13s %.2f GB/s, %.3f CPU s/GB", r.name, gb/u.wall.Seconds(), u.cpu.Seconds()/gb)
		}
	}
	wall.series[0].extra = "checksums verified"
	b.rows = append(b.rows, wall, cpu)
	return nil
}

// writeRecording makes a recording of about so many octets, and a pcap file with the same packets.
func writeRecording(dir, file string, octets int64) (packets int, err error) {
	cfg := segment.DefaultConfig(dir)
	cfg.Direct, cfg.NoSync = false, true // so that it is in the page cache
	cfg.Interface = pcap.Interface{Name: "bench", Link: packet.LinkEthernet}
	w, err := segment.Create(cfg)
	if err != nil {
		return 0, err
	}
	f, err := os.Create(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	out := bufio.NewWriterSize(f, 1<<20)
	buf := pcap.AppendClassicHeader(nil, packet.LinkEthernet, 65535, true)
	lengths := []int{64, 590, 64, 64, 590, 1514, 64, 590, 64, 64, 590, 64}
	frame := make([]byte, 1514)
	for written := int64(0); written < octets; packets++ {
		d := frame[:lengths[packets%len(lengths)]]
		d[40] = byte(packets)
		ts := packet.Timestamp(1_700_000_000_000_000_000 + packets*1000)
		for !w.Append(ts, uint32(len(d)), d, pcap.DirectionIn) {
			if err := w.Flush(); err != nil {
				return 0, err
			}
		}
		buf = pcap.AppendClassicPacket(buf, ts, uint32(len(d)), d, true)
		if _, err := out.Write(buf); err != nil {
			return 0, err
		}
		buf = buf[:0]
		written += int64(pcap.PacketSize(len(d), pcap.DirectionIn))
	}
	if err := w.Close(ledger.Account{}); err != nil {
		return 0, err
	}
	if err := out.Flush(); err != nil {
		return 0, err
	}
	return packets, f.Close()
}

// runRetrieve writes a recording to /dev/null as the agent writes it to a client.
func runRetrieve(dir string) error {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	p, err := query.New([]query.Source{{Name: "bench", Interface: pcap.Interface{Name: "bench", Link: packet.LinkEthernet}, Dir: dir}},
		query.Window{}, query.PcapNG, query.Meta{})
	if err != nil {
		return err
	}
	// Not the file itself: the plan shall write through Write, as to a connection.
	if err := p.WriteTo(context.Background(), struct{ writer }{null}, 0, -1); err != nil {
		return err
	}
	if r := p.Result(); r.CorruptChunks > 0 || r.Packets == 0 {
		return fmt.Errorf("retrieved %d packets, %d corrupt chunks", r.Packets, r.CorruptChunks)
	}
	return nil
}

type writer interface{ Write([]byte) (int, error) }
