package agentapi

import (
	"context"
	"io"

	"opentap/want"
)

// Near has captured data of a node whose agent is in this process taken from it directly: its octets then do not cross the
// connection in memory, which costs ten times what reading them does. Everything else of its session does. It is called
// before the hub is used.
func (h *Hub) Near(nodeID string, l Local) { h.near[nodeID] = l }

// openNear is Open for a node whose agent is in this process. Errors are as they are from one that is not.
func (h *Hub) openNear(ctx context.Context, l Local, uid string, o want.OpenOptions) (*want.Retrieval, error) {
	r, err := l.Open(ctx, uid, o)
	if err != nil {
		return nil, faultFromWire(faultToWire(err))
	}
	near := *r
	near.Write = func(ctx context.Context, w io.Writer, offset, length int64) error {
		out := &outward{w: w}
		err := r.Write(ctx, out, offset, length)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case out.err != nil:
			return out.err
		}
		return faultFromWire(faultToWire(err))
	}
	return &near, nil
}

// outward remembers an error of the writer, to tell it from one of the data. It hides what else the writer can do.
type outward struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (o *outward) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		o.err = err
	}
	return n, err
}
