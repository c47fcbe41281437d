package sshapi_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"opentap/api/doortest"
	"opentap/api/sshapi"
	"opentap/want"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// door is a running server.
type door struct {
	t       *testing.T
	ctl     *doortest.Controller
	addr    string
	host    ssh.Signer
	dir     string // of keys
	key     string // private key file of alice, an analyst
	users   string // file of public keys
	signer  ssh.Signer
	log     *lockedBuffer
	denied  atomic.Int32
	stop    context.CancelFunc
	stopped chan error
}

// newKey writes a key pair and returns its signer and its public line.
func newKey(t *testing.T, path string) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey())))
}

func open(t *testing.T, change func(*sshapi.Config)) *door {
	t.Helper()
	dir := t.TempDir()
	d := &door{t: t, ctl: doortest.New(), dir: dir, key: filepath.Join(dir, "alice"), users: filepath.Join(dir, "users"), log: &lockedBuffer{}, stopped: make(chan error, 1)}
	log := slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var line string
	d.signer, line = newKey(t, d.key)
	if err := os.WriteFile(d.users, []byte("# people\nrole=analyst,name=alice "+line+" alice@laptop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if d.host, err = sshapi.HostKey(filepath.Join(dir, "ssh", "host")); err != nil {
		t.Fatal(err)
	}
	cfg := sshapi.DefaultConfig()
	cfg.Auth, cfg.HostKey = doortest.Users(), d.host
	cfg.Denied = func(context.Context, netip.AddrPort, error) { d.denied.Add(1) }
	cfg.EndTimeout = 100 * time.Millisecond
	if cfg.Keys, err = sshapi.NewKeyFile(d.users, log); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&cfg)
	}
	s, err := sshapi.New(d.ctl, cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	go func() { d.stopped <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-d.stopped; err != nil {
			t.Error(err)
		}
		if n := d.ctl.Held(); n != 0 {
			t.Errorf("%d retrievals were not closed", n)
		}
	})
	return d
}

func (d *door) dial(user string, methods ...ssh.AuthMethod) (*ssh.Client, error) {
	return ssh.Dial("tcp", d.addr, &ssh.ClientConfig{User: user, Auth: methods, HostKeyCallback: ssh.FixedHostKey(d.host.PublicKey()), Timeout: 10 * time.Second})
}

func (d *door) client(methods ...ssh.AuthMethod) *ssh.Client {
	d.t.Helper()
	if methods == nil {
		methods = []ssh.AuthMethod{ssh.Password("admin")}
	}
	c, err := d.dial("me", methods...)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = c.Close() })
	return c
}

// run runs a command and returns what it wrote and its exit code.
func run(t *testing.T, c *ssh.Client, command string) (stdout, stderr string, code int) {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out, errs bytes.Buffer
	s.Stdout, s.Stderr = &out, &errs
	err = s.Run(command)
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitStatus()
	case err != nil:
		t.Fatalf("%s: %v", command, err)
	}
	return out.String(), errs.String(), code
}

