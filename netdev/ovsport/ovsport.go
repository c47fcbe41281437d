// Package ovsport follows the ports of Open vSwitch: whose they are, and which have no kernel device.
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
	"net"
	"slices"
	"time"
)

// DefaultSocket is where Open vSwitch's database server listens (ovsdb-server(1)).
const DefaultSocket = "/var/run/openvswitch/db.sock"

// absentPause is how long it is waited before looking again whether Open vSwitch is there.
const absentPause = 10 * time.Second

// Port is an interface of Open vSwitch that has an iface-id, or no kernel device of its name.
type Port struct {
	Name    string
	IfaceID string // "" = nobody noted whose it is
	Type    string // such as dpdkvhostuserclient; "" = a kernel device stands for it, and the rest is the kernel's to say
	MAC     string
	MTU     int // octets; 0 = Open vSwitch does not say
	Up      bool
}

// Watcher follows one database server.
type Watcher struct {
	socket string
	log    *slog.Logger
}

// New makes a watcher of the server at a Unix socket. It is inert.
func New(socket string, log *slog.Logger) *Watcher { return &Watcher{socket: socket, log: log} }

// Run calls fn with the ports, in the order of their names, at the begin and whenever they change, until ctx ends. fn owns the
// slice. Where there is no Open vSwitch it is looked for again from time to time; while its server is away, what it said stays true.
func (w *Watcher) Run(ctx context.Context, fn func([]Port)) error {
	var told []Port
	pause := time.Second
	for {
		err := w.follow(ctx, func(ports []Port) {
			pause = time.Second
			if !slices.Equal(ports, told) {
				told = ports
				fn(slices.Clone(ports))
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
func (w *Watcher) follow(ctx context.Context, fn func([]Port)) error {
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
			fn(s.ports())
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
