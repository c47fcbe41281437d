package main

import "opentap/want"

// searched tells what was looked at to find so many packets.
func (a *app) searched(s want.Search, matched uint64) {
	a.say("segments: %d; %d known from the catalogue, %d looked at", s.Segments, s.Catalogued, s.Segments-min(s.Segments, s.Catalogued))
	a.say("chunks:  %d; %d outside of the window, %d without a match by their index, %d read (%d not indexed)",
		s.Chunks, s.SkippedByTime, s.SkippedByIndex, s.Read, s.NotIndexed)
	a.say("read:    %s, %d packets looked at, %d matched", octets(s.OctetsRead), s.Packets, matched)
}

// explainSearch tells how the packets of a capture were found.
func (a *app) explainSearch(v *want.View) {
	if s := v.Status.Search; s != nil {
		a.searched(*s, v.Status.Ledger.Captured)
		return
	}
	switch {
	case !v.Recorded:
		a.say("note: the capture was not taken from a recording: nothing was searched")
	case !v.Status.State.Final():
		a.say("note: what was looked at in the recording is known when the capture has ended")
	}
}
