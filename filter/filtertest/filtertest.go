// Package filtertest holds expressions and frames to prove filters with.
//
// Runs in: tools
package filtertest

import (
	_ "embed"
	"strings"

	"opentap/filter"
)

//go:embed expressions.txt
var libpcap string

//go:embed own-expressions.txt
var own string

// Libpcap returns the expressions that are compared with libpcap, among them some that it refuses.
func Libpcap() []string { return strings.Split(strings.TrimSpace(libpcap), "\n") }

// All returns all expressions that parse: the ones of Libpcap, and those that libpcap does not know.
func All() []string {
	var out []string
	for _, x := range append(strings.Split(strings.TrimSpace(own), "\n"), Libpcap()...) {
		if _, err := filter.Parse(x); err == nil {
			out = append(out, x)
		}
	}
	return out
}
