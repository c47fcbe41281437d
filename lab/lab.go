// Package lab builds a small network of namespaces and Open vSwitch on this machine, runs OpenTap in it with real traffic, and
// takes everything away again.
//
// It is the one room of the product that starts programs of others: ip, ovsdb-tool, ovsdb-server, ovs-vswitchd, ovs-vsctl,
// ovs-ofctl, and OpenTap's own (docs/adr/0020-the-lab-starts-programs.md). Nothing of what it does can be reached from a server.
//
// Runs in: tools
package lab

import (
	"context"
	"io"
)

// Config says how the demonstration runs.
type Config struct {
	Out      io.Writer // what is done, and what came of it
	Opentap  string    // the program itself
	Opentapd string    // the daemon
	Keep     bool      // stay until ctx ends, for own experiments
}

// Demon builds the topology of the first prototype of this product (PyTapDEMON): s1 and s2 with five hosts each, five cables
// from each to s3, and the capture host h11. It runs the scenario of docs/examples/pytapdemon.yaml with real frames, and returns an error when
// anything is not as it should be. It needs root. When it returns, everything it made is gone.
func Demon(ctx context.Context, cfg Config) error { return demon(ctx, cfg) }
