package sshapi_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"opentap/api/doortest"
	"opentap/api/sshapi"
	"opentap/pcap"
	"opentap/want"
)

// tool skips the test when Debian's program is not there.
func tool(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s (Debian: openssh-client, tshark)", name)
		}
	}
}

// known writes the file of hosts that a client knows.
func (d *door) known(key string) string {
	_, port, _ := net.SplitHostPort(d.addr)
	path := filepath.Join(d.t.TempDir(), "known_hosts")
	if err := os.WriteFile(path, []byte("[127.0.0.1]:"+port+" "+key+"\n"), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

func (d *door) hostLine() string {
	return d.host.PublicKey().Type() + " " + strings.Fields(publicLine(d.host))[1]
}

// options are what ssh and sftp are told on the command line.
func (d *door) options(key, known string) []string {
	return []string{
		"-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + known,
		"-o", "GlobalKnownHostsFile=/dev/null", "-o", "IdentityAgent=none", "-i", key,
	}
}

// ssh runs OpenSSH's client.
func (d *door) ssh(args ...string) (stdout, stderr string, code int) {
	d.t.Helper()
	_, port, _ := net.SplitHostPort(d.addr)
	all := append(d.options(d.key, d.known(d.hostLine())), "-p", port, "someone@127.0.0.1")
	return command(d.t, exec.Command("ssh", append(all, args...)...))
}

func command(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestOpenSSH(t *testing.T) {
	tool(t, "ssh")
	d := open(t, nil)
	d.ctl.Payload = make([]byte, 3<<20)
	_, _ = rand.Read(d.ctl.Payload)
	if out, errs, code := d.ssh("capabilities"); code != 0 || !strings.Contains(out, "virgo") || errs != "" {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	if out, errs, code := d.ssh("capture", "pcap", "-d", "5s", "--id", "one"); code != 0 || out != string(d.ctl.Payload) || !strings.Contains(errs, "captured") {
		t.Errorf("exit %d, %d octets: %s", code, len(out), errs)
	}
	for _, tt := range []struct {
		args []string
		code int
		errs string
	}{
		{[]string{"bash"}, 2, "no verb"},
		{[]string{"retrieve", "none"}, 4, "no capture"},
		{nil, 2, "no shell here"},
		{[]string{"-tt", "points"}, 255, "PTY allocation request failed"}, // insisted upon, and not given
		{[]string{"live", "eth0", "'bogus"}, 2, "quote"},
	} {
		// Options of ssh go before the host; the last ones stand for it here.
		args := append(d.options(d.key, d.known(d.hostLine())), "-p", d.addr[strings.LastIndexByte(d.addr, ':')+1:])
		rest := tt.args
		if len(rest) > 0 && rest[0] == "-tt" {
			args, rest = append(args, "-tt"), rest[1:]
		}
		_, errs, code := command(t, exec.Command("ssh", append(append(args, "me@127.0.0.1"), rest...)...))
		if code != tt.code || !strings.Contains(errs, tt.errs) {
			t.Errorf("%q: exit %d: %s", tt.args, code, errs)
		}
	}
}

// TestOpenSSHAtATerminal opens a session as a person does: ssh asks for a terminal, gets none, and goes on.
func TestOpenSSHAtATerminal(t *testing.T) {
	tool(t, "ssh", "script")
	d := open(t, nil)
	line := "ssh"
	for _, a := range append(d.options(d.key, d.known(d.hostLine())), "-p", d.addr[strings.LastIndexByte(d.addr, ':')+1:], "me@127.0.0.1") {
		line += " " + sshapi.Quote(a)
	}
	out, errs, code := command(t, exec.Command("script", "-qec", line, "/dev/null"))
	if code != 2 || !strings.Contains(out, "no shell here") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

func TestOpenSSHRefused(t *testing.T) {
	tool(t, "ssh")
	d := open(t, nil)
	_, port, _ := net.SplitHostPort(d.addr)
	stranger := filepath.Join(d.dir, "stranger")
	_, other := newKey(t, stranger)
	_, errs, code := command(t, exec.Command("ssh", append(d.options(stranger, d.known(d.hostLine())), "-p", port, "me@127.0.0.1", "points")...))
	if code != 255 || !strings.Contains(errs, "Permission denied") {
		t.Errorf("wrong key: exit %d: %s", code, errs)
	}
	_, errs, code = command(t, exec.Command("ssh", append(d.options(d.key, d.known(other)), "-p", port, "me@127.0.0.1", "points")...))
	if code != 255 || !strings.Contains(errs, "IDENTIFICATION HAS CHANGED") {
		t.Errorf("wrong host key: exit %d: %s", code, errs)
	}
	ask := filepath.Join(d.dir, "ask")
	for token, want := range map[string]int{"admin": 0, "wrong": 255} {
		if err := os.WriteFile(ask, []byte("#!/bin/sh\necho "+token+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("ssh", "-F", "/dev/null", "-o", "UserKnownHostsFile="+d.known(d.hostLine()), "-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1",
			"-p", port, "me@127.0.0.1", "points")
		cmd.Env = append(os.Environ(), "SSH_ASKPASS="+ask, "SSH_ASKPASS_REQUIRE=force")
		_, errs, code := command(t, cmd)
		if code != want {
			t.Errorf("password %s: exit %d: %s", token, code, errs)
		}
	}
	if _, errs, code := d.ssh("-W"); code == 0 {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// TestOpenSSHInterrupted kills the client as Ctrl-C does: what it asked for ends.
func TestOpenSSHInterrupted(t *testing.T) {
	tool(t, "ssh")
	d := open(t, nil)
	ended := make(chan struct{})
	d.ctl.Live = func(ctx context.Context, w io.Writer) error {
		defer close(ended)
		_, _ = w.Write(doortest.LivePackets(1, 0))
		<-ctx.Done()
		return ctx.Err()
	}
	_, port, _ := net.SplitHostPort(d.addr)
	cmd := exec.Command("ssh", append(d.options(d.key, d.known(d.hostLine())), "-p", port, "me@127.0.0.1", "live", "eth0")...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 28)); err != nil {
		t.Error(err)
	}
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
	<-ended
}

func TestTshark(t *testing.T) {
	tool(t, "ssh", "tshark")
	d := open(t, nil)
	_, port, _ := net.SplitHostPort(d.addr)
	from := exec.Command("ssh", append(d.options(d.key, d.known(d.hostLine())), "-p", port, "me@127.0.0.1", "live", "eth0", "'port 53'", "--packets", "7")...)
	to := exec.Command("tshark", "-n", "-r", "-")
	var err error
	if to.Stdin, err = from.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	from.Stderr = &errs
	if err := from.Start(); err != nil {
		t.Fatal(err)
	}
	out, said, code := command(t, to)
	if err := from.Wait(); err != nil {
		t.Errorf("%v: %s", err, errs.String())
	}
	if code != 0 || strings.Count(out, "\n") != 7 {
		t.Errorf("exit %d: %s%s", code, out, said)
	}
	if q := d.ctl.LiveCalls()[0]; q.Filter != "port 53" {
		t.Errorf("asked for %+v", q)
	}
}

// TestSshdump runs Wireshark's extcap for remote hosts as Wireshark does, with our verb as the remote command.
func TestSshdump(t *testing.T) {
	tool(t, "ssh")
	found, _ := filepath.Glob("/usr/lib/*/wireshark/extcap/sshdump")
	if len(found) == 0 {
		t.Skip("needs Wireshark's sshdump (Debian: wireshark-common, tshark)")
	}
	d := open(t, nil)
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(d.known(d.hostLine()))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".ssh", "known_hosts"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(home, "capture")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(d.addr)
	cmd := exec.Command(found[0], "--capture", "--extcap-interface=sshdump", "--fifo="+file, "--remote-host=127.0.0.1", "--remote-port="+port,
		"--remote-username=me", "--sshkey="+d.key, "--remote-capture-command=live eth0 --packets 5")
	cmd.Env = append(os.Environ(), "HOME="+home)
	out, errs, code := command(t, cmd)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcap.NewReader(f)
	if err != nil {
		t.Fatalf("exit %d: %v: %s%s\n%s", code, err, out, errs, d.log.String())
	}
	var p pcap.Packet
	n := 0
	for r.Next(&p) == nil {
		n++
	}
	if n != 5 {
		t.Errorf("%d packets, exit %d: %s%s", n, code, out, errs)
	}
}

func TestOpenSSHsSFTP(t *testing.T) {
	tool(t, "sftp")
	d := open(t, nil)
	data := make([]byte, 9<<20+5)
	_, _ = rand.Read(data)
	d.ctl.Payload = data
	if _, _, err := d.ctl.CreateCapture(t.Context(), doortest.Everything, want.Request{ID: "one", Kind: want.Packets}); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(d.addr)
	dir := t.TempDir()
	sftp := func(batch string) (string, string, int) {
		cmd := exec.Command("sftp", append(d.options(d.key, d.known(d.hostLine())), "-P", port, "-b", "-", "me@127.0.0.1")...)
		cmd.Stdin = strings.NewReader(batch)
		cmd.Dir = dir
		return command(t, cmd)
	}
	if err := os.WriteFile(filepath.Join(dir, "part"), data[:4<<20], 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, code := sftp("ls -l\ncd captures\nls -l\nget one.pcapng\nget one.pcap\nreget one.pcapng part\n")
	if code != 0 || !strings.Contains(out, "9437189") {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	for _, name := range []string{"one.pcapng", "one.pcap", "part"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d octets, %v", name, len(got), err)
		}
	}
	for batch, says := range map[string]string{
		"put part captures/x.pcapng": "ermission denied", "rm captures/one.pcapng": "ermission denied", "mkdir x": "ermission denied",
		"get captures/none.pcapng": "not found", "rename captures/one.pcapng x": "ermission denied",
	} {
		if out, errs, code := sftp(batch + "\n"); code == 0 || !strings.Contains(errs+out, says) {
			t.Errorf("%s: exit %d: %s%s", batch, code, out, errs)
		}
	}
}
