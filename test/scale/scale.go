// Package scale proves that a fleet of thousands holds together: agents without hosts, each with a certificate of its own,
// against real controllers. It holds tests alone.
//
// OPENTAP_LONG=1 makes it ten thousand, OPENTAP_SCALE any number.
//
// Runs in: tools
package scale
