package sshapi

import (
	"context"
	"io"
	"os"
	"sync"
	"time"

	"opentap/want"
)

// Sizes of a file's window on its stream. Octets. Clients ask for pieces of 32 KiB, many at a time, nearly in order.
const (
	windowAhead = 512 << 10
	windowBack  = 512 << 10
	windowJump  = 1 << 20   // a gap that is read over rather than jumped
	windowSlack = 256 << 10 // of a stream begun in the middle: pieces may come out of order
)

// streamPatience is how long a stream is held for a client that asks for nothing.
const streamPatience = 30 * time.Second

// snapshotFile reads a retrieval by offset: from one stream while offsets go forward, and from a new one when they jump. All
// streams are of one snapshot.
type snapshotFile struct {
	ctx     context.Context
	rt      *want.Retrieval
	release func()

	turn sync.Mutex // one ReadAt at a time

	mu     sync.Mutex
	moved  sync.Cond
	buf    []byte // octets base to base+len(buf)
	base   int64
	asked  int64 // the end of what was asked for last
	err    error // how the stream ended
	stop   context.CancelFunc
	done   chan struct{} // closed when the stream has ended; nil = there is none
	rest   *time.Timer
	closed bool
}

func newSnapshotFile(ctx context.Context, rt *want.Retrieval, release func()) *snapshotFile {
	f := &snapshotFile{ctx: ctx, rt: rt, release: release}
	f.moved.L = &f.mu
	return f
}

// ReadAt implements io.ReaderAt.
func (f *snapshotFile) ReadAt(p []byte, off int64) (int, error) {
	f.turn.Lock()
	defer f.turn.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return 0, os.ErrClosed
	case off < 0:
		return 0, os.ErrInvalid
	case off >= f.rt.Size:
		return 0, io.EOF
	}
	short := int64(len(p)) > f.rt.Size-off
	if short {
		p = p[:f.rt.Size-off]
	}
	end := off + int64(len(p))
	if f.rest != nil {
		f.rest.Stop()
	}
	have := f.base + int64(len(f.buf))
	if off < f.base || off > have+windowJump || end > have && f.done == nil {
		if err := f.jump(off); err != nil {
			return 0, err
		}
	}
	f.asked = end
	f.moved.Broadcast()
	for f.base+int64(len(f.buf)) < end && f.err == nil && !f.closed {
		f.moved.Wait()
	}
	if f.closed {
		return 0, os.ErrClosed
	}
	if f.base+int64(len(f.buf)) < end {
		err := f.err
		f.end()
		return 0, err
	}
	n := copy(p, f.buf[off-f.base:])
	f.rest = time.AfterFunc(streamPatience, f.pause)
	if short {
		return n, io.EOF
	}
	return n, nil
}

// pause gives the stream back; what is in the window stays.
func (f *snapshotFile) pause() {
	f.turn.Lock()
	defer f.turn.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end()
}

// end ends the stream and waits for it. The lock is held, and given up meanwhile.
func (f *snapshotFile) end() {
	if f.done == nil {
		return
	}
	done := f.done
	f.stop()
	f.moved.Broadcast()
	f.mu.Unlock()
	<-done
	f.mu.Lock()
	f.done, f.err = nil, nil
}

// jump begins a stream at off, or a little before.
func (f *snapshotFile) jump(off int64) error {
	f.end()
	if f.closed {
		return os.ErrClosed
	}
	if err := f.ctx.Err(); err != nil {
		return err
	}
	f.base, f.buf = max(off-windowSlack, 0), f.buf[:0]
	f.asked = off
	ctx, cancel := context.WithCancel(f.ctx)
	done := make(chan struct{})
	f.stop, f.done = cancel, done
	from := f.base
	wake := context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.moved.Broadcast()
	})
	go func() {
		defer close(done)
		defer cancel()
		defer wake()
		err := f.rt.Write(ctx, &feed{f, ctx}, from, f.rt.Size-from)
		if err == nil {
			err = io.ErrUnexpectedEOF // for whoever waits for more
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.err = err
		f.moved.Broadcast()
	}()
	return nil
}

// feed is what a stream writes to. It waits when it is far enough ahead.
type feed struct {
	f   *snapshotFile
	ctx context.Context
}

func (w *feed) Write(p []byte) (int, error) {
	f := w.f
	f.mu.Lock()
	defer f.mu.Unlock()
	total := 0
	for len(p) > 0 {
		for f.base+int64(len(f.buf)) >= f.asked+windowAhead && w.ctx.Err() == nil {
			f.moved.Wait()
		}
		if err := w.ctx.Err(); err != nil {
			return total, err
		}
		if old := f.asked - windowBack - f.base; old > windowBack && old <= int64(len(f.buf)) {
			f.buf = f.buf[:copy(f.buf, f.buf[old:])]
			f.base += old
		}
		n := min(len(p), 64<<10)
		f.buf = append(f.buf, p[:n]...)
		p, total = p[n:], total+n
		f.moved.Broadcast()
	}
	return total, nil
}

// Close gives everything back.
func (f *snapshotFile) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return os.ErrClosed
	}
	f.closed = true
	if f.stop != nil {
		f.stop()
	}
	f.moved.Broadcast()
	f.mu.Unlock()
	f.turn.Lock()
	defer f.turn.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rest != nil {
		f.rest.Stop()
	}
	f.end()
	f.buf = nil
	defer f.release()
	return f.rt.Close()
}
