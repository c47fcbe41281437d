package sshapi

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"opentap/report"
)

// aliveInterval is how often a peer is asked whether it is there.
const aliveInterval = 30 * time.Second

// conn is one connection that has logged in.
type conn struct {
	s      *Server
	sc     *ssh.ServerConn
	ask    who
	remote netip.AddrPort

	mu   sync.Mutex
	busy int // commands that run
	idle *time.Timer
}

// begin notes that something runs; end that it has ended.
func (c *conn) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy++
	c.idle.Stop()
}

func (c *conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy--; c.busy == 0 {
		c.idle.Reset(c.s.cfg.IdleTimeout)
	}
}

// touch begins the idle time anew.
func (c *conn) touch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy == 0 {
		c.idle.Reset(c.s.cfg.IdleTimeout)
	}
}

// serve runs the connection's sessions until it ends. When ctx ends, commands have a while to end by themselves.
func (c *conn) serve(ctx context.Context, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	c.idle = time.AfterFunc(c.s.cfg.IdleTimeout, func() { _ = c.sc.Close() })
	defer c.idle.Stop()
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	ended := make(chan struct{})
	wg.Go(func() { ssh.DiscardRequests(requests) }) // no forwarding
	wg.Go(func() { c.alive(inner) })
	wg.Go(func() {
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		if c.running() {
			t := time.NewTimer(c.s.cfg.EndTimeout)
			defer t.Stop()
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for waiting := true; waiting && c.running(); {
				select {
				case <-t.C:
					waiting = false
				case <-ended:
					waiting = false
				case <-tick.C:
				}
			}
		}
		_ = c.sc.Close()
	})
	var sessions atomic.Int32
	for nch := range channels {
		switch {
		case nch.ChannelType() != "session":
			_ = nch.Reject(ssh.Prohibited, "this server forwards nothing: it has sessions alone")
		case ctx.Err() != nil:
			_ = nch.Reject(ssh.ResourceShortage, "the server is stopping")
		case int(sessions.Load()) >= c.s.cfg.Channels:
			_ = nch.Reject(ssh.ResourceShortage, fmt.Sprintf("one connection may have %d sessions", c.s.cfg.Channels))
		default:
			ch, reqs, err := nch.Accept()
			if err != nil {
				continue
			}
			sessions.Add(1)
			wg.Go(func() {
				defer sessions.Add(-1)
				defer ch.Close()
				c.session(inner, ch, reqs)
			})
		}
	}
	close(ended)
	_ = c.sc.Close()
}

func (c *conn) running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.busy > 0
}

// alive closes the connection when its peer no longer answers.
func (c *conn) alive(ctx context.Context) {
	dead := time.AfterFunc(3*aliveInterval, func() { _ = c.sc.Close() })
	defer dead.Stop()
	t := time.NewTicker(aliveInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if _, _, err := c.sc.SendRequest("keepalive@openssh.com", true, nil); err != nil {
			return
		}
		dead.Reset(3 * aliveInterval)
	}
}

// session answers the requests of one channel. It returns when the client has closed it and what it asked for has ended.
func (c *conn) session(ctx context.Context, ch ssh.Channel, reqs <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	interrupt := make(chan struct{})
	started, interrupted := false, false
	for r := range reqs {
		ok := false
		var begin func() // after the answer: what runs may end, and close the channel, at once
		switch r.Type {
		case "exec", "shell", "subsystem":
			var name struct{ Text string }
			if r.Type != "shell" && ssh.Unmarshal(r.Payload, &name) != nil || started {
				break
			}
			var run func() int
			switch {
			case r.Type == "exec":
				run = func() int { return c.command(ctx, ch, name.Text, interrupt) }
			case r.Type == "shell":
				run = func() int { return c.howTo(ch) }
			case name.Text == "sftp":
				run = func() int { return c.transfer(ctx, ch) }
			}
			if ok = run != nil; ok {
				started = true
				begin = func() {
					wg.Go(func() { c.run(ch, run) })
					if r.Type != "subsystem" { // verbs read nothing: what comes is not to pile up
						wg.Go(func() { _, _ = io.Copy(io.Discard, ch) })
					}
				}
			}
		case "signal":
			if started && !interrupted {
				interrupted = true
				close(interrupt)
			}
			ok = started
		}
		// All else is refused: terminals, environments, X11, agents. A client without a terminal keeps its own as it was.
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
		if begin != nil {
			begin()
		}
	}
}

// run runs what a session is for, and tells its exit code.
func (c *conn) run(ch ssh.Channel, fn func() int) {
	code := report.ExitError
	defer func() {
		if p := recover(); p != nil {
			c.s.log.Error("ssh command panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
		_ = ch.CloseWrite()
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(code)}))
		_ = ch.Close()
	}()
	code = fn()
}

// outlet is a channel's output that breaks when nothing of it is taken for too long.
type outlet struct {
	w      io.Writer
	octets atomic.Int64
	ch     ssh.Channel
	c      *conn
	cancel context.CancelFunc
}

// Write implements io.Writer. The data has left this process, or waits in the kernel, when it returns.
func (o *outlet) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		n := min(len(p), 64<<10)
		t := time.AfterFunc(o.c.s.cfg.StallTimeout, o.cut)
		m, err := o.w.Write(p[:n])
		t.Stop()
		total += m
		o.octets.Add(int64(m))
		if err != nil {
			return total, fmt.Errorf("%w: %w", errReader, err)
		}
		p = p[n:]
	}
	return total, nil
}

// cut ends a session whose client takes nothing: in good order when it still listens, with its connection when not.
func (o *outlet) cut() {
	o.c.s.log.Info("ssh client takes nothing and is cut off", "remote", o.c.remote)
	o.cancel()
	_ = o.ch.Close()
	time.AfterFunc(5*time.Second, func() {
		if o.c.running() {
			_ = o.c.sc.Close()
		}
	})
}
