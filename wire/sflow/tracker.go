package sflow

import "net/netip"

// Tracker counts what did not arrive, by the sequence numbers of datagrams and samples, for all agents behind one address. The
// zero Tracker is ready. It keeps a bounded number of agents and sources; what is beyond is not followed, and counted.
// Not safe for concurrent use.
type Tracker struct {
	agents  map[agentKey]*sequence
	sources map[sourceKey]*sourceState
	Losses
}

// Losses are cumulative.
type Losses struct {
	Datagrams  uint64 // that did not arrive
	Samples    uint64 // flow samples that did not arrive, lost datagrams included
	Drops      uint64 // flow samples that agents say they lost themselves
	Reordered  uint64 // datagrams that came after a later one
	Restarts   uint64 // times an agent began anew
	Unfollowed uint64 // datagrams and samples of agents and sources too many
}

type agentKey struct {
	agent netip.Addr
	sub   uint32
}

type sourceKey struct {
	agentKey
	Source
}

// sequence follows the numbers of one sender.
type sequence struct {
	next        uint32
	open, since uint32 // what is missing and may still come; what has come after
	uptime      uint32
}

type sourceState struct {
	sequence
	drops uint32
}

// Bounds of a Tracker.
const (
	maxAgents  = 1024
	maxSources = 1 << 14
	overtaking = 256
)

// Datagram notes a datagram, before its samples.
func (t *Tracker) Datagram(d *Datagram) {
	k := agentKey{d.Agent, d.SubAgent}
	s := t.agents[k]
	if s == nil {
		if len(t.agents) >= maxAgents {
			t.Unfollowed++
			return
		}
		if t.agents == nil {
			t.agents = make(map[agentKey]*sequence)
		}
		t.agents[k] = &sequence{next: d.Sequence + 1, uptime: d.Uptime}
		return
	}
	if d.Uptime+10_000 < s.uptime && s.uptime < 1<<32-10_000 { // its clock began again
		t.Restarts++
		*s = sequence{next: d.Sequence + 1, uptime: d.Uptime}
		return
	}
	s.uptime = d.Uptime
	lost, late, anew := s.arrive(d.Sequence)
	t.Datagrams += uint64(lost)
	if late {
		t.Reordered++
		t.Datagrams -= min(t.Datagrams, 1)
	}
	if anew {
		t.Restarts++
	}
}

// Sample notes a flow sample of a datagram.
func (t *Tracker) Sample(d *Datagram, f *FlowSample) {
	k := sourceKey{agentKey{d.Agent, d.SubAgent}, f.Source}
	s := t.sources[k]
	if s == nil {
		if len(t.sources) >= maxSources {
			t.Unfollowed++
			return
		}
		if t.sources == nil {
			t.sources = make(map[sourceKey]*sourceState)
		}
		t.sources[k] = &sourceState{sequence: sequence{next: f.Sequence + 1}, drops: f.Drops}
		return
	}
	lost, late, anew := s.arrive(f.Sequence)
	t.Samples += uint64(lost)
	if late {
		t.Samples -= min(t.Samples, 1)
	}
	if more := int32(f.Drops - s.drops); !anew && more > 0 {
		t.Drops += uint64(more)
	}
	if !late {
		s.drops = f.Drops
	}
}

// arrive compares a number with the expected one.
func (s *sequence) arrive(number uint32) (lost uint32, late, anew bool) {
	switch gap := int32(number - s.next); {
	case gap < 0 && s.open > 0 && uint32(-gap) <= s.open+s.since:
		s.open--
		return 0, true, false
	case gap < 0:
		*s = sequence{next: number + 1, uptime: s.uptime}
		return 0, false, true
	default:
		lost = uint32(gap)
	}
	if s.open += lost; s.open > 0 {
		if s.since++; s.since > overtaking || s.open > overtaking {
			s.open, s.since = 0, 0 // lost for good
		}
	}
	s.next = number + 1
	return lost, false, false
}
