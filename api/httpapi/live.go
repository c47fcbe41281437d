package httpapi

import (
	"net/http"
	"time"

	"opentap/fault"
	"opentap/want"
)

// ServeLive answers GET with a stream that goes on: what is written to it is sent at once. Headers go out with the first
// octets, so that a stream that cannot begin is told as an error. A client that takes nothing for the stall timeout is cut
// off; one that is sent nothing is waited for. It does not close rt.
func ServeLive(w http.ResponseWriter, r *http.Request, rt *want.Retrieval) error {
	if r.Method == http.MethodHead {
		err := WithStatus(http.StatusMethodNotAllowed, fault.Invalid, "a live stream cannot be looked at without being begun")
		err.(*statusError).header = http.Header{"Allow": {"GET"}}
		return err
	}
	h := w.Header()
	b := &body{w: w, rc: http.NewResponseController(w), stall: stallOf(r), left: -1, begin: func() {
		h.Set("Content-Type", rt.Format.MediaType())
		h.Set("Content-Disposition", disposition(rt.FileName, rt.Format))
		h.Set("Accept-Ranges", "none")
		h.Set("X-Accel-Buffering", "no") // of nginx, should it stand between
		w.WriteHeader(http.StatusOK)
	}}
	err := rt.Write(r.Context(), flushed{b}, 0, -1)
	switch {
	case err != nil && !b.started: // it can still be told
		return err
	case err != nil:
		return streamError(b.octets, err)
	}
	b.start()
	return nil
}

// flushed is a body that holds nothing back. Between writes there is no deadline: there may be nothing to send for long.
type flushed struct{ *body }

// Write implements io.Writer.
func (f flushed) Write(p []byte) (int, error) {
	n, err := f.body.Write(p)
	if err == nil {
		err = f.rc.Flush()
	}
	_ = f.rc.SetWriteDeadline(time.Time{})
	return n, err
}