func TestVerbs(t *testing.T) {
	d := open(t, nil)
	d.ctl.Payload = []byte("\x0a\x0d\x0d\x0a\x00binary\r\n\xff")
	c := d.client()
	for _, tt := range []struct {
		command string
		code    int
		out     string // in stdout; "!" = stdout is empty
		errs    string // in stderr
	}{
		{"capabilities", 0, "virgo", ""},
		{"capabilities -o json", 0, `"capture_kinds"`, ""},
		{"points", 0, "uplink", ""},
		{"opentap points -o csv", 0, "name,aliases", ""},
		{"help", 0, "live", ""},
		{"help live", 0, "--snap", ""},
		{"live --help", 0, "slow reader", ""},
		{"captures", 0, "ID", ""},
		{"capture pcap -p eth0 -d 5s --id one", 0, string(d.ctl.Payload), "captured"},
		{"capture pcap -d 5s --detach --id two", 0, "two\n", ""},
		{"capture netflow -d 5s -q --id 'net/1'", 0, string(d.ctl.Payload), ""},
		{"retrieve one --format pcap", 0, string(d.ctl.Payload), ""},
		{"retrieve 'net/1' -w -", 0, string(d.ctl.Payload), ""},
		{"show one -o json", 0, `"done"`, ""},
		{"stop two", 0, "stopped", ""},
		{"delete two", 0, "!", ""},
		{"live eth0 port 53 --packets 3", 0, string(doortest.LivePackets(3, 0)), "3 packets"},
		{"", 2, "!", "verb"},
		{"bash -i", 2, "!", `no verb "bash"`},
		{"live eth0 'port 53", 2, "!", "quote"},
		{"live --nope", 2, "!", "--nope"},
		{"capture", 2, "!", "KIND"},
		{"capture pcap -d 5s -w /etc/passwd", 2, "!", "sftp"},
		{"capture pcap --format csv", 2, "!", "pcapng"},
		{"capture pcap -d 5s -f bogus", 1, "!", "  bogus\n  ^"},
		{"points extra", 2, "!", "left over"},
		{"retrieve nothing", 4, "!", "no capture"},
		{"live nowhere", 4, "!", "nowhere"},
	} {
		out, errs, code := run(t, c, tt.command)
		if code != tt.code || tt.out == "!" && out != "" || tt.out != "!" && !strings.Contains(out, tt.out) || !strings.Contains(errs, tt.errs) {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", tt.command, code, out, errs)
		}
		if strings.HasPrefix(tt.command, "retrieve ") && tt.code == 0 && out != tt.out {
			t.Errorf("%q: stdout %q is more than the data", tt.command, out)
		}
	}
	if q := d.ctl.LiveCalls()[0]; q.Filter != "port 53" || len(q.Points) != 1 || q.Points[0] != "eth0" {
		t.Errorf("live asked for %+v", q)
	}
	if s := d.log.String(); strings.Contains(s, "bash") {
		t.Error("the log has what users typed")
	}
}

func TestFlowsAreStreamed(t *testing.T) {
	d := open(t, nil)
	out, errs, code := run(t, d.client(), "flows eth0 -d 5s")
	if code != 0 || !strings.HasPrefix(out, "time,state") || strings.Count(out, "\n") != 5001 {
		t.Errorf("exit %d, %d lines, %s", code, strings.Count(out, "\n"), errs)
	}
}

func TestTheErrorsOfTheServerAreNotShown(t *testing.T) {
	d := open(t, nil)
	d.ctl.Change(func() { d.ctl.Fail["Points"] = errors.New("secret cause") })
	_, errs, code := run(t, d.client(), "points")
	if code != 1 || strings.Contains(errs, "secret") || !strings.Contains(errs, "reference") || !strings.Contains(d.log.String(), "secret cause") {
		t.Errorf("exit %d, %q", code, errs)
	}
}

func TestWhoComesIn(t *testing.T) {
	d := open(t, nil)
	stranger, _ := newKey(t, filepath.Join(d.dir, "stranger"))
	for name, tt := range map[string]struct {
		user   string
		method []ssh.AuthMethod
		ok     bool
	}{
		"a token":            {"x", []ssh.AuthMethod{ssh.Password("admin")}, true},
		"a wrong token":      {"x", []ssh.AuthMethod{ssh.Password("wrong")}, false},
		"an empty token":     {"x", []ssh.AuthMethod{ssh.Password("")}, false},
		"a known key":        {"x", []ssh.AuthMethod{ssh.PublicKeys(d.signer)}, true},
		"an unknown key":     {"x", []ssh.AuthMethod{ssh.PublicKeys(stranger)}, false},
		"a key, then a word": {"x", []ssh.AuthMethod{ssh.PublicKeys(stranger), ssh.Password("viewer")}, true},
		"nothing":            {"x", nil, false},
		"nobody":             {"anonymous", nil, false},
		"held off":           {"x", []ssh.AuthMethod{ssh.Password("busy")}, false},
	} {
		c, err := d.dial(tt.user, tt.method...)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = c.Close()
		}
	}
	if n := d.denied.Load(); n != 1 {
		t.Errorf("%d refused tokens were told of, want the wrong one", n)
	}
	if strings.Contains(d.log.String(), "wrong") {
		t.Error("the log has a token")
	}
}

