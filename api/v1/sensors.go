package v1

import (
	"context"

	"opentap/auth"
	"opentap/want"
)

// Sensors is what the door asks of the controller about sensors.
type Sensors interface {
	Sensors(ctx context.Context, id auth.Identity) (want.Sensors, error)
}
