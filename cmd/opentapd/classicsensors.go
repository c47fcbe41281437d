package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// classicSensor is a row of the first OpenTap's sensor file: an analog sensor at a PhidgetInterfaceKit 8/8/8.
type classicSensor struct {
	serial uint32 // of the board
	port   uint8  // 0 to 7
	id     string // of the sensor, such as 1124
	kind   string // such as temperature
	name   string // of the observation point
}

var classicSensorColumns = []string{"interface_serial_num", "sensor_port", "sensor_id", "sensor_type", "observation_pt_name"}

// parseClassicSensors reads the sensor file: a header, then a line a sensor. Errors have line and column.
func parseClassicSensors(b []byte) ([]classicSensor, error) {
	if len(b) > maxConfig {
		return nil, fmt.Errorf("is %d octets long, at most %d are read", len(b), maxConfig)
	}
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))))
	r.Comment, r.FieldsPerRecord, r.TrimLeadingSpace = '#', -1, true
	var out []classicSensor
	wrong := func(field int, format string, args ...any) error {
		line, column := r.FieldPos(field)
		return &classicError{place{line, column}, fmt.Sprintf(format, args...)}
	}
	for row := 0; ; row++ {
		f, err := r.Read()
		var bad *csv.ParseError
		switch {
		case err == io.EOF:
			return out, nil
		case errors.As(err, &bad):
			return nil, &classicError{place{bad.Line, bad.Column}, bad.Err.Error()}
		case err != nil:
			return nil, err
		}
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		if row == 0 {
			if !slices.Equal(f, classicSensorColumns) {
				return nil, wrong(0, "the header is not %s", strings.Join(classicSensorColumns, ","))
			}
			continue
		}
		if len(f) != len(classicSensorColumns) {
			return nil, wrong(0, "there are %d fields instead of %d", len(f), len(classicSensorColumns))
		}
		serial, err := strconv.ParseUint(f[0], 10, 31)
		if err != nil || serial == 0 {
			return nil, wrong(0, "%q is not the serial number of a board", f[0])
		}
		port, err := strconv.ParseUint(f[1], 10, 8)
		if err != nil || port > 7 {
			return nil, wrong(1, "%q is not a port, 0 to 7", f[1])
		}
		if f[4] == "" {
			return nil, wrong(4, "the name of the observation point is missing")
		}
		s := classicSensor{uint32(serial), uint8(port), f[2], f[3], f[4]}
		for _, o := range out {
			if o.name == s.name {
				return nil, wrong(4, "%s is the name of another sensor already", s.name)
			}
			if o.serial == s.serial && o.port == s.port {
				return nil, wrong(1, "port %d of board %d has a sensor already, %s", s.port, s.serial, o.name)
			}
		}
		out = append(out, s)
	}
}
