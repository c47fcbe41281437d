// Package iio reads sensors of the kernel's Industrial I/O subsystem from sysfs: accelerometers, gyroscopes, light, pressure,
// humidity, gas.
//
// Runs in: agent | tools
package iio

import (
	"context"

	"opentap/sensor/sysfs"
)

// New makes a source that reads the devices of bus iio in the sysfs tree at root ("" = sysfs.DefaultRoot). It reads nothing yet.
//
// Names are iio/<chip>/<channel>, with the channel as the kernel names it (accel_x, temp, voltage0) and the chip as hwmon has
// it: the driver's name, and the address of its device where that adds something. Labels are aliases.
func New(root string) *sysfs.Source {
	return sysfs.NewSource(root, func(ctx context.Context, root string) ([]sysfs.Channel, error) {
		found, err := find(ctx, root)
		out := make([]sysfs.Channel, len(found))
		for i := range found {
			c := &found[i]
			out[i] = sysfs.Channel{Name: c.name, Alias: c.alias, Quantity: c.kind.quantity, Unit: c.kind.unit, Read: c.read}
		}
		return out, err
	})
}

// channel is one value that can be read: (raw + offset) · scale · kind.factor, or input · kind.factor where the driver does the
// sum itself. Documentation/ABI/testing/sysfs-bus-iio (Linux 6.1).
type channel struct {
	name, alias   string
	dir           string
	file          string // of the value
	done          bool   // file is an _input: scale and offset are in it
	scale, offset string // files; "" = 1 and 0
	kind          *kind
}

// kind is one kind of channel.
type kind struct {
	prefix   string // what the channel's name begins with
	quantity string
	unit     string  // UCUM
	factor   float64 // units in one of the ABI's
}

// kinds of channels. Longer prefixes stand before shorter ones that they begin with.
var kinds = []kind{
	{"accel", "motion", "m/s2", 1},
	{"anglvel", "angular velocity", "rad/s", 1},
	{"angl", "angle", "rad", 1},
	{"capacitance", "capacitance", "nF", 1},
	{"concentration", "concentration", "%", 1},
	{"current", "current", "A", 1e-3},
	{"distance", "distance", "m", 1},
	{"electricalconductivity", "electrical conductivity", "S/m", 1},
	{"energy", "energy", "J", 1},
	{"gravity", "gravity", "m/s2", 1},
	{"humidityrelative", "humidity", "%", 1e-3},
	{"illuminance", "illuminance", "lx", 1},
	{"incli", "inclination", "deg", 1},
	{"intensity", "light intensity", "1", 1},
	{"magn", "magnetic field", "G", 1},
	{"ph", "acidity", "[pH]", 1},
	{"power", "power", "W", 1e-3},
	{"pressure", "pressure", "kPa", 1},
	{"proximity", "proximity", "1", 1},
	{"resistance", "resistance", "Ohm", 1},
	{"temp", "temperature", "Cel", 1e-3},
	{"velocity", "velocity", "m/s", 1},
	{"voltage", "voltage", "V", 1e-3},
}

// read reads the value once, in the kind's unit.
func (c *channel) read() (float64, error) {
	v, err := sysfs.ReadFloat(c.dir, c.file)
	if err != nil || c.done {
		return v * c.kind.factor, err
	}
	if c.offset != "" {
		offset, err := sysfs.ReadFloat(c.dir, c.offset)
		if err != nil {
			return 0, err
		}
		v += offset
	}
	if c.scale != "" {
		scale, err := sysfs.ReadFloat(c.dir, c.scale)
		if err != nil {
			return 0, err
		}
		v *= scale
	}
	return v * c.kind.factor, nil
}
