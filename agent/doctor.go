package agent

import (
	"context"
	"encoding/json"
	"io"
	"sync"

	"opentap/fault"
	"opentap/want"
)

// Doctor has this host look at itself.
type Doctor func(ctx context.Context) (want.Examination, error)

// SetDoctor gives the way to the doctor; it must be called before Run.
func (a *Agent) SetDoctor(d Doctor) { a.doctor = d }

// showExamination writes what this host finds when it looks at itself. It gives up when end is closed.
func (a *Agent) showExamination(ctx context.Context, end <-chan struct{}, w io.Writer) error {
	if a.doctor == nil {
		return fault.New(fault.Unsupported, "node %s has no doctor", a.cfg.NodeName)
	}
	ctx, cancel := untilEnd(ctx, end)
	defer cancel()
	x, err := a.doctor(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(&x)
}

// untilEnd is ctx until end is closed. cancel waits for what watches for that.
func untilEnd(ctx context.Context, end <-chan struct{}) (until context.Context, cancel func()) {
	until, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() {
		select {
		case <-end:
			stop()
		case <-until.Done():
		}
	})
	return until, func() { stop(); ended.Wait() }
}
