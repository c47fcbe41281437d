package v1

import (
	"context"

	"opentap/auth"
	"opentap/want"
)

// RecorderWish is the body of PUT /v1/recorders/{point}.
type RecorderWish struct {
	Filter string        `json:"filter"`
	Snap   int           `json:"snap"`
	Bytes  int64         `json:"bytes"`
	Age    want.Duration `json:"age"`

	Compress string `json:"compress"`
	Fanout   int    `json:"fanout"`
}

func (s *server) setRecorder(ctx context.Context, id auth.Identity, point string, w RecorderWish) (want.RecorderView, bool, error) {
	return s.ctl.SetRecorder(ctx, id, point, want.Recorder{Filter: w.Filter, Snap: w.Snap, Bytes: w.Bytes, Age: w.Age, Compress: w.Compress, Fanout: w.Fanout})
}
