package main

import (
	"errors"
	"fmt"

	"github.com/ebitengine/purego"

	"opentap/sensor/phidget"
)

// What libphidget22 returns, phidget22.h (EPHIDGET_…).
const (
	codeOK           = 0
	codeUnknownValue = 0x33
	codeNotAttached  = 0x34
	codeTooHigh      = 0x3c
	codeTooLow       = 0x3d
)

// library is libphidget22, as far as it is used. Names and signatures are those of phidget22.h.
type library struct {
	create           func(ch *uintptr) int32                     // PhidgetVoltageRatioInput_create
	setSerial        func(ch uintptr, serial int32) int32        // Phidget_setDeviceSerialNumber
	setChannel       func(ch uintptr, channel int32) int32       // Phidget_setChannel
	open_            func(ch uintptr) int32                      // Phidget_open: returns at once, and attaches when the board is there
	attached         func(ch uintptr, attached *int32) int32     // Phidget_getAttached
	setInterval      func(ch uintptr, milliseconds uint32) int32 // PhidgetVoltageRatioInput_setDataInterval
	setChangeTrigger func(ch uintptr, ratio float64) int32       // PhidgetVoltageRatioInput_setVoltageRatioChangeTrigger
	ratio            func(ch uintptr, ratio *float64) int32      // PhidgetVoltageRatioInput_getVoltageRatio
	close_           func(ch uintptr) int32                      // Phidget_close
}

// load loads the library.
func load(path string) (*library, error) {
	names := []string{path}
	if path == "" {
		names = []string{"libphidget22.so.0", "libphidget22.so"}
	}
	var handle uintptr
	var err error
	for _, name := range names {
		if handle, err = purego.Dlopen(name, purego.RTLD_NOW|purego.RTLD_LOCAL); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the vendor's library libphidget22 cannot be loaded; install it from phidgets.com: %w", err)
	}
	l := new(library)
	for name, fn := range map[string]any{
		"PhidgetVoltageRatioInput_create": &l.create, "Phidget_setDeviceSerialNumber": &l.setSerial, "Phidget_setChannel": &l.setChannel,
		"Phidget_open": &l.open_, "Phidget_getAttached": &l.attached, "PhidgetVoltageRatioInput_setDataInterval": &l.setInterval,
		"PhidgetVoltageRatioInput_setVoltageRatioChangeTrigger": &l.setChangeTrigger, "PhidgetVoltageRatioInput_getVoltageRatio": &l.ratio,
		"Phidget_close": &l.close_,
	} {
		symbol, err := purego.Dlsym(handle, name)
		if err != nil {
			return nil, fmt.Errorf("%s has no %s: is it libphidget22?", path, name)
		}
		purego.RegisterFunc(fn, symbol)
	}
	return l, nil
}

// channel is one input of a board.
type channel struct {
	lib      *library
	handle   uintptr
	attached bool
}

// dataInterval is how often a board measures. Milliseconds.
const dataInterval = 50

// open asks for an input. The board need not be there yet.
func (l *library) open(serial uint32, port int) (*channel, error) {
	c := &channel{lib: l}
	if code := l.create(&c.handle); code != codeOK {
		return nil, codeError(code)
	}
	for _, code := range []int32{l.setSerial(c.handle, int32(serial)), l.setChannel(c.handle, int32(port)), l.open_(c.handle)} {
		if code != codeOK {
			return nil, codeError(code)
		}
	}
	return c, nil
}

func (c *channel) close() { c.lib.close_(c.handle) }

// read returns what the input says now.
func (c *channel) read() phidget.Reading {
	var attached int32
	if code := c.lib.attached(c.handle, &attached); code != codeOK {
		return phidget.Reading{Missing: codeError(code).Error()}
	}
	if attached == 0 {
		c.attached = false
		return phidget.Reading{Missing: "the board is not attached"}
	}
	if !c.attached { // it forgets these when it is unplugged
		c.attached = true
		c.lib.setInterval(c.handle, dataInterval) // a board that knows no such interval keeps its own
		c.lib.setChangeTrigger(c.handle, 0)
	}
	var ratio float64
	switch code := c.lib.ratio(c.handle, &ratio); code {
	case codeOK:
		return phidget.Reading{Ratio: ratio}
	case codeUnknownValue:
		return phidget.Reading{Missing: "the board has no value yet"}
	case codeNotAttached:
		return phidget.Reading{Missing: "the board is not attached"}
	case codeTooHigh, codeTooLow:
		return phidget.Reading{Missing: "the value is out of the sensor's range"}
	default:
		return phidget.Reading{Missing: codeError(code).Error()}
	}
}

func codeError(code int32) error {
	return errors.New("the library answers with code " + fmt.Sprintf("%#x", code))
}
