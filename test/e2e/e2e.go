// Package e2e proves what a user is promised, with the real programs, kernel and network: opentapd in a network namespace
// of its own, traffic of exact counts from another one, opentap and plain HTTP as the doors, and oracles that share no
// code with us (capinfos, editcap, tshark, nfdump, pandas).
//
// It holds tests alone. They need root and skip with the reason where something is missing. OPENTAP_LONG=1 makes the
// repeated ones longer.
//
// Runs in: tools
package e2e
