// Package filter turns pcap-filter text into a typed tree.
//
// Runs in: agent | controller | tools
//
// The language is that of pcap-filter(7) for Ethernet and raw-IP links; docs/reference/filter.md says what is understood
// and what is refused. Parse gives an *Expr or a *SyntaxError that points at a character, never both and never neither.
// What an expression selects is decided by a back end; filter/cbpf is the one that makes classic BPF.
package filter
