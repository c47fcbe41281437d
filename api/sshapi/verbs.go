package sshapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"opentap/auth"
	"opentap/fault"
	"opentap/report"
)

// errReader says that whoever read the output takes no more of it.
var errReader = errors.New("the client has closed the session")

// call is one run of a verb.
type call struct {
	s         *Server
	id        auth.Identity
	out       io.Writer
	err       io.Writer
	interrupt <-chan struct{} // closed when the client sends a signal
	args      []string        // what the options left
	quiet     bool
	output    string // of lists: table, json or csv
}

// verb is one word of the door's language.
type verb struct {
	name, args, short, long, example string
	lists                            bool // its output is a list: -o says in which form
	signals                          bool // it takes signals itself; others are ended by them
	min, max                         int  // arguments; max -1 = any number
	// prepare adds the verb's options and returns its function.
	prepare func(o *options) func(ctx context.Context, c *call) error
}

// verbs returns the language. It is made anew each time: options are bound to one run.
func verbs() []verb {
	return []verb{pointsVerb, capabilitiesVerb, liveVerb, captureVerb, capturesVerb, showVerb, retrieveVerb, flowsVerb, stopVerb, deleteVerb}
}

const about = `OpenTap: see what happens on a network. Usage: ssh HOST VERB [ARGUMENTS]

`

const examples = `
ssh HOST VERB --help tells more of a verb. Examples:
  ssh -p 2222 HOST points
  ssh -p 2222 HOST live eth0 'port 53' | wireshark -k -i -
  ssh -p 2222 HOST capture pcap -p eth0 -d 10s > eth0.pcapng
  sftp -P 2222 HOST:/captures/ID.pcapng

Data goes to standard output, messages to standard error. Exit codes: 0 done; 1 error; 2 wrong usage; 3 refused (what you may
do); 4 not found; 5 not ready, or not now; 6 loss, with --fail-on-loss; 130 interrupted. OpenSSH's own is 255: no connection.
`

func overview() string {
	var b strings.Builder
	b.WriteString(about)
	for _, v := range verbs() {
		fmt.Fprintf(&b, "  %-13s %s\n", v.name, v.short)
	}
	fmt.Fprintf(&b, "  %-13s %s\n", "help", "Show this, or tell more of a verb")
	b.WriteString(examples)
	return b.String()
}

// bind makes the options that each run of a verb has.
func (v *verb) bind(c *call) (*options, func(context.Context, *call) error, *bool) {
	o := &options{}
	run := v.prepare(o)
	help := new(bool)
	if v.lists {
		o.add("output", 'o', "FORM", "table, json or csv (default table)", func(s string) error {
			if s != "table" && s != "json" && s != "csv" {
				return fmt.Errorf("%q is none of table, json, csv", s)
			}
			c.output = s
			return nil
		})
	}
	o.flag(&c.quiet, "quiet", 'q', "no summary on standard error; warnings stay")
	o.flag(help, "help", 'h', "show this")
	return o, run, help
}

func (v *verb) help(o *options) string {
	s := fmt.Sprintf("Usage: ssh HOST %s\n\n%s\n", strings.TrimSpace(v.name+" "+v.args+" [options]"), v.short+".")
	if v.long != "" {
		s += "\n" + v.long + "\n"
	}
	s += "\nExamples:\n" + v.example + "\n"
	return s + "\nOptions:\n" + o.usage()
}

// run finds the verb and runs it.
func (c *call) run(ctx context.Context, words []string) error {
	if len(words) > 0 && words[0] == "opentap" { // a habit from the command line
		words = words[1:]
	}
	if len(words) == 0 {
		return usagef("a verb is missing")
	}
	name := words[0]
	switch name {
	case "help", "--help", "-h":
		if len(words) < 2 {
			_, err := io.WriteString(c.out, overview())
			return err
		}
		name, words = words[1], []string{words[1], "--help"}
	}
	for _, v := range verbs() {
		if v.name != name {
			continue
		}
		o, run, help := v.bind(c)
		args, err := o.parse(words[1:])
		switch {
		case *help:
			_, err := io.WriteString(c.out, v.help(o))
			return err
		case err != nil:
			return err
		case len(args) < v.min:
			return usagef("%s needs %s", v.name, v.args)
		case v.max >= 0 && len(args) > v.max:
			return usagef("%s: %q is left over", v.name, args[v.max])
		}
		c.args = args
		if v.signals {
			return run(ctx, c)
		}
		return c.interruptibly(ctx, run)
	}
	return usagef("there is no verb %q", name)
}

