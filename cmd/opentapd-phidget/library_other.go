//go:build !linux

package main

import (
	"fmt"
	"runtime"

	"opentap/sensor/phidget"
)

type library struct{}

func load(string) (*library, error) {
	return nil, fmt.Errorf("Phidget boards are not read on %s", runtime.GOOS)
}

type channel struct{}

func (*library) open(uint32, int) (*channel, error) { return nil, fmt.Errorf("there is no library") }

func (*channel) close() {}

func (*channel) read() phidget.Reading { return phidget.Reading{Missing: "there is no library"} }
