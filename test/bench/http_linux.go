package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"opentap/packet"
)

// Where the servers of this part listen, in the lab's network namespace.
const (
	httpOurs  = "127.0.0.1:2020"
	httpLimit = "127.0.0.1:2021"
	httpPlain = "127.0.0.1:2022"
)

// httpHalf takes every second packet, so that no index helps.
const httpHalf = "src host " + queryTo

// http measures downloads from a daemon over loopback: of a whole capture, beside servers that hand out a file as it is, and
// of packets that are asked for by a filter, from the request to the last octet.
func (b *bench) http(ctx context.Context) error {
	octets := int64(1 << 30)
	if b.quick {
		octets = 256 << 20
	}
	for _, program := range []string{"curl", "go"} {
		if !b.has(program) {
			return nil
		}
	}
	l, err := newLab()
	if err != nil {
		b.note("downloads over HTTP are left out: %v", err)
		return nil
	}
	defer l.close()
	data, files := b.file("data"), b.file("files")
	defer os.RemoveAll(data)
	defer os.RemoveAll(files)
	if err := os.MkdirAll(filepath.Join(data, "captures", "recordings"), 0o750); err != nil {
		return err
	}
	if err := os.Mkdir(files, 0o755); err != nil {
		return err
	}
	file := filepath.Join(files, "all.pcap")
	packets, span, err := writeSearched(filepath.Join(data, "captures", "recordings", rxName), file, octets)
	if err != nil {
		return err
	}
	h := &webLab{b: b, lab: l, to: flowsBegin + packet.Timestamp(span) + 1}
	if err := h.start(ctx, data, files); err != nil {
		return err
	}
	defer h.stop()
	if err := h.whole(ctx, file, fmt.Sprintf("download %d MiB over HTTP, %.1f M packets", octets>>20, float64(packets)/1e6)); err != nil {
		return err
	}
	if err := h.asked(ctx, file, httpHalf, "ask for every second of them and download"); err != nil {
		return err
	}
	return h.asked(ctx, file, "host "+queryLateHost, "ask for one host and download")
}

// webLab is the servers of this part.
type webLab struct {
	b       *bench
	lab     *lab
	to      packet.Timestamp // end of what is recorded
	token   string
	running []*process
	asks    int
}

// start starts ours with the recording, and the others with the file, and waits until they answer.
func (h *webLab) start(ctx context.Context, data, files string) error {
	program, config := h.b.file("opentapd"), h.b.file("opentapd.yaml")
	if _, _, err := runTool(ctx, "go", "build", "-trimpath", "-o", program, "./cmd/opentapd"); err != nil {
		return err
	}
	text := fmt.Sprintf("name: bench\nlisten: %s\ndata_dir: %s\nrecorders:\n  - {point: %s, bytes: 8GiB}\n", httpOurs, data, rxName)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	commands := [][]string{{program, "--config", config}, {"/proc/self/exe", childServe, httpLimit, files}}
	if h.b.has("python3") {
		address, port, _ := strings.Cut(httpPlain, ":")
		commands = append(commands, []string{"python3", "-m", "http.server", "--bind", address, "--directory", files, port})
	}
	return h.lab.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		for i, c := range commands {
			p, err := start(ctx, c[0], c[1:]...)
			if err != nil {
				return err
			}
			h.running = append(h.running, p)
			url := "http://" + []string{httpOurs + "/healthz", httpLimit, httpPlain}[i]
			for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				if _, _, err = runTool(ctx, "curl", "--silent", "--output", "/dev/null", url); err == nil {
					break
				}
				if ctx.Err() != nil || !p.alive() || time.Now().After(deadline) {
					return fmt.Errorf("%s does not answer: %s", c[0], strings.TrimSpace(p.err.String()))
				}
			}
		}
		token, err := os.ReadFile(filepath.Join(data, "admin.token"))
		h.token = strings.TrimSpace(string(token))
		return err
	})
}

func (h *webLab) stop() {
	for _, p := range h.running {
		_, _ = p.finish() // what they say at the end is not asked
	}
}

// curl asks ours. Called on the lab's thread.
func (h *webLab) curl(ctx context.Context, path string, args ...string) (*process, usage, error) {
	args = append(args, "--silent", "--show-error", "--fail-with-body", "--oauth2-bearer", h.token, "http://"+httpOurs+path)
	return runTool(ctx, "curl", args...)
}