// interruptibly runs fn until it ends or the client sends a signal.
func (c *call) interruptibly(ctx context.Context, fn func(context.Context, *call) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-c.interrupt:
			cancel()
		case <-ctx.Done():
		}
	})
	err := fn(ctx, c)
	if err != nil && ctx.Err() != nil {
		return context.Canceled
	}
	return err
}

// say writes a line to standard error, made safe for a terminal.
func (c *call) say(format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		_, _ = io.WriteString(c.err, report.Clean(line)+"\n")
	}
}

// tell is say unless --quiet.
func (c *call) tell(format string, args ...any) {
	if !c.quiet {
		c.say(format, args...)
	}
}

// command runs the text of an exec request, and returns its exit code.
func (c *conn) command(ctx context.Context, ch ssh.Channel, text string, interrupt <-chan struct{}) int {
	c.begin()
	defer c.end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := time.Now()
	out := &outlet{w: ch, ch: ch, c: c, cancel: cancel}
	run := &call{s: c.s, out: out, err: &outlet{w: ch.Stderr(), ch: ch, c: c, cancel: cancel}, interrupt: interrupt, output: "table"}
	id, err := c.ask(ctx)
	run.id = id
	name := ""
	if err == nil {
		var words []string
		if words, err = Split(text); err != nil {
			err = usageError{err}
		} else {
			for _, v := range verbs() { // what is logged is ours, not whatever was typed
				if len(words) > 0 && words[0] == v.name {
					name = v.name
				}
			}
			err = run.run(ctx, words)
		}
	}
	code := exitCode(ctx, err)
	attrs := []any{"verb", name, "exit", code, "octets", out.octets.Load(), "duration", time.Since(started), "who", id.Name, "remote", c.remote}
	if err != nil && code == report.ExitError {
		ref := rand.Text()
		c.s.log.Error("ssh command failed", append(attrs, "err", err, "reference", ref)...)
		var f *fault.Error
		if !errors.As(err, &f) && !errors.Is(err, errTold) || f != nil && f.Kind == fault.Internal {
			err = fmt.Errorf("internal error; the log has the details under reference %s", ref)
		}
	} else {
		c.s.log.Info("ssh command", attrs...)
	}
	run.explain(err, code)
	return code
}

// errTold marks errors whose text is made for the user.
var errTold = errors.New("")

func exitCode(ctx context.Context, err error) int {
	var usage usageError
	switch {
	case err == nil:
		return report.ExitOK
	case errors.As(err, &usage):
		return report.ExitUsage
	case ctx.Err() != nil, errors.Is(err, errReader), errors.Is(err, context.Canceled):
		return report.ExitInterrupted
	}
	return report.Exit(err)
}

// explain tells the error on standard error, with what to do about it. Causes are left out: they are for the log.
func (c *call) explain(err error, code int) {
	var f *fault.Error
	switch {
	case err == nil:
	case code == report.ExitInterrupted:
		c.say("interrupted")
	case errors.As(err, &f):
		msg := f.Msg
		if f.Field != "" {
			msg = f.Field + ": " + msg
		}
		c.say("opentap: %s", msg)
		if f.Hint != "" {
			c.say("  %s", f.Hint)
		}
	default:
		c.say("opentap: %s", err)
		if code == report.ExitUsage {
			c.say("  see ssh HOST help, and ssh HOST VERB --help")
		}
	}
}

// howTo answers a session without a command.
func (c *conn) howTo(ch ssh.Channel) int {
	c.begin()
	defer c.end()
	w := &outlet{w: ch.Stderr(), ch: ch, c: c, cancel: func() {}}
	_, _ = io.WriteString(w, "There is no shell here: a verb goes on the command line.\n\n"+overview())
	return report.ExitUsage
}
