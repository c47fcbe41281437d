package agent

import (
	"context"
	"encoding/json"
	"io"

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
