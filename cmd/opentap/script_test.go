package main

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	v1 "opentap/api/v1"

	"opentap/api/doortest"
	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/ledger"
	"opentap/want"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"opentap": main, "opentap-extcap": main})
}

// newServer is a server of /v1 over a controller in memory.
func newServer(users doortest.Tokens) (*doortest.Controller, *httptest.Server) {
	ctl := doortest.New()
	gate, err := httpapi.NewGate(httpapi.Config{Auth: users})
	if err != nil {
		panic(err)
	}
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = gate.Server(gate.Handler(v1.New(ctl, v1.Config{Version: "1.2.3"})))
	srv.Start()
	return ctl, srv
}

// TestScripts runs testdata/*.txtar, each against a server of its own. Their own commands:
//
//	server WORD [ARG...]   change the server: see serverCmd
//	interrupt N PROGRAM... run the program, send it SIGINT once its stderr says "capture", N times
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			users := doortest.Users()
			users["sneaky"] = auth.Identity{Name: "sneaky\x1b[31m", Rights: 0xffff}
			ctl, srv := newServer(users)
			env.Defer(srv.Close)
			env.Values["ctl"] = ctl
			env.Setenv("OPENTAP_URL", srv.URL)
			env.Setenv("OPENTAP_TOKEN", "admin")
			env.Setenv("TZ", "UTC")
			env.Setenv("VIRGO", strings.TrimPrefix(srv.URL, "http://"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"server": serverCmd, "interrupt": interruptCmd, "exitcode": exitCodeCmd},
	})
}

func serverCmd(ts *testscript.TestScript, neg bool, args []string) {
	ctl := ts.Value("ctl").(*doortest.Controller)
	if args[0] == "scheduled" { // the capture has not begun
		ctl.Set(args[1], func(v *want.View) { v.Status.State = want.Scheduled })
		return
	}
	ctl.Change(func() { change(ts, ctl, args) })
}

func change(ts *testscript.TestScript, ctl *doortest.Controller, args []string) {
	switch args[0] {
	case "running": // captures run until they are stopped
		ctl.Polls = -1
	case "slow-stop": // StopCapture hangs until its client goes away
		ctl.SlowStop = true
	case "break": // downloads break after so many octets
		n, err := strconv.ParseInt(args[1], 10, 64)
		ts.Check(err)
		ctl.Broken = n
	case "payload": // the data is the file's
		ctl.Payload = []byte(ts.ReadFile(args[1]))
	case "lose": // captures end with so many packets dropped by the disk
		n, err := strconv.ParseUint(args[1], 10, 64)
		ts.Check(err)
		ctl.Finish = func(s *want.Status) {
			s.Ledger.Seen += n
			s.Ledger.Dropped[ledger.Disk] = n
		}
	case "reach-limit": // captures end at their own limit
		ctl.Finish = func(s *want.Status) { s.Ledger.Dropped[ledger.Limit] = 7 }
	case "gap": // captures end with a gap
		ctl.Finish = func(s *want.Status) {
			s.Gaps = []want.Gap{{From: doortest.Epoch, To: doortest.Epoch.Add(time.Second), Reason: "the link was away"}}
		}
	case "fail": // captures fail
		ctl.Finish = func(s *want.Status) { s.State, s.Reason = want.Failed, "the disk is full" }
	case "error": // METHOD answers with an error of a kind
		ctl.Fail[args[1]] = fault.New(fault.KindNamed(args[2]), "refused by the test")
	case "live-lose": // live streams lose so many packets, because their reader is slow
		n, err := strconv.ParseUint(args[1], 10, 64)
		ts.Check(err)
		ctl.Live = func(_ context.Context, w io.Writer) error {
			_, err := w.Write(doortest.LivePackets(10, n))
			return err
		}
	case "live-break": // live streams break
		ctl.Live = func(_ context.Context, w io.Writer) error {
			if _, err := w.Write(doortest.LivePackets(10, 0)); err != nil {
				return err
			}
			return fault.New(fault.Unavailable, "the node went away")
		}
	case "live-garbage": // live streams are something else
		ctl.Live = func(_ context.Context, w io.Writer) error {
			_, err := io.WriteString(w, "<html>this is no packet</html>")
			return err
		}
	case "evil": // a point whose name writes to the terminal
		ctl.List[1].Name = "eth\x1b]0;owned\x07\u202e1"
	default:
		ts.Fatalf("server %s?", args[0])
	}
}

// exitCodeCmd runs a program and compares its exit code: exitcode N PROGRAM...
func exitCodeCmd(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if ee, ok := err.(*exec.ExitError); ok {
		code = ee.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// interruptCmd runs the program with its stderr in the file stderr.txt. It sends SIGINT when "capture " has been said, and
// the second one when "stopping" has.
func interruptCmd(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	f, err := os.Create(ts.MkAbs("stderr.txt"))
	ts.Check(err)
	defer f.Close()
	path := ""
	for _, dir := range strings.Split(ts.Getenv("PATH"), string(os.PathListSeparator)) {
		if _, err := os.Stat(dir + "/" + args[1]); err == nil {
			path = dir + "/" + args[1]
			break
		}
	}
	cmd := exec.Command(path, args[2:]...)
	cmd.Dir, cmd.Stderr = ts.MkAbs("."), f
	for _, k := range []string{"OPENTAP_URL", "OPENTAP_TOKEN", "HOME", "PATH", "TZ"} {
		cmd.Env = append(cmd.Env, k+"="+ts.Getenv(k))
	}
	ts.Check(cmd.Start())
	for _, sign := range []string{"capture ", "stopping"}[:n] {
		deadline := time.Now().Add(30 * time.Second)
		for !strings.Contains(ts.ReadFile("stderr.txt"), sign) {
			if time.Now().After(deadline) {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				ts.Fatalf("%q was never said: %s", sign, ts.ReadFile("stderr.txt"))
			}
			time.Sleep(5 * time.Millisecond) // a poll, bounded by the deadline
		}
		ts.Check(cmd.Process.Signal(syscall.SIGINT))
	}
	err = cmd.Wait()
	if (err != nil) != neg {
		ts.Fatalf("%v: %s", err, ts.ReadFile("stderr.txt"))
	}
}
