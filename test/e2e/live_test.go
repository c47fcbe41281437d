package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/internal/nettest"
)

// lockedBuffer is written by one goroutine and read by another.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

// program is one that runs beside the test.
type program struct {
	cmd         *exec.Cmd
	out, stderr lockedBuffer
	done        chan error
}

// run starts a program inside the namespace.
func (d *daemon) run(env []string, name string, args ...string) *program {
	d.t.Helper()
	p := &program{cmd: exec.Command(name, args...), done: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.stderr
	p.cmd.Env = append(append(os.Environ(), "TZ=UTC", "LC_ALL=C", "OPENTAP_URL="+d.url(), "OPENTAP_TOKEN="+d.token), env...)
	p.cmd.Dir = filepath.Dir(d.log)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	d.ns.Do(func() { err = p.cmd.Start() })
	if err != nil {
		d.t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	d.t.Cleanup(func() { _ = p.cmd.Process.Kill(); err := <-p.done; p.done <- err })
	return p
}

// end waits for the program's end and returns its error.
func (p *program) end(t testing.TB) error {
	t.Helper()
	select {
	case err := <-p.done:
		p.done <- err
		return err
	case <-time.After(await.Patience):
		t.Fatalf("%v does not end\n%s", p.cmd.Args, p.stderr.Bytes())
		return nil
	}
}

func TestNetnsLiveStreamIsWhole(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	p := d.run(nil, clientBin, "live", "tap0", "udp", "port", "53")
	await.Until(t, "the stream has begun", func() bool { return len(p.out.Bytes()) > 0 })
	noise, sent := plain(5000, 300, 99), plain(0, 300, 53)
	l.Send(noise...)
	l.Send(sent...)
	await.Until(t, "all packets have come while it runs", func() bool { return bytes.Count(p.out.Bytes(), []byte("open\x00\x00")) == 300 })
	await.Until(t, "the account has come", func() bool { return bytes.Contains(p.out.Bytes(), []byte("seen 600 = captured 300 + filtered 300")) })
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := p.end(t); err != nil {
		t.Errorf("Ctrl-C: %v\n%s", err, p.stderr.Bytes())
	}
	sameFrames(t, packetsIn(t, p.out.Bytes()), sent, 0)
	file := d.file("live.pcapng")
	if err := os.WriteFile(file, p.out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := statistics(t, file); s.interfaces != 1 || s.received != 600 || s.accepted != 300 || s.dropped != 0 {
		t.Errorf("statistics: %+v", s)
	}
	if s := string(p.stderr.Bytes()); !strings.Contains(s, "300 packets") || !strings.Contains(s, "600 seen, 300 captured") || !strings.Contains(s, "300 filtered") {
		t.Errorf("stderr: %s", s)
	}
	if out := d.ask(200, "GET", "/v1/captures", nil); strings.Contains(string(out.Body), `"id"`) {
		t.Errorf("something was stored: %s", out.Body)
	}
}

func TestNetnsLiveEndsByItself(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	file := d.file("ten.pcapng")
	p := d.run(nil, clientBin, "live", "tap0", "lo", "udp port 53", "--packets", "10", "--snap", "60", "-w", file)
	await.Until(t, "the stream has begun", func() bool { b, _ := os.ReadFile(file); return len(b) > 0 })
	sent := plain(0, 30, 53)
	l.Send(sent...)
	if err := p.end(t); err != nil {
		t.Fatalf("%v\n%s", err, p.stderr.Bytes())
	}
	sameFrames(t, packetsOf(t, file), sent[:10], 60)
	if s := statistics(t, file); s.interfaces != 2 {
		t.Errorf("statistics: %+v", s)
	}
	started := time.Now()
	d.must("live", "tap0", "--duration", "500ms", "-w", file)
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("half a second took %v", took)
	}
	if n := capinfosCount(t, file); n != 0 {
		t.Errorf("%d packets", n)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"live", "tap9"}, 4, "tap9"},
		{[]string{"live", "tap0", "porrt 53"}, 1, "^"},
		{[]string{"live", "tap0", "--past", "10s"}, 1, "recorded"},
		{[]string{"live", "tap0", "--snap", "3"}, 1, "snap"},
		{[]string{"--token", "wrong", "live", "tap0"}, 3, "token"},
	} {
		if r := d.opentap(c.args...); r.code != c.code || !strings.Contains(r.stderr, c.says) || r.stdout != "" {
			t.Errorf("opentap %q: exit code %d, want %d: %s", c.args, r.code, c.code, r.stderr)
		}
	}
}

