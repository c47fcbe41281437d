package doortest

import (
	"context"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// Sensors finds two sensors, one of which is gone, and a broker that is away.
func (c *Controller) Sensors(_ context.Context, id auth.Identity) (want.Sensors, error) {
	if !id.May(auth.ReadPayload) {
		return want.Sensors{}, fault.New(fault.Forbidden, "%s may not read data", id.Name)
	}
	at, warm := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC), 21.5
	return want.Sensors{
		Readings: []want.SensorReading{
			{Node: "tap1", Point: "hwmon/coretemp/temp1", Aliases: []string{"coretemp Package id 0"}, Quantity: "temperature", Unit: "Cel", Time: at, Value: &warm},
			{Node: "tap1", Point: "rack", Quantity: "temperature", Unit: "Cel", Time: at, Missing: "the board is not attached"},
		},
		Problems: []string{"tap1: the broker tcp://10.0.0.9:1883 cannot be used: no answer"},
	}, nil
}
