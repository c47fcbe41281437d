package snmp

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"

	"github.com/gosnmp/gosnmp"
)

// reading is how one sensor is read.
type reading struct {
	name, alias    string
	quantity, unit string // UCUM
	factor         float64
	value          string // OID
	status         string // OID of entPhySensorOperStatus; "" = none
}

// read asks for the value, and for how the sensor fares. missing says why there is no value.
func (r *reading) read(g *gosnmp.GoSNMP) (v float64, missing string, err error) {
	oids := []string{r.value}
	if r.status != "" {
		oids = append(oids, r.status)
	}
	answer, err := g.Get(oids)
	if err != nil {
		return 0, "", err
	}
	if answer.Error == gosnmp.NoSuchName {
		return 0, "the sensor is gone", nil
	}
	if answer.Error != gosnmp.NoError || len(answer.Variables) != len(oids) {
		return 0, "the device answers with an error: " + answer.Error.String(), nil
	}
	if r.status != "" {
		switch n, _ := integer(answer.Variables[1]); n { // RFC 3433, EntitySensorStatus
		case 2:
			return 0, "the device has no value now", nil
		case 3:
			return 0, "the device reports a broken sensor", nil
		}
	}
	n, ok := integer(answer.Variables[0])
	if !ok {
		return 0, "the sensor is gone", nil
	}
	if r.status != "" && (n <= -1e9 || n >= 1e9) { // RFC 3433, EntitySensorValue
		return 0, "the value is out of the sensor's range", nil
	}
	return float64(n) * r.factor, "", nil
}

// integer returns a number that SNMP has as INTEGER, Gauge32, Counter32 or the like.
func integer(v gosnmp.SnmpPDU) (int64, bool) {
	switch v.Type {
	case gosnmp.Integer, gosnmp.Gauge32, gosnmp.Counter32, gosnmp.Uinteger32, gosnmp.TimeTicks:
		b := gosnmp.ToBigInt(v.Value)
		return b.Int64(), b.IsInt64()
	}
	return 0, false
}

// text makes what a device calls something fit to show.
func text(v gosnmp.SnmpPDU) string {
	b, _ := v.Value.([]byte)
	s := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(b[:min(len(b), 64)]), ""))
	return strings.TrimSpace(s)
}

// column walks a column of a table: values by the index behind its OID. No such table is an empty one.
func column(g *gosnmp.GoSNMP, oid string) (map[string]gosnmp.SnmpPDU, error) {
	out := make(map[string]gosnmp.SnmpPDU)
	err := g.BulkWalk(oid, func(v gosnmp.SnmpPDU) error {
		if len(out) == maxRows {
			return fmt.Errorf("the table %s has more than %d rows", oid, maxRows)
		}
		out[strings.TrimPrefix(strings.TrimPrefix(v.Name, "."), strings.TrimPrefix(oid, ".")+".")] = v
		return nil
	})
	return out, err
}

// entPhySensorEntry, RFC 3433; names from entPhysicalEntry, RFC 6933.
const (
	sensorType      = ".1.3.6.1.2.1.99.1.1.1.1"
	sensorScale     = ".1.3.6.1.2.1.99.1.1.1.2"
	sensorPrecision = ".1.3.6.1.2.1.99.1.1.1.3"
	sensorValue     = ".1.3.6.1.2.1.99.1.1.1.4"
	sensorStatus    = ".1.3.6.1.2.1.99.1.1.1.5"
	physicalDescr   = ".1.3.6.1.2.1.47.1.1.1.1.2"
	physicalName    = ".1.3.6.1.2.1.47.1.1.1.1.7"
)

// sensorTypes are of EntitySensorDataType.
var sensorTypes = map[int64][2]string{
	1: {"other", "1"}, 2: {"unknown", "1"}, 3: {"voltage", "V"}, 4: {"voltage", "V"}, 5: {"current", "A"}, 6: {"power", "W"}, 7: {"frequency", "Hz"},
	8: {"temperature", "Cel"}, 9: {"humidity", "%"}, 10: {"fan speed", "{rpm}"}, 11: {"air flow", "m3/min"}, 12: {"state", "1"},
}