func TestNetnsLivePastJoinsThePresent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "recorders:\n  - point: tap0\n    bytes: 64MiB\n")
	await.Until(t, "the recorder runs", func() bool {
		return strings.Contains(string(d.ask(200, "GET", "/v1/nodes", nil).Body), `"recorders":{"tap0"`)
	})
	sent := plain(0, 200, 53)
	l.Send(sent[:100]...)
	stop, stopped := make(chan struct{}), make(chan struct{})
	next := 100
	go func() { // packets come all the time, also where the past ends
		defer close(stopped)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				more := plain(next, 1, 53)
				if next >= 200 {
					sent = append(sent, more...)
				}
				l.Send(more...)
				next++
			}
		}
	}()
	p := d.run(nil, clientBin, "live", "tap0", "udp port 53", "--past", "1m", "--packets", "800")
	err := p.end(t)
	close(stop)
	<-stopped
	if err != nil {
		t.Fatalf("%v\n%s", err, p.stderr.Bytes())
	}
	sameFrames(t, packetsIn(t, p.out.Bytes()), sent[:800], 0)
}

// fat makes frames that fill buffers quickly.
func fat(n int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = nettest.Packet{SrcPort: 4000, DstPort: 77, Payload: numbered(i, 1400)}.Bytes()
	}
	return out
}

func TestNetnsAStalledLiveReaderHarmsNobody(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	req, err := http.NewRequest("GET", d.url()+"/v1/live?point=tap0&packets=1000000", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+d.token)
	web := &http.Client{Transport: d.web.Transport}
	resp, err := web.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	defer resp.Body.Close()
	const frames = 40_000 // 57 MB: more than all buffers on the way to the stalled reader
	file := d.file("healthy.pcapng")
	healthy := d.run(nil, clientBin, "live", "tap0", "udp port 77", "--packets", strconv.Itoa(frames), "-w", file)
	await.Until(t, "the other stream has begun", func() bool { b, _ := os.ReadFile(file); return len(b) > 0 })
	id := strings.TrimSpace(d.must("capture", "pcap", "--point", "tap0", "--filter", "udp port 77", "--detach"))

	batch := fat(1000)
	for i := range frames / len(batch) {
		l.Send(batch...)
		await.Until(t, "the healthy reader keeps up", func() bool { return size(t, file) > i*len(batch)*1400 }) // at any speed of this machine
	}
	if err := healthy.end(t); err != nil || capinfosCount(t, file) != frames {
		t.Errorf("the healthy reader: %v, %d packets\n%s", err, capinfosCount(t, file), healthy.stderr.Bytes())
	}
	d.must("stop", id)
	var led struct {
		Ledger account `json:"ledger"`
	}
	d.ask(200, "GET", capturePath(id)+"/ledger", nil).decode(t, &led)
	if led.Ledger.Captured != frames || led.Ledger.DroppedTotal != 0 {
		t.Errorf("the capture beside it: %+v", led.Ledger)
	}

	// Now the stalled one reads on, and is told what it missed.
	var b bytes.Buffer
	re := regexp.MustCompile(`seen (\d+) = captured (\d+) .*dropped (\d+) \(slow_reader (\d+)\)`)
	chunk := make([]byte, 256<<10)
	var last [][]byte
	for deadline := time.Now().Add(await.Patience); ; {
		n, err := resp.Body.Read(chunk)
		b.Write(chunk[:n])
		if err != nil {
			t.Fatalf("after %d octets: %v", b.Len(), err)
		}
		if all := re.FindAllSubmatch(b.Bytes()[max(0, b.Len()-len(chunk)-4096):], -1); len(all) > 0 {
			if last = all[len(all)-1]; string(last[1]) == strconv.Itoa(frames) {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is not told of %d packets; last: %q", frames, last)
		}
	}
	_ = resp.Body.Close()
	captured, _ := strconv.Atoi(string(last[2]))
	dropped, _ := strconv.Atoi(string(last[3]))
	slow, _ := strconv.Atoi(string(last[4]))
	if got := bytes.Count(b.Bytes(), []byte("open\x00\x00")); slow == 0 || dropped != slow || captured+slow != frames || got != captured {
		t.Errorf("%d packets came; told: captured %d, dropped %d, slow reader %d", got, captured, dropped, slow)
	}
}

func TestNetnsLiveIntoTshark(t *testing.T) {
	t.Parallel()
	needTool(t, "tshark")
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	p := d.run(nil, "sh", "-c", clientBin+` live tap0 udp port 53 | tshark -l -n -r - -c 5 -T fields -e udp.srcport -e frame.interface_name`)
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				l.Send(plain(n, 1, 53)...)
			}
		}
	}()
	err := p.end(t) // tshark ends after five, and live with it
	close(stop)
	<-stopped
	if out := string(p.out.Bytes()); err != nil || strings.Count(out, "4000\ttap0\n") != 5 {
		t.Errorf("%v: %s\n%s", err, out, p.stderr.Bytes())
	}
}

