package agent

import (
	"context"
	"time"

	"opentap/capture"
	"opentap/want"
)

// openPatience is how long a capture may take to begin before it is called running without being so yet.
const openPatience = 5 * time.Second

// attached is an attachment, or several as one.
type attached interface {
	Open() <-chan struct{}
	Done() <-chan struct{}
	Progress() capture.Progress
	Detach(ctx context.Context) error
}

// awaitOpen returns when the point is observed, so that a capture is called running when it is, and not before. When that takes
// too long it returns since when packets may be missed; zero = it did not.
func awaitOpen(att attached) (late time.Time) {
	select {
	case <-att.Open():
		return time.Time{}
	case <-time.After(openPatience):
		return time.Now().UTC()
	}
}

// lateGap is the gap of a point whose ring was not yet open when its capture was called running; none if it was. pr is the
// attachment's progress now.
func lateGap(point string, late time.Time, pr *capture.Progress) []want.Gap {
	if late.IsZero() {
		return nil
	}
	return []want.Gap{{From: late, To: pr.Began, Reason: point + ": its ring was still being opened"}}
}