func TestRightsAreTheControllers(t *testing.T) {
	d := open(t, nil)
	c := d.client(ssh.Password("viewer"))
	for command, code := range map[string]int{"points": 0, "live eth0": 3, "capture pcap -d 1s": 3} {
		if _, errs, got := run(t, c, command); got != code {
			t.Errorf("%s: exit %d: %s", command, got, errs)
		}
	}
}

func TestKeysAreReadAgain(t *testing.T) {
	d := open(t, nil)
	c := d.client(ssh.PublicKeys(d.signer))
	if _, _, code := run(t, c, "points"); code != 0 {
		t.Fatal(code)
	}
	if err := os.WriteFile(d.users, []byte("# nobody\nnot a key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := run(t, c, "points"); code != 3 { // on the open connection, too
		t.Errorf("exit %d: %s", code, errs)
	}
	_, line := newKey(t, filepath.Join(d.dir, "bob"))
	for text, ok := range map[string]bool{
		"role=viewer " + string(ssh.MarshalAuthorizedKey(d.signer.PublicKey())):                          true,
		line + "\n" + string(ssh.MarshalAuthorizedKey(d.signer.PublicKey())):                             true,
		"role=king " + string(ssh.MarshalAuthorizedKey(d.signer.PublicKey())):                            false,
		`command="x" ` + string(ssh.MarshalAuthorizedKey(d.signer.PublicKey())):                          false,
		`from="10.0.0.0/8" ` + string(ssh.MarshalAuthorizedKey(d.signer.PublicKey())):                    false,
		`from="10.0.0.1,127.0.0.0/8",restrict ` + string(ssh.MarshalAuthorizedKey(d.signer.PublicKey())): true,
	} {
		if err := os.WriteFile(d.users, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := d.dial("x", ssh.PublicKeys(d.signer))
		if (err == nil) != ok {
			t.Errorf("%.30q: %v", text, err)
		}
		if err == nil {
			_ = c.Close()
		}
	}
	if err := os.Chmod(d.users, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := d.dial("x", ssh.PublicKeys(d.signer)); err == nil {
		t.Error("a file that anybody may write lets in")
	}
}

func TestHostKeyIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ssh", "host")
	a, err := sshapi.HostKey(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := sshapi.HostKey(path)
	if err != nil || !bytes.Equal(a.PublicKey().Marshal(), b.PublicKey().Marshal()) || a.PublicKey().Type() != ssh.KeyAlgoED25519 {
		t.Errorf("another key: %v", err)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := sshapi.HostKey(path); err == nil {
		t.Error("a key that others can read is taken")
	}
}

func TestNoShellAndNoForwarding(t *testing.T) {
	d := open(t, nil)
	c := d.client()
	if conn, err := c.Dial("tcp", d.addr); err == nil {
		_ = conn.Close()
		t.Error("it forwards")
	}
	if l, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		_ = l.Close()
		t.Error("it listens for others")
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, name := range []string{"pty-req", "x11-req", "auth-agent-req@openssh.com", "env", "what@else"} {
		if ok, err := s.SendRequest(name, true, nil); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	var errs bytes.Buffer
	s.Stderr = &errs
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 2 || !strings.Contains(errs.String(), "no shell") {
		t.Errorf("%v: %s", err, errs.String())
	}
	s, err = c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.RequestSubsystem("netconf"); err == nil {
		t.Error("there is a subsystem netconf")
	}
}

// TestTheEndOfASessionEndsItsWork closes sessions in each way there is.
func TestTheEndOfASessionEndsItsWork(t *testing.T) {
	for name, end := range map[string]func(*door, *ssh.Client, *ssh.Session){
		"closed":       func(_ *door, _ *ssh.Client, s *ssh.Session) { _ = s.Close() },
		"disconnected": func(_ *door, c *ssh.Client, _ *ssh.Session) { _ = c.Close() },
		"signalled":    func(_ *door, _ *ssh.Client, s *ssh.Session) { _ = s.Signal(ssh.SIGINT) },
		"stopped":      func(d *door, _ *ssh.Client, _ *ssh.Session) { d.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, nil)
			ended := make(chan struct{})
			d.ctl.Live = func(ctx context.Context, w io.Writer) error {
				defer close(ended)
				if _, err := w.Write(doortest.LivePackets(1, 0)); err != nil {
					return err
				}
				<-ctx.Done()
				return ctx.Err()
			}
			c := d.client()
			s, err := c.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			out, err := s.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Start("live eth0"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(out, make([]byte, 16)); err != nil {
				t.Fatal(err)
			}
			end(d, c, s)
			<-ended
		})
	}
}

func TestACaptureThatNobodyWaitsForIsStopped(t *testing.T) {
	d := open(t, nil)
	d.ctl.Polls = -1
	c := d.client()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	errs, err := s.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("capture pcap --id long"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(errs, make([]byte, 8)); err != nil { // it has begun
		t.Fatal(err)
	}
	_ = c.Close()
	for state := want.Running; state != want.Stopped; {
		v, err := d.ctl.Capture(t.Context(), doortest.Everything, "long")
		if err != nil || t.Context().Err() != nil {
			t.Fatal(err)
		}
		state = v.Status.State
	}
	d.ctl.Change(func() { d.ctl.Polls = -1 })
	s, err = d.client().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out bytes.Buffer
	s.Stdout = &out
	errs, _ = s.StderrPipe()
	if err := s.Start("capture ethernet --id sig"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(errs, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if err := s.Signal(ssh.SIGINT); err != nil { // stops it, and what there is comes
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, errs)
	if err := s.Wait(); err != nil || out.Len() == 0 {
		t.Errorf("%v, %d octets", err, out.Len())
	}
}

func TestLimits(t *testing.T) {
	t.Run("half-open", func(t *testing.T) {
		d := open(t, func(c *sshapi.Config) { c.HalfOpen, c.LoginTimeout = 2, 150*time.Millisecond })
		var idle []net.Conn
		for range 3 {
			c, err := net.Dial("tcp", d.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			idle = append(idle, c)
		}
		_, _ = io.Copy(io.Discard, idle[2]) // closed at once
		_, _ = io.Copy(io.Discard, idle[0]) // closed after the timeout
		_, _ = io.Copy(io.Discard, idle[1])
		d.client()
	})
	t.Run("an address", func(t *testing.T) {
		d := open(t, func(c *sshapi.Config) { c.PerAddress = 1 })
		first := d.client()
		if c, err := d.dial("x", ssh.Password("admin")); err == nil {
			_ = c.Close()
			t.Error("a second connection is let in")
		}
		if _, _, code := run(t, first, "points"); code != 0 {
			t.Error("the first one suffers")
		}
	})
	t.Run("sessions", func(t *testing.T) {
		d := open(t, func(c *sshapi.Config) { c.Channels = 1 })
		c := d.client()
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.NewSession(); err == nil {
			t.Error("a second session is let in")
		}
		_ = s.Close()
	})
	t.Run("idle", func(t *testing.T) {
		d := open(t, func(c *sshapi.Config) { c.IdleTimeout = 50 * time.Millisecond })
		_ = d.client().Wait()
	})
	t.Run("stalled", func(t *testing.T) {
		d := open(t, func(c *sshapi.Config) { c.StallTimeout = 100 * time.Millisecond })
		ended := make(chan struct{})
		d.ctl.Live = func(ctx context.Context, w io.Writer) error {
			defer close(ended)
			b := doortest.LivePackets(1000, 0)
			for {
				if _, err := w.Write(b); err != nil {
					return err
				}
			}
		}
		s, err := d.client().NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.StdoutPipe(); err != nil { // never read
			t.Fatal(err)
		}
		if err := s.Start("live eth0"); err != nil {
			t.Fatal(err)
		}
		if _, _, code := run(t, d.client(), "points"); code != 0 { // nobody else suffers
			t.Error("others wait for a slow reader")
		}
		<-ended
	})
}

func TestSFTP(t *testing.T) {
	d := open(t, nil)
	data := make([]byte, 5<<20+17)
	_, _ = rand.Read(data)
	d.ctl.Payload = data
	for _, id := range []string{"one", "net/1", "..", "ünï code", "a.classic"} {
		kind := want.Packets
		if id == "a.classic" {
			kind = want.Flows
		}
		if _, _, err := d.ctl.CreateCapture(t.Context(), doortest.Everything, want.Request{ID: id, Kind: kind}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := sftp.NewClient(d.client())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	list, err := c.ReadDir("/captures")
	if err != nil || len(list) != 13 { // four of packets in two formats, one of flows in five
		t.Fatalf("%d files, %v", len(list), err)
	}
	for _, fi := range list {
		f, err := c.Open("/captures/" + fi.Name())
		if err != nil {
			t.Errorf("%s: %v", fi.Name(), err)
			continue
		}
		got, err := io.ReadAll(f)
		if err != nil || !bytes.Equal(got, data) || fi.Size() != int64(len(data)) || fi.Mode().Perm()&0o222 != 0 || strings.Contains(fi.Name(), "/") {
			t.Errorf("%s: %d octets, %v, shown as %d, %v", fi.Name(), len(got), err, fi.Size(), fi.Mode())
		}
		_ = f.Close()
	}
	f, err := c.Open("/captures/one.pcap")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var wg sync.WaitGroup
	for i := range 8 { // back and forth
		wg.Go(func() {
			b := make([]byte, 70_000)
			for j := range 6 {
				off := int64((i*7919 + j*104729*13) % (len(data) - len(b)))
				if n, err := f.ReadAt(b, off); err != nil || !bytes.Equal(b[:n], data[off:off+int64(n)]) {
					t.Errorf("read at %d: %d, %v", off, n, err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := f.ReadAt(make([]byte, 1), int64(len(data))); err != io.EOF {
		t.Errorf("beyond the end: %v", err)
	}
	for _, name := range []string{"/captures/none.pcapng", "/captures/one", "/captures/.pcapng", "/etc/passwd", "/captures/../captures/x.csv", "/captures/one.csv", "/captures/net%2f1.pcapng"} {
		if _, err := c.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, create := c.Create("/captures/new.pcapng")
	_, appendTo := c.OpenFile("/captures/one.pcapng", os.O_RDWR)
	for what, err := range map[string]error{
		"create": create, "open for writing": appendTo, "remove": c.Remove("/captures/one.pcapng"), "rename": c.Rename("/captures/one.pcapng", "/captures/x"),
		"posix-rename": c.PosixRename("/captures/one.pcapng", "/captures/x"), "mkdir": c.Mkdir("/d"), "chmod": c.Chmod("/captures/one.pcapng", 0o777), "symlink": c.Symlink("/a", "/b"), "truncate": c.Truncate("/captures/one.pcapng", 1),
	} {
		if !errors.Is(err, os.ErrPermission) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSFTPRights(t *testing.T) {
	d := open(t, nil)
	if _, _, err := d.ctl.CreateCapture(t.Context(), doortest.Everything, want.Request{ID: "one", Kind: want.Packets}); err != nil {
		t.Fatal(err)
	}
	c, err := sftp.NewClient(d.client(ssh.Password("viewer")))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if list, err := c.ReadDir("/captures"); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := c.Open("/captures/one.pcapng"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("open: %v", err)
	}
}

func TestSFTPBreaksOff(t *testing.T) {
	d := open(t, nil)
	d.ctl.Payload, d.ctl.Broken = make([]byte, 1<<20), 700_000
	if _, _, err := d.ctl.CreateCapture(t.Context(), doortest.Everything, want.Request{ID: "one", Kind: want.Packets}); err != nil {
		t.Fatal(err)
	}
	c, err := sftp.NewClient(d.client())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := c.Open("/captures/one.pcapng")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if err == nil || len(got) >= 1<<20 || strings.Contains(err.Error(), "checksum") {
		t.Errorf("%d octets, %v", len(got), err)
	}
	var held []*sftp.File
	for {
		f, err := c.Open("/captures/one.pcapng")
		if err != nil {
			break
		}
		if held = append(held, f); len(held) > 100 {
			t.Fatal("files can be opened without end")
		}
	}
	for _, f := range held {
		_ = f.Close()
	}
}

// publicLine is a public key as files of keys have it.
func publicLine(s ssh.Signer) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey())))
}
