// Package filter turns pcap-filter text into a typed tree.
//
// Runs in: agent | controller | tools
package filter
