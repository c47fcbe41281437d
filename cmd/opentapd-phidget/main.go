// Command opentapd-phidget reads Phidget boards for opentapd, which starts it: it loads the vendor's library, may crash with it,
// and ends when its standard input does. It is a program of its own because it is not static: loading a library takes the
// system's loader. sensor/phidget has what is said between the two.
//
// Runs in: agent
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"opentap/sensor/phidget"
)

// every is how often the inputs are told.
const every = 100 * time.Millisecond

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(stdin io.Reader, stdout io.Writer) error {
	runtime.LockOSThread() // the library may care who calls it
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("opentapd starts this program, and tells it what to read: %w", err)
	}
	var req phidget.Request
	if err := json.Unmarshal(line, &req); err != nil {
		return fmt.Errorf("read what is wanted: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, in)
	}()
	lib, err := load(req.Library)
	if err != nil {
		return err
	}
	channels := make([]*channel, len(req.Inputs))
	for i, c := range req.Inputs {
		if channels[i], err = lib.open(c.Serial, c.Port); err != nil {
			return fmt.Errorf("port %d of board %d: %w", c.Port, c.Serial, err)
		}
		defer channels[i].close()
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	enc := json.NewEncoder(stdout)
	report := phidget.Report{Readings: make([]phidget.Reading, len(channels))}
	for {
		for i, c := range channels {
			report.Readings[i] = c.read()
		}
		if err := enc.Encode(report); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ended:
			return nil
		}
	}
}