// findEntities finds the sensors of ENTITY-SENSOR-MIB.
func findEntities(g *gosnmp.GoSNMP) ([]reading, error) {
	types, err := column(g, sensorType)
	if err != nil || len(types) == 0 {
		return nil, err
	}
	var columns [4]map[string]gosnmp.SnmpPDU
	for i, oid := range []string{sensorScale, sensorPrecision, physicalName, physicalDescr} {
		if columns[i], err = column(g, oid); err != nil {
			return nil, err
		}
	}
	var out []reading
	for index, v := range types {
		n, _ := integer(v)
		kind, ok := sensorTypes[n]
		if !ok {
			continue
		}
		r := reading{name: "entity/" + index, quantity: kind[0], unit: kind[1], factor: 1, value: sensorValue + "." + index, status: sensorStatus + "." + index}
		if scale, ok := integer(columns[0][index]); ok && scale >= 1 && scale <= 17 { // 9 is units, each step is 10³
			r.factor = math.Pow10(int(scale-9) * 3)
		}
		if precision, ok := integer(columns[1][index]); ok && precision > 0 && precision <= 9 { // places behind the point
			r.factor *= math.Pow10(-int(precision))
		}
		if r.alias = text(columns[2][index]); r.alias == "" {
			r.alias = text(columns[3][index])
		}
		out = append(out, r)
	}
	return out, nil
}

// upsMIB is where UPS-MIB is, RFC 1628.
const upsMIB = ".1.3.6.1.2.1.33.1."

// upsValue is an object of UPS-MIB: a scalar, or with a table's column a value for each line.
type upsValue struct {
	oid, name      string
	quantity, unit string
	factor         float64
	lines          bool
}

var upsValues = []upsValue{
	{"2.1", "battery/status", "state", "1", 1, false}, // 1 unknown, 2 normal, 3 low, 4 depleted
	{"2.2", "battery/seconds", "time", "s", 1, false},
	{"2.3", "battery/remaining", "time", "min", 1, false},
	{"2.4", "battery/charge", "charge", "%", 1, false},
	{"2.5", "battery/voltage", "voltage", "V", 0.1, false},
	{"2.6", "battery/current", "current", "A", 0.1, false},
	{"2.7", "battery/temperature", "temperature", "Cel", 1, false},
	{"3.3.1.2", "input/%s/frequency", "frequency", "Hz", 0.1, true},
	{"3.3.1.3", "input/%s/voltage", "voltage", "V", 1, true},
	{"3.3.1.4", "input/%s/current", "current", "A", 0.1, true},
	{"3.3.1.5", "input/%s/power", "power", "W", 1, true},
	{"4.1", "output/source", "state", "1", 1, false}, // 3 normal, 5 battery …
	{"4.2", "output/frequency", "frequency", "Hz", 0.1, false},
	{"4.4.1.2", "output/%s/voltage", "voltage", "V", 1, true},
	{"4.4.1.3", "output/%s/current", "current", "A", 0.1, true},
	{"4.4.1.4", "output/%s/power", "power", "W", 1, true},
	{"4.4.1.5", "output/%s/load", "load", "%", 1, true},
}

// findUPS finds what a UPS shows of UPS-MIB.
func findUPS(g *gosnmp.GoSNMP) ([]reading, error) {
	all, err := column(g, strings.TrimSuffix(upsMIB, "."))
	if err != nil {
		return nil, err
	}
	var out []reading
	for _, u := range upsValues {
		for index, v := range all {
			line, ok := strings.CutPrefix(index, u.oid+".")
			if !ok {
				continue
			}
			if _, isNumber := integer(v); !isNumber {
				continue
			}
			r := reading{name: u.name, quantity: u.quantity, unit: u.unit, factor: u.factor, value: upsMIB + index}
			if u.lines {
				if _, err := strconv.ParseUint(line, 10, 32); err != nil {
					continue
				}
				r.name = fmt.Sprintf(u.name, line)
			} else if line != "0" {
				continue
			}
			out = append(out, r)
		}
	}
	return out, nil
}
