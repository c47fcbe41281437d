// Package taptest is what each driver of taps must pass: apply twice, change, crash, find what was left, undo; choose by a filter, reach other
// hosts, or say that it cannot.
//
// Runs in: tools
package taptest

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"opentap/internal/nettest"
	"opentap/tap"
)

// Lab is a node with two devices, of which the first has an owner who sends and the second a tool that listens.
type Lab struct {
	// Open makes a driver of the node, as a new process would.
	Open func() tap.Driver
	// Do runs fn where drivers are to be called.
	Do func(fn func())
	// Source and Tool are the devices.
	Source, Tool string
	// Send has the source's owner send frames.
	Send func(frames ...[]byte)
	// Hear returns what the tool has heard since it was last asked. It waits until it was quiet for a moment.
	Hear func() [][]byte
	// Vanish takes the source's device away; Return makes one of that name again.
	Vanish, Return func()
	// Merges says that a packet which several taps copy to one device comes there once, and is counted by one of them.
	Merges bool
	// NoFilter says that the driver copies all packets of a port or none.
	NoFilter bool
	// Far is another host. nil = the driver reaches none.
	Far *Far
	// Strange makes something like a tap that is not ours; the function reports whether it is as it was.
	Strange func() (untouched func() bool)
}

// Driver has a driver pass the suite in a lab of its own for each part.
func Driver(t *testing.T, lab func(t *testing.T) *Lab) {
	for _, part := range []struct {
		name string
		run  func(*bench)
	}{
		{"copies each packet once", once},
		{"is level-triggered", level},
		{"keeps taps apart", apart},
		{"is taken over by the next process", takenOver},
		{"prunes what was left", prunes},
		{"finds a device again", again},
		{"says what it lacks", lacks},
		{"chooses by a filter", filters},
		{"reaches another host", reaches},
		{"takes copies out of tunnels", sinks},
		{"leaves strangers alone", strangers},
	} {
		t.Run(part.name, func(t *testing.T) {
			l := lab(t)
			b := &bench{T: t, Lab: l, d: l.Open(), from: 1}
			defer func() {
				b.Do(func() {
					if _, err := b.d.Prune(context.Background(), func(string) bool { return false }); err != nil {
						t.Errorf("prune at the end: %v", err)
					}
					if err := b.d.Close(); err != nil {
						t.Errorf("close: %v", err)
					}
				})
			}()
			part.run(b)
		})
	}
}

type bench struct {
	*testing.T
	*Lab
	d    tap.Driver
	from uint32 // number of the packet that is sent next
}

// source asks for everything that the owner sends.
func (b *bench) source(id string) tap.Source {
	return tap.Source{ID: id, Device: tap.Device{Name: b.Source}, Direction: tap.Out, To: tap.Target{Device: tap.Device{Name: b.Tool}}}
}

func (b *bench) update(s tap.Source) {
	b.Helper()
	if err := b.try(s); err != nil {
		b.Fatalf("update %s: %v", s.ID, err)
	}
}

func (b *bench) try(s tap.Source) (err error) {
	b.Do(func() { _, err = b.d.UpdateSource(context.Background(), s) })
	return err
}

func (b *bench) delete(id string) {
	b.Helper()
	var err error
	b.Do(func() { err = b.d.Delete(context.Background(), id) })
	if err != nil {
		b.Fatalf("delete %s: %v", id, err)
	}
}

func (b *bench) prune(keep ...string) []string {
	b.Helper()
	var removed []string
	var err error
	b.Do(func() {
		removed, err = b.d.Prune(context.Background(), func(id string) bool { return slices.Contains(keep, id) })
	})
	if err != nil {
		b.Fatalf("prune: %v", err)
	}
	slices.Sort(removed)
	return removed
}

// crash has the process end without a word, and another one begin.
func (b *bench) crash() {
	b.Helper()
	b.Do(func() {
		if err := b.d.Close(); err != nil {
			b.Errorf("close: %v", err)
		}
	})
	b.d = b.Open()
}

// expect sends n packets and wants each to be heard so many times.
func (b *bench) expect(n, times int) {
	b.Helper()
	frames := b.packets(n)
	b.Send(frames...)
	b.copied(b.Hear(), n, times)
}

// port is where packets are sent to.
const port = 4711

// packets makes n packets with the numbers that are next.
func (b *bench) packets(n int) (frames [][]byte) {
	for range n {
		frames = append(frames, nettest.Packet{DstPort: port, Payload: binary.BigEndian.AppendUint32(nil, b.from)}.Bytes())
		b.from++
	}
	return frames
}

