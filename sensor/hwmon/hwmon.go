// Package hwmon reads the host's own sensors from sysfs: temperatures, voltages, fans, power.
//
// Runs in: agent | tools
package hwmon

import (
	"context"
	"errors"
	"fmt"

	"opentap/sensor/sysfs"
)

// New makes a source that reads the classes hwmon and thermal of the sysfs tree at root ("" = sysfs.DefaultRoot). It reads nothing yet.
//
// Names are made of what stays the same over reboots and hot-plugging: hwmon/<chip>/<channel> with the channel as the
// kernel numbers it (temp1, in0, fan2), and thermal/<zone type>. A chip is the driver's name and the address of its
// device where that adds something: coretemp, nvme-0000:01:00.0, lm75-1-0048. What would still have the same name, such as
// two thermal zones of one type, is numbered in the kernel's order: thermal/acpitz, thermal/acpitz#2.
// The administrator's labels, such as "coretemp Package id 0", are aliases.
func New(root string) *sysfs.Source {
	return sysfs.NewSource(root, func(ctx context.Context, root string) ([]sysfs.Channel, error) {
		chips, err := findChips(ctx, root)
		if err != nil {
			return nil, err
		}
		zones, err := findZones(ctx, root)
		if err != nil {
			return nil, fmt.Errorf("thermal zones: %w", err)
		}
		return readable(append(chips, zones...)), nil
	})
}

// readable shows channels as those of sysfs.
func readable(list []channel) []sysfs.Channel {
	out := make([]sysfs.Channel, len(list))
	for i := range list {
		c := &list[i]
		out[i] = sysfs.Channel{Name: c.name, Alias: c.alias, Quantity: c.kind.quantity, Unit: c.kind.unit, Read: c.read}
	}
	return out
}

// channel is one value that can be read.
type channel struct {
	name  string
	alias string
	dir   string // sysfs directory that has its files
	file  string // the file of the value
	fault string // the file that is 1 when the sensor is broken; may not exist
	kind  *kind
}

// kind is one kind of channel, Documentation/hwmon/sysfs-interface.rst (Linux 6.1).
type kind struct {
	prefix   string
	suffixes []string // of the value's file, the best first
	quantity string
	unit     string  // UCUM
	scale    float64 // units a count
}

var kinds = []kind{
	{"temp", []string{"_input"}, "temperature", "Cel", 1e-3},
	{"in", []string{"_input"}, "voltage", "V", 1e-3},
	{"fan", []string{"_input"}, "fan speed", "{rpm}", 1},
	{"power", []string{"_input", "_average"}, "power", "W", 1e-6},
	{"curr", []string{"_input"}, "current", "A", 1e-3},
	{"humidity", []string{"_input"}, "humidity", "%", 1e-3},
	{"energy", []string{"_input"}, "energy", "J", 1e-6},
}

// thermalKind is of class thermal: milli-degrees, Documentation/driver-api/thermal/sysfs-api.rst.
var thermalKind = kind{"", nil, "temperature", "Cel", 1e-3}

// errFault says that the driver itself distrusts the sensor.
var errFault = errors.New("the chip reports a broken sensor")

// read reads the value once, in the kind's unit.
func (c *channel) read() (float64, error) {
	n, err := sysfs.ReadInt(c.dir, c.file)
	if err != nil {
		return 0, err
	}
	if c.fault != "" {
		if f, err := sysfs.ReadInt(c.dir, c.fault); err == nil && f != 0 {
			return 0, errFault
		}
	}
	return float64(n) * c.kind.scale, nil
}
