package agentapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"opentap/fault"
	"opentap/want"
)

// TestNearAndFar demands the same of an agent in this process as of one that is not.
func TestNearAndFar(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	for name, near := range map[string]bool{"near": true, "far": false} {
		t.Run(name, func(t *testing.T) {
			open := func(l *local) *want.Retrieval {
				t.Helper()
				p := join(t, l)
				if near {
					p.hub.Near("n1", l)
				}
				var f *fault.Error
				if _, err := p.hub.Open(t.Context(), "n1", "host1", "unknown", want.OpenOptions{}); !errors.As(err, &f) || f.Kind != fault.NotFound || f.Hint != "look again" {
					t.Errorf("no such capture: %v", err)
				}
				r, err := p.hub.Open(t.Context(), "n1", "host1", "known", want.OpenOptions{Format: want.Pcap})
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			l := &local{data: data}
			r := open(l)
			if r.Size != int64(len(data)) || r.Format != want.Pcap || r.ETag != "e" || r.Records != 3 || !r.Final || r.Ledger.Seen != 7 {
				t.Errorf("%+v", r)
			}
			for _, c := range []struct{ offset, length, end int64 }{{0, -1, r.Size}, {999_990, -1, r.Size}, {5, 300_000, 300_005}} {
				var b bytes.Buffer
				if err := r.Write(t.Context(), &b, c.offset, c.length); err != nil || !bytes.Equal(b.Bytes(), data[c.offset:c.end]) {
					t.Errorf("%+v: %d octets, %v", c, b.Len(), err)
				}
			}
			if err := r.Write(t.Context(), &brokenWriter{after: 10}, 0, -1); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("a reader that goes away: %v", err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			broken := open(&local{data: data, failAt: 1000})
			if err := broken.Write(t.Context(), io.Discard, 0, -1); err == nil || err.Error() != "the disk broke" {
				t.Errorf("a disk that breaks: %v", err)
			}
			blocked := open(&local{data: data, block: make(chan struct{})})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			if err := blocked.Write(ctx, io.Discard, 0, -1); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a read that takes too long: %v", err)
			}
		})
	}
}

// TestNearNeedsASession: without a session nothing of the node is known to be right.
func TestNearNeedsASession(t *testing.T) {
	p := join(t, &local{data: make([]byte, 10)})
	p.hub.Near("n2", p.local)
	if _, err := p.hub.Open(t.Context(), "n2", "host2", "known", want.OpenOptions{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("%v", err)
	}
}