// copied wants frames that were heard to have each of the n packets that were made last so many times.
func (b *bench) copied(frames [][]byte, n, times int) {
	b.Helper()
	const ports, payload = 36, 42 // offsets of UDP's destination port and of what follows it
	copies := make(map[uint32]int)
	more := 0
	for _, f := range frames {
		if len(f) < payload+4 || binary.BigEndian.Uint16(f[ports:]) != port {
			continue
		}
		if i := binary.BigEndian.Uint32(f[payload:]); i < b.from && i >= b.from-uint32(n) {
			if copies[i]++; copies[i] > 1 {
				more++
			}
		}
	}
	if len(copies) != n*min(times, 1) || more != n*max(times-1, 0) {
		b.Fatalf("of %d packets %d were heard, and %d more than once; want each %d times", n, len(copies), more, times)
	}
}

// counted wants the counters of a tap to come to n, and to add up.
func (b *bench) counted(id string, n uint64) {
	b.Helper()
	var c tap.Counts
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var err error
		if c, err = b.d.Counts(id); err != nil {
			b.Fatalf("counts of %s: %v", id, err)
		}
		if c.Mirrored >= n || time.Now().After(deadline) {
			break
		}
	}
	sum := c.Mirrored + c.NotMatched + c.SampledOut + c.RateLimited + c.TooLong
	for _, k := range c.Errors {
		sum += k
	}
	if c.Mirrored != n || c.Seen != sum {
		b.Fatalf("counts of %s are %+v, want %d mirrored", id, c, n)
	}
}

func once(b *bench) {
	b.expect(10, 0)
	b.update(b.source("a"))
	b.expect(1000, 1)
	b.counted("a", 1000)
	b.delete("a")
	b.delete("a")
	b.expect(10, 0)
	if _, err := b.d.Counts("a"); err == nil {
		b.Error("a tap that is away has counters")
	}
}

func level(b *bench) {
	for range 3 {
		b.update(b.source("a"))
	}
	b.expect(100, 1)
	b.counted("a", 100)
	in := b.source("a")
	in.Direction = tap.In
	b.update(in)
	b.expect(100, 0)
	in.Direction = tap.Both
	b.update(in)
	b.expect(100, 1)
}

func apart(b *bench) {
	b.update(b.source("a"))
	b.update(b.source("b"))
	if b.Merges {
		b.expect(50, 1)
		b.delete("a")
		b.expect(50, 1)
		return
	}
	b.expect(50, 2)
	b.delete("a")
	b.expect(50, 1)
	b.counted("b", 100)
}

func takenOver(b *bench) {
	b.update(b.source("a"))
	b.expect(100, 1)
	b.Do(func() {
		if err := b.d.Close(); err != nil {
			b.Error(err)
		}
	})
	b.expect(100, 1) // nobody is there
	b.d = b.Open()
	b.expect(100, 1)
	b.update(b.source("a"))
	b.expect(100, 1)
	b.counted("a", 400)
	b.crash()
	b.delete("a")
	b.expect(10, 0)
}

func prunes(b *bench) {
	b.update(b.source("a"))
	b.update(b.source("b"))
	b.update(b.source("c"))
	b.crash()
	if removed := b.prune("b"); !slices.Equal(removed, []string{"a", "c"}) {
		b.Errorf("removed %v, want a and c", removed)
	}
	b.expect(50, 1)
	if removed := b.prune(); !slices.Equal(removed, []string{"b"}) {
		b.Errorf("removed %v, want b", removed)
	}
	b.expect(50, 0)
	if removed := b.prune(); len(removed) != 0 {
		b.Errorf("removed %v of nothing", removed)
	}
	b.update(b.source("a")) // all can begin anew
	b.expect(50, 1)
}

func again(b *bench) {
	b.update(b.source("a"))
	b.expect(50, 1)
	b.Vanish()
	if err := b.try(b.source("a")); !errors.Is(err, tap.ErrNoDevice) {
		b.Errorf("without its device: %v, want ErrNoDevice", err)
	}
	b.Return()
	b.update(b.source("a"))
	b.expect(50, 1)
	b.crash()
	b.Vanish()
	b.Return()
	b.update(b.source("a"))
	b.expect(50, 1)
}

func lacks(b *bench) {
	s := b.source("a")
	s.Device.Name = "nosuch0"
	if err := b.try(s); !errors.Is(err, tap.ErrNoDevice) {
		b.Errorf("no source: %v, want ErrNoDevice", err)
	}
	s = b.source("a")
	s.To.Device.Name = "nosuch0"
	if err := b.try(s); !errors.Is(err, tap.ErrNoDevice) {
		b.Errorf("no destination: %v, want ErrNoDevice", err)
	}
	s = b.source("a")
	s.Options.Filter = "no such ("
	if err := b.try(s); err == nil {
		b.Error("a filter that is none is taken")
	}
	b.expect(10, 0)
	b.prune()
}

func strangers(b *bench) {
	untouched := b.Strange()
	b.update(b.source("a"))
	b.expect(20, 1)
	b.crash()
	b.prune()
	if !untouched() {
		b.Error("what is not ours was changed")
	}
}
