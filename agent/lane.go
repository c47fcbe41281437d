package agent

import (
	"sync/atomic"

	"opentap/capture"
	"opentap/capture/segment"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// lane is a stream's way from one ring to the disk.
type lane struct {
	s       *stream
	w       *segment.Lane
	batch   *segment.Batch // of the block at hand
	reached atomic.Int64   // packet time up to which everything has been shown to it
	account ledger.Account // as of its last block; guarded by the stream
}

// Begin implements capture.Consumer.
func (l *lane) Begin() { l.batch = l.w.Begin() }

// End implements capture.Consumer.
func (l *lane) End() { l.batch.End() }

// Ready implements capture.Patient.
func (l *lane) Ready(octets int) bool { return l.w.Room() >= octets || l.s.w.Err() != nil }

// Frame implements capture.Consumer.
func (l *lane) Frame(f *capture.Frame) capture.Verdict {
	limit := l.s.limit
	v := limit.take(len(f.Data))
	if v == capture.Full {
		return v
	}
	dir := pcap.DirectionIn
	if f.Outgoing {
		dir = pcap.DirectionOut
	}
	if !l.batch.Append(f.Time, f.OrigLen, f.Data, dir) {
		limit.giveBack(len(f.Data))
		return capture.LostDisk
	}
	return v
}

// Idle implements capture.Consumer.
func (l *lane) Idle(now packet.Timestamp, a *ledger.Account) {
	l.reached.Store(int64(now))
	l.s.tell(l, a)
	if l.s.w.Err() != nil {
		l.s.p.once.Do(func() { close(l.s.p.fail) })
	}
}

// tell has the stream's chunks say what its lanes have met until now.
func (s *stream) tell(l *lane, a *ledger.Account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.account = *a
	total := s.base
	for _, l := range s.lanes {
		total.Add(&l.account)
	}
	s.w.Account(total)
}

// reached is the packet time up to which everything has been shown to the stream.
func (s *stream) reached() packet.Timestamp {
	least := s.lanes[0].reached.Load()
	for _, l := range s.lanes[1:] {
		least = min(least, l.reached.Load())
	}
	return packet.Timestamp(least)
}

// attach has the engine show the point's packets to the stream's lanes.
func (s *stream) attach(e *capture.Engine, spec capture.Spec) (err error) {
	consumers := make([]capture.Consumer, len(s.lanes))
	for i, l := range s.lanes {
		consumers[i] = l
	}
	s.att, err = e.AttachFan(spec, consumers)
	return err
}