// ask creates a capture of what is recorded and waits until its packets are counted. Called on the lab's thread.
func (h *webLab) ask(ctx context.Context, filter string) (id string, err error) {
	h.asks++
	id = fmt.Sprintf("bench-%d", h.asks)
	body, err := json.Marshal(map[string]any{
		"id": id, "kind": "pcap", "points": []string{rxName}, "filter": filter, "from": flowsBegin.Time(), "to": h.to.Time(),
	})
	if err != nil {
		return "", err
	}
	p, _, err := h.curl(ctx, "/v1/captures", "--header", "Content-Type: application/json", "--data", string(body))
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, p.out.String())
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		p, _, err := h.curl(ctx, "/v1/captures/"+id)
		if err != nil {
			return "", err
		}
		var v struct {
			Status struct{ State, Reason string }
		}
		if err := json.Unmarshal(p.out.Bytes(), &v); err != nil {
			return "", err
		}
		switch {
		case v.Status.State == "done":
			return id, nil
		case v.Status.State == "failed" || time.Now().After(deadline):
			return "", fmt.Errorf("capture %s is %s: %s", id, v.Status.State, v.Status.Reason)
		}
	}
}

// whole downloads everything, from each in turns.
func (h *webLab) whole(ctx context.Context, file, task string) error {
	wall := row{task: task, unit: "GB/s", better: higher, digits: 2}
	cpu := row{task: "the same, CPU of the server", unit: "CPU s per GB", better: lower, digits: 3}
	for i, name := range []string{"opentap", "limit: net/http, sendfile", "python3 http.server"}[:len(h.running)] {
		wall.series = append(wall.series, &series{tool: name})
		if i < 2 { // the other may be a script that starts the server
			cpu.series = append(cpu.series, &series{tool: name})
		}
	}
	wall.series[0].extra = "checksums verified"
	tcpdump := &series{tool: "tcpdump -r -w", extra: "no HTTP"}
	err := h.lab.do(func() error {
		id, err := h.ask(ctx, "")
		if err != nil {
			return err
		}
		urls := []string{"http://" + httpOurs + "/v1/captures/" + id + "/data", "http://" + httpLimit + "/" + filepath.Base(file), "http://" + httpPlain + "/" + filepath.Base(file)}
		for range 5 {
			for i, p := range h.running {
				before := p.cpu()
				args := []string{"--silent", "--fail", "--output", "/dev/null", "--write-out", "%{size_download}", urls[i]}
				if i == 0 {
					args = append(args, "--oauth2-bearer", h.token)
				}
				c, u, err := runTool(ctx, "curl", args...)
				if err != nil {
					return err
				}
				var octets float64
				if _, err := fmt.Sscan(c.out.String(), &octets); err != nil || octets < 1e6 {
					return fmt.Errorf("%s gave %q octets", p.name, c.out.String())
				}
				wall.series[i].add(octets / 1e9 / u.wall.Seconds())
				if i < len(cpu.series) {
					cpu.series[i].add((p.cpu() - before).Seconds() / (octets / 1e9))
				}
				h.b.logf("%-26s %.2f GB/s", wall.series[i].tool, octets/1e9/u.wall.Seconds())
			}
			if h.b.has("tcpdump") {
				st, err := os.Stat(file)
				if err != nil {
					return err
				}
				_, u, err := runTool(ctx, "tcpdump", "-r", file, "--time-stamp-precision=nano", "-Z", "root", "-w", "/dev/null")
				if err != nil {
					return err
				}
				tcpdump.add(float64(st.Size()) / 1e9 / u.wall.Seconds())
			}
		}
		return nil
	})
	wall.series = append(wall.series, tcpdump)
	h.b.rows = append(h.b.rows, wall, cpu)
	return err
}

// asked asks for what a filter takes and downloads it, each time anew, beside tcpdump on the file of the same packets.
func (h *webLab) asked(ctx context.Context, file, filter, task string) error {
	ours, theirs := &series{tool: "opentap"}, &series{tool: "tcpdump -r -w", extra: "no HTTP"}
	err := h.lab.do(func() error {
		for range 5 {
			began := time.Now()
			id, err := h.ask(ctx, filter)
			if err != nil {
				return err
			}
			p, _, err := h.curl(ctx, "/v1/captures/"+id+"/data", "--output", "/dev/null", "--write-out", "%{size_download}")
			if err != nil {
				return err
			}
			ours.add(time.Since(began).Seconds() * 1e3)
			ours.extra = p.out.String() + " octets"
			if h.b.has("tcpdump") {
				_, u, err := runTool(ctx, "tcpdump", "-r", file, "--time-stamp-precision=nano", "-Z", "root", "-w", "/dev/null", filter)
				if err != nil {
					return err
				}
				theirs.add(u.wall.Seconds() * 1e3)
			}
		}
		return nil
	})
	h.b.rows = append(h.b.rows, row{task: task, unit: "ms", better: lower, digits: 1, series: []*series{ours, theirs}})
	return err
}

// runServe hands out the files of a directory.
func runServe(address, dir string) error {
	return http.ListenAndServe(address, http.FileServer(http.Dir(dir)))
}
