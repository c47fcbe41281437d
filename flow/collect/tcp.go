package collect

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"opentap/wire/netflow"
)

// listenTCP takes connections that carry IPFIX: RFC 7011 section 10.4.
func (c *Collector) listenTCP(ctx context.Context, work *sync.WaitGroup) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", c.cfg.Address)
	if err != nil {
		return err
	}
	c.listening(ln.Addr())
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	defer ln.Close()
	for number := uint64(1); ; number++ {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			var passing net.Error
			if errors.As(err, &passing) && !errors.Is(err, net.ErrClosed) { // too many files, a connection that went at once
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(100 * time.Millisecond):
				}
				continue
			}
			return err
		}
		from := netip.AddrPort{}
		if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
			from = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
		}
		k := sessionKey{from: from, conn: number}
		if !c.admit(k) {
			_ = conn.Close() // nothing was said
			continue
		}
		work.Go(func() {
			defer c.dismiss(k)
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			defer conn.Close()
			if err := c.converse(ctx, k, conn); err != nil && ctx.Err() == nil {
				c.log.Warn("a connection of an exporter ended", "collector", c.cfg.Name, "exporter", k.from, "err", err)
			}
		})
	}
}

// admit reserves the place of a connection, before anything is read of it.
func (c *Collector) admit(k sessionKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.allowed(k.from.Addr()) {
		c.stats.Denied++
		return false
	}
	if _, err := c.session(k, time.Now()); err != nil {
		c.stats.Exhausted++
		return false
	}
	return true
}

func (c *Collector) dismiss(k sessionKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessions[k]; s != nil {
		c.forget(k, s)
	}
}

// converse reads messages until the connection ends.
func (c *Collector) converse(ctx context.Context, k sessionKey, conn net.Conn) error {
	if c.cfg.Transport == "tls" {
		t := tls.Server(conn, c.cfg.TLS)
		hctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := t.HandshakeContext(hctx)
		cancel()
		if err != nil {
			return err
		}
		conn = t
	}
	r := bufio.NewReaderSize(conn, 1<<16)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(idleConnection)); err != nil {
			return err
		}
		h, err := r.Peek(4)
		if err != nil {
			if errors.Is(err, io.EOF) && len(h) == 0 {
				return nil
			}
			return err
		}
		n, err := netflow.Length(h)
		if err != nil {
			c.mu.Lock()
			c.stats.Foreign++
			c.mu.Unlock()
			return err
		}
		b, err := r.Peek(n) // a message has 65535 octets at most: the buffer holds it
		if err != nil {
			return err
		}
		c.mu.Lock()
		err = c.message(k, b, time.Now())
		c.mu.Unlock()
		if err != nil {
			return err
		}
		if _, err := r.Discard(n); err != nil {
			return err
		}
	}
}