func TestNetnsExtcapInTshark(t *testing.T) {
	t.Parallel()
	needTool(t, "tshark")
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	home := t.TempDir()
	tokenFile := filepath.Join(home, "token")
	if err := os.WriteFile(tokenFile, []byte(d.token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"HOME=" + home, "XDG_CONFIG_HOME=", "OPENTAP_TOKEN=", "OPENTAP_URL="}
	if r := d.execEnv(env, clientBin, "extcap", "install", "--url", d.url(), "--token-file", tokenFile); r.code != 0 {
		t.Fatal(r)
	}
	var nodes struct {
		Nodes []struct {
			Name string `json:"name"`
		} `json:"nodes"`
	}
	d.ask(200, "GET", "/v1/nodes", nil).decode(t, &nodes)
	face := "opentap:" + nodes.Nodes[0].Name + "/tap0"
	if r := d.execEnv(env, "tshark", "-D"); r.code != 0 || !strings.Contains(r.stdout, face+" (OpenTap: tap0 on "+nodes.Nodes[0].Name+")") {
		t.Fatalf("tshark -D: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				l.Send(append(plain(n, 1, 53), plain(n, 1, 99)...)...)
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	p := d.run(env, "tshark", "-n", "-i", face, "-f", "udp port 53", "-c", "7", "-T", "fields", "-e", "udp.dstport", "-e", "frame.len")
	if err := p.end(t); err != nil || strings.Count(string(p.out.Bytes()), "53\t142\n") != 7 || strings.Contains(string(p.out.Bytes()), "99\t") {
		t.Errorf("tshark -i: %v\n%s%s", err, p.out.Bytes(), p.stderr.Bytes())
	}
	if r := d.execEnv(env, "tshark", "-i", face, "-f", "udp port nonsense", "-c", "1"); r.code == 0 || !strings.Contains(r.stderr, "nonsense") {
		t.Errorf("a wrong filter: %d\n%s", r.code, r.stderr)
	}
	if r := d.execEnv(env, "tshark", "-o", "extcap.opentap.point:tap0", "-i", "opentap", "-c", "1"); r.code != 0 {
		t.Errorf("the point by its option: %d\n%s", r.code, r.stderr)
	}
	await.Until(t, "no stream is left at the server", func() bool {
		out := string(output(t, "sh", "-c", fmt.Sprintf("ps -eo args | grep -c '[o]pentap-extcap.*%s' || true", home)))
		return strings.TrimSpace(out) == "0"
	})
	if r := d.execEnv(env, clientBin, "extcap", "uninstall"); r.code != 0 {
		t.Error(r)
	}
	if r := d.execEnv(env, "tshark", "-D"); strings.Contains(r.stdout, "opentap") {
		t.Errorf("after uninstall:\n%s", r.stdout)
	}
}
