// Package ovsport follows whose ports the interfaces of Open vSwitch are.
//
// Runs in: agent
//
// Whoever plugs a port into Open vSwitch, such as OpenStack, notes in the interface's external_ids:iface-id which port it
// is. That stays when the device gets another name or index, or is made anew, on this host or another. It is read from
// Open vSwitch's database server over its local socket, and nothing is ever written there. The protocol is RFC 7047.
package ovsport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"time"
)

// DefaultSocket is where Open vSwitch's database server listens (ovsdb-server(1)).
const DefaultSocket = "/var/run/openvswitch/db.sock"

// absentPause is how long it is waited before looking again whether Open vSwitch is there.
const absentPause = 10 * time.Second

// Watcher follows one database server.
type Watcher struct {
	socket string
	log    *slog.Logger
}

// New makes a watcher of the server at a Unix socket. It is inert.
func New(socket string, log *slog.Logger) *Watcher { return &Watcher{socket: socket, log: log} }

// Run calls fn with the iface-id of each interface that has one, by the interface's name, at the begin and whenever that
// changes, until ctx ends. fn owns the map. Where there is no Open vSwitch it is looked for again from time to time; while
// its server is away, what it said stays true.
func (w *Watcher) Run(ctx context.Context, fn func(ids map[string]string)) error {
	told := map[string]string{}
	pause := time.Second
	for {
		err := w.follow(ctx, func(ids map[string]string) {
			pause = time.Second
			if !maps.Equal(ids, told) {
				told = ids
				fn(maps.Clone(ids))
			}
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, fs.ErrNotExist): // there is no Open vSwitch, as on most hosts
			pause = absentPause
		default:
			w.log.Warn("Open vSwitch's database is not followed for a moment", "socket", w.socket, "err", err, "retry_in", pause)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, absentPause)
	}
}

// follow reads what is there and then what changes, until the connection ends.
func (w *Watcher) follow(ctx context.Context, fn func(map[string]string)) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", w.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := io.WriteString(conn, monitor); err != nil {
		return err
	}
	s := newState()
	in := &bounded{r: conn}
	for dec := json.NewDecoder(in); ; {
		in.left = maxMessage
		var m message
		if err := dec.Decode(&m); err != nil {
			return fmt.Errorf("read from Open vSwitch's database: %w", err)
		}
		answer, changed, err := s.take(&m)
		if err != nil {
			return err
		}
		if answer != nil {
			if _, err := conn.Write(answer); err != nil {
				return err
			}
		}
		if changed {
			fn(s.ids())
		}
	}
}

// maxMessage bounds one message: some hundred thousand interfaces. Octets.
const maxMessage = 64 << 20

// bounded refuses messages that are too long.
type bounded struct {
	r    io.Reader
	left int
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("a message is longer than %d octets", maxMessage)
	}
	n, err := b.r.Read(p)
	b.left -= n
	return n, err
}
