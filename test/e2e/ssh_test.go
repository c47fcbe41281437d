//go:build linux

package e2e

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"opentap/internal/await"
)

// ssher is a user with OpenSSH's programs.
type ssher struct {
	*daemon
	options []string
}

// newSSH starts a daemon with an SSH door that knows one user's key, and learns the server's as its administrator would.
func newSSH(t *testing.T, l *lab, role string) *ssher {
	t.Helper()
	needTool(t, "ssh", "sftp", "ssh-keygen", "tshark")
	dir := t.TempDir()
	key, users, known := filepath.Join(dir, "key"), filepath.Join(dir, "users"), filepath.Join(dir, "known_hosts")
	output(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice@laptop", "-f", key)
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(users, []byte("role="+role+",name=alice "+string(public)), 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDaemon(t, l.near, "ssh:\n  listen: 127.0.0.1:2222\n  authorized_keys: "+users+"\nflow: {idle_timeout: 500ms}\n")
	host := output(t, "ssh-keygen", "-y", "-f", filepath.Join(d.dir, "ssh", "host_ed25519"))
	if err := os.WriteFile(known, []byte("[127.0.0.1]:2222 "+host), 0o600); err != nil {
		t.Fatal(err)
	}
	return &ssher{d, []string{
		"-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=/dev/null", "-o", "IdentityAgent=none", "-i", key,
	}}
}

func (s *ssher) args(words ...string) []string {
	return append(append(append([]string{}, s.options...), "-p", "2222", "me@127.0.0.1"), words...)
}

func TestNetnsSSHLive(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := newSSH(t, l, "analyst")
	if r := s.exec("ssh", s.args("capabilities")...); r.code != 0 || !strings.Contains(r.stdout, "pcap") {
		t.Fatalf("capabilities: %d %s%s", r.code, r.stdout, r.stderr)
	}
	p := s.run(nil, "ssh", s.args("live", "tap0", "'udp port 53'")...)
	await.Until(t, "the stream has begun", func() bool { return len(p.out.Bytes()) > 0 })
	noise, sent := plain(5000, 300, 99), plain(0, 300, 53)
	l.Send(noise...)
	l.Send(sent...)
	await.Until(t, "all packets have come while it runs", func() bool { return bytes.Count(p.out.Bytes(), []byte("open\x00\x00")) == 300 })
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = p.end(t)
	sameFrames(t, packetsIn(t, p.out.Bytes()), sent, 0)

	// As people write it: a pipe into tshark, on lo, with what runs there.
	script := `ssh "$@" live lo "'udp port 53'" --packets 3 | tshark -n -r - 2>/dev/null`
	pipe := s.run(nil, "sh", append([]string{"-c", script, "sh"}, s.args()...)...)
	await.Until(t, "tshark has seen packets", func() bool {
		s.ns.Do(func() {
			if c, err := net.Dial("udp", "127.0.0.1:53"); err == nil {
				_, _ = c.Write([]byte("a question"))
				_ = c.Close()
			}
		})
		select {
		case err := <-pipe.done:
			pipe.done <- err
			return true
		default:
			return false
		}
	})
	if out := string(pipe.out.Bytes()); strings.Count(out, "\n") != 3 || !strings.Contains(out, "127.0.0.1") {
		t.Errorf("tshark: %s%s", out, pipe.stderr.Bytes())
	}
	// A stream that runs when the daemon is stopped ends in good order.
	last := s.run(nil, "ssh", s.args("live", "tap0")...)
	await.Until(t, "the stream has begun", func() bool { return len(last.out.Bytes()) > 0 })
	s.stop()
	if err := last.end(t); err != nil {
		t.Errorf("%v: %s", err, last.stderr.Bytes())
	}
}

func TestNetnsSSHCaptures(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := newSSH(t, l, "analyst")
	p := s.run(nil, "ssh", s.args("capture", "pcap", "-p", "tap0", "--id", "here/1", "--packets", "100", "--format", "pcap")...)
	await.Until(t, "the capture runs", func() bool { return s.try("GET", capturePath("here/1"), nil).Status == 200 })
	s.awaitState("here/1", "running")
	sent := plain(0, 100, 53)
	l.Send(sent...)
	if err := p.end(t); err != nil {
		t.Fatalf("%v: %s", err, p.stderr.Bytes())
	}
	if whole := s.data("here/1", "pcap").Body; !bytes.Equal(whole, p.out.Bytes()) {
		t.Errorf("%d octets by ssh, %d by REST", len(p.out.Bytes()), len(whole))
	}
	whole := s.data("here/1", "pcapng").Body
	if r := s.exec("ssh", s.args("retrieve", "here/1")...); r.code != 0 || r.stdout != string(whole) {
		t.Errorf("retrieve: %d, %d octets, %s", r.code, len(r.stdout), r.stderr)
	}
	get := append(append([]string{}, s.options...), "-P", "2222", "me@127.0.0.1:/captures/here%2F1.pcapng", s.file("got"))
	if r := s.exec("sftp", get...); r.code != 0 {
		t.Fatalf("sftp: %d %s", r.code, r.stderr)
	}
	if got, err := os.ReadFile(s.file("got")); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("%d octets by sftp, %d by REST, %v", len(got), len(whole), err)
	}

	flows := s.run(nil, "ssh", s.args("flows", "tap0", "udp", "--id", "f")...)
	await.Until(t, "the meter runs", func() bool { return bytes.Contains(flows.out.Bytes(), []byte("\n")) })
	l.Send(plain(0, 50, 77)...)
	await.Until(t, "a record has come while it runs", func() bool { return bytes.Count(flows.out.Bytes(), []byte("\n")) >= 2 })
	s.ask(200, "POST", capturePath("f")+"/stop", nil)
	if err := flows.end(t); err != nil {
		t.Errorf("%v: %s", err, flows.stderr.Bytes())
	}
	if want := s.data("f", "csv").Body; !bytes.Equal(want, flows.out.Bytes()) {
		t.Errorf("by ssh:\n%s\nby REST:\n%s", flows.out.Bytes(), want)
	}
	for _, c := range []struct {
		words []string
		code  int
	}{{[]string{"retrieve", "none"}, 4}, {[]string{"delete", "f"}, 3}, {[]string{"capture", "pcap", "-f", "'prot 80'"}, 1}, {[]string{"bash"}, 2}} {
		if r := s.exec("ssh", s.args(c.words...)...); r.code != c.code {
			t.Errorf("%q: %d %s", c.words, r.code, r.stderr)
		}
	}
	// Nobody waits any more: the capture is stopped.
	gone := s.run(nil, "ssh", s.args("capture", "pcap", "-p", "tap0", "--id", "left")...)
	await.Until(t, "the capture runs", func() bool { return s.try("GET", capturePath("left"), nil).Status == 200 })
	_ = gone.cmd.Process.Kill()
	_ = gone.end(t)
	s.awaitState("left", "stopped")
	log := audits(t, s.daemon)
	for _, part := range []string{`"alice"`, `"ssh-key"`, `"capture.retrieve"`, `"denied"`} {
		if !strings.Contains(log, part) {
			t.Errorf("the audit log has no %s", part)
		}
	}
}
