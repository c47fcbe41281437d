package agentapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"opentap/agentapi/agentpb"
	"opentap/fault"
	"opentap/want"
)

// Stream has the node send packets as they come, and writes the octets to w as they come: a pcapng section in whole
// blocks, though not one a write. It returns nil when the stream ended as it should: by what spec says, or because end
// was closed. When ctx ends it returns at once, and the node is told. A fault says that the stream could not begin, when
// nothing has been written, or that it broke.
func (h *Hub) Stream(ctx context.Context, end <-chan struct{}, nodeID, nodeName string, spec want.LiveSpec, w io.Writer) error {
	b, err := json.Marshal(&spec)
	if err != nil {
		return err
	}
	if end == nil {
		end = make(chan struct{})
	}
	h.mu.Lock()
	s := h.sessions[nodeID]
	h.mu.Unlock()
	if s == nil {
		return unavailable(nodeName)
	}
	return h.deliver(ctx, end, s, w, func(request uint64) *agentpb.HubMessage {
		return &agentpb.HubMessage{Kind: &agentpb.HubMessage_Stream{Stream: &agentpb.Stream{Request: request, Spec: b}}}
	})
}

// deliver sends a request and copies what a Deliver stream brings in answer.
func (h *Hub) deliver(ctx context.Context, end <-chan struct{}, s *session, w io.Writer, ask func(request uint64) *agentpb.HubMessage) error {
	pr, pw := io.Pipe()
	defer pr.Close()
	defer context.AfterFunc(ctx, func() { _ = pr.CloseWithError(ctx.Err()) })()
	d := &delivery{node: s.id.NodeID, pw: pw}
	h.mu.Lock()
	h.next++
	request := h.next
	h.reads[request] = d
	gone := h.sessions[s.id.NodeID] != s
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.reads, request)
		h.mu.Unlock()
	}()
	if gone {
		return unavailable(s.id.NodeName)
	}
	tell := func(m *agentpb.HubMessage) error {
		select {
		case s.out <- m:
			return nil
		case <-s.done:
			return unavailable(s.id.NodeName)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := tell(ask(request)); err != nil {
		return err
	}
	if end != nil {
		over, told := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(told)
			select {
			case <-end:
			case <-ctx.Done():
			case <-over:
			}
			m := &agentpb.HubMessage{Kind: &agentpb.HubMessage_EndStream{EndStream: &agentpb.EndStream{Request: request}}}
			select {
			case s.out <- m:
			case <-s.over:
			}
		}()
		defer func() { close(over); <-told }()
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, pr, make([]byte, chunkSize))
	if ctx.Err() != nil {
		return ctx.Err() // even if the node, told of it, was quick to end in good order
	}
	return err
}

// beginStream notes a stream before another message can ask for its end.
func (v *visit) beginStream(request uint64) <-chan struct{} {
	end := make(chan struct{})
	v.mu.Lock()
	v.streams[request] = end
	v.mu.Unlock()
	return end
}

// answerStream sends what the Local streams, each write at once.
func (v *visit) answerStream(ctx context.Context, end <-chan struct{}, r *agentpb.Stream) {
	defer v.endStream(r.Request)
	fail := func(err error) {
		v.answer(ctx, &agentpb.AgentMessage{Kind: &agentpb.AgentMessage_ReadFailed{ReadFailed: &agentpb.ReadFailed{Request: r.Request, Fault: faultToWire(err)}}})
	}
	var spec want.LiveSpec
	if err := json.Unmarshal(r.Spec, &spec); err != nil {
		fail(fault.New(fault.Internal, "the controller asked for a stream in a form that this agent does not know: %v", err))
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &atOnce{v: v, ctx: ctx, request: r.Request}
	err := v.l.local.Live(ctx, end, spec, w)
	switch {
	case w.out == nil && err != nil:
		fail(err)
		return
	case w.out == nil: // it ended without a single octet
		if _, err := w.Write(nil); err != nil {
			return
		}
	case w.out.err != nil || ctx.Err() != nil:
		return // the reader went away, or we do: the stream breaks off, which nobody takes for an end
	}
	last := &agentpb.Chunk{Request: r.Request, Last: true}
	if err != nil {
		last = &agentpb.Chunk{Request: r.Request, Fault: faultToWire(err)}
	}
	if err := w.out.stream.Send(last); err == nil {
		_, _ = w.out.stream.CloseAndRecv() // the reader has it all or has gone: nothing is left to do either way
	}
}

// endStream tells a stream to end, once.
func (v *visit) endStream(request uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if end := v.streams[request]; end != nil {
		delete(v.streams, request)
		close(end)
	}
}

// atOnce opens the Deliver stream with the first write and holds nothing back.
type atOnce struct {
	v       *visit
	ctx     context.Context
	request uint64
	out     *chunker
}

// Write implements io.Writer.
func (w *atOnce) Write(p []byte) (int, error) {
	if w.out == nil {
		stream, err := w.v.client.Deliver(w.ctx)
		if err != nil {
			return 0, fault.New(fault.Unavailable, "cannot open the data stream: %v", err)
		}
		w.out = &chunker{stream: stream, request: w.request, buf: make([]byte, 0, chunkSize)}
	}
	n, err := w.out.Write(p)
	return n, errors.Join(err, w.out.flush())
}
