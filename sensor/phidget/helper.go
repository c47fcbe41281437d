package phidget

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"strings"
	"time"
)

// Request is what the helper reads, once, as a line of JSON on its standard input. It ends when that is closed.
type Request struct {
	Library string    `json:"library,omitempty"`
	Inputs  []Channel `json:"inputs"`
}

// Channel is an input of a board.
type Channel struct {
	Serial uint32 `json:"serial"`
	Port   int    `json:"port"`
}

// Report is a line of JSON that the helper writes: all inputs, in the order of the request; or why there are none.
type Report struct {
	Problem  string    `json:"problem,omitempty"`
	Readings []Reading `json:"readings,omitempty"`
}

// Reading is one input.
type Reading struct {
	Ratio   float64 `json:"ratio"` // 0 to 1
	Missing string  `json:"missing,omitempty"`
}

// Bounds of dealing with the helper.
const (
	maxLine   = 1 << 20 // octets of a report
	firstWait = time.Second
	lastWait  = time.Minute
	farewell  = 5 * time.Second // until a helper that is asked to end is killed
)

// Run starts the helper, and starts it again when it ends, until ctx ends. It waits longer each time that it ends early. Without
// inputs there is nothing to do.
func (s *Source) Run(ctx context.Context) error {
	if len(s.inputs) == 0 {
		<-ctx.Done()
		return nil
	}
	wait := firstWait
	for {
		began := time.Now()
		err := s.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.tell(err)
		if time.Since(began) > lastWait {
			wait = firstWait
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, lastWait)
	}
}

// session is the life of one helper. It is a process of its own because the vendor's library is C: when it crashes, a gap is
// all that is lost.
func (s *Source) session(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, s.cfg.Helper)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent"}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.Cancel = stdin.Close // it ends by itself then
	cmd.WaitDelay = farewell
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var complaint tail
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("the helper for Phidgets cannot be started: %w", err)
	}
	var req Request
	req.Library = s.cfg.Library
	for _, in := range s.cfg.Inputs {
		req.Inputs = append(req.Inputs, Channel{in.Serial, in.Port})
	}
	line, err := json.Marshal(req)
	if err == nil {
		_, err = stdin.Write(append(line, '\n'))
	}
	sc := bufio.NewScanner(stdout)
	sc.Buffer(nil, maxLine)
	for err == nil && sc.Scan() {
		err = s.take(sc.Bytes())
	}
	if err == nil {
		err = sc.Err()
	}
	_ = stdin.Close()
	if err != nil {
		_ = cmd.Process.Kill() // it says what we do not understand
	}
	ended := cmd.Wait()
	switch {
	case err != nil:
		return fmt.Errorf("the helper for Phidgets: %w", err)
	case complaint.String() != "":
		return fmt.Errorf("the helper for Phidgets ended: %s", complaint.String())
	case ended != nil:
		return fmt.Errorf("the helper for Phidgets ended: %w", ended)
	}
	return errors.New("the helper for Phidgets ended")
}

// take notes a report.
func (s *Source) take(line []byte) error {
	var r Report
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("read its report: %w", err)
	}
	if r.Problem == "" && len(r.Readings) != len(s.cfg.Inputs) {
		return fmt.Errorf("its report has %d inputs of %d", len(r.Readings), len(s.cfg.Inputs))
	}
	if r.Problem != "" {
		s.tell(errors.New(r.Problem))
		return nil
	}
	s.tell(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for i, reading := range r.Readings {
		if reading.Missing == "" && (math.IsNaN(reading.Ratio) || math.Abs(reading.Ratio) > 10) {
			reading = Reading{Missing: "the board says what cannot be"}
		}
		in := s.inputs[s.cfg.Inputs[i].Name]
		if in.reading.Missing != reading.Missing {
			s.log.Info("Phidget input", "point", in.Name, "serial", in.Serial, "port", in.Port, "missing", reading.Missing)
		}
		in.reading, in.when = reading, now
	}
	return nil
}

// tell notes whether the helper works, and logs it when that changes.
func (s *Source) tell(err error) {
	s.mu.Lock()
	before := s.broken
	s.broken = ""
	if err != nil {
		s.broken = err.Error()
	}
	now := s.broken
	s.mu.Unlock()
	if now != before && now != "" {
		s.log.Warn("no sensors at Phidgets", "err", err)
	}
}

// tail keeps the last line that was written to it.
type tail struct{ last []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.last = append(t.last, p...)
	t.last = t.last[max(0, len(t.last)-1024):]
	return len(p), nil
}

func (t *tail) String() string {
	lines := bytes.Split(bytes.TrimSpace(t.last), []byte("\n"))
	return strings.ToValidUTF8(string(lines[len(lines)-1]), "")
}
