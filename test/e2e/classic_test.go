//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"opentap/internal/await"
)

// The old clients are served unchanged: a Python program written as they were gets its three kinds of data.
func TestNetnsClassicClient(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const python = "/usr/bin/python3"
	if exec.Command(python, "-c", "import pandas").Run() != nil {
		t.Skip("needs Python with pandas")
	}
	sys := t.TempDir()
	chip := filepath.Join(sys, "class", "hwmon", "hwmon0")
	if err := os.MkdirAll(chip, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"name": "coretemp", "temp1_input": "21500"} {
		if err := os.WriteFile(filepath.Join(chip, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := newDaemon(t, l.near, "retention: {default: 60m}\npoints:\n  default: tap0\n  aliases: [{point: tap0, name: inside}]\n"+
		"sensors: {sysfs: "+sys+"}\nauth:\n  anonymous:\n    - {role: analyst, ranges: [127.0.0.0/8]}\n")
	script, err := filepath.Abs("testdata/classic.py")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, script, d.url())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.ns.Do(func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	hang := time.AfterFunc(await.Patience, func() { _ = cmd.Process.Kill() })
	defer hang.Stop()
	out := bufio.NewReader(stdout)
	line, _ := out.ReadString('\n')
	frames, octets := talk(800)
	if line == "ready\n" {
		tick := time.NewTicker(100 * time.Millisecond) // over several periods of the counters
		for i := 0; i < len(frames); i += 100 {
			l.Send(frames[i : i+100]...)
			<-tick.C
		}
		tick.Stop()
		_, _ = io.WriteString(stdin, "go\n")
	}
	rest, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the old client failed: %v\n%s%s", err, line, stderr.Bytes())
	}
	var got struct {
		Packets, Octets uint64
		Rx              int
		Warm            float64
	}
	if err := json.Unmarshal(rest, &got); err != nil {
		t.Fatalf("%v in %q", err, rest)
	}
	if got.Packets != 800 || got.Octets != octets || got.Warm != 21.5 || got.Rx < 1 || got.Rx > 800 {
		t.Errorf("the old client has %+v; 800 packets with %d octets were sent at 21.5 degrees", got, octets)
	}
}
