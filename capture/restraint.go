package capture

// Restraint is what an engine gives up of its consumers' packets to spare its host. Everything given up is in the accounts. The
// zero value is none.
type Restraint struct {
	Snap  int    // octets kept of each packet at most; 0 = what the consumer asked for
	OneIn uint32 // of so many packets of a consumer one is shown to it, the others are sampled out; 0 and 1 = all
	Pause bool   // no packet is shown to anybody; they are rate-limited
}

// Restrain holds all consumers to r from their next block on, until told otherwise.
func (e *Engine) Restrain(r Restraint) { e.restraint.Store(&r) }

// Restrained reports whether consumers are held to anything.
func (e *Engine) Restrained() bool { return *e.restraint.Load() != Restraint{} }

// show gives one packet that the consumer wants to it, as far as the restraint allows.
func (a *Attachment) show(f *Frame, r *Restraint) {
	if r.Pause {
		a.own.RateLimited++
		return
	}
	if r.OneIn > 1 {
		a.turn++
		if a.turn < r.OneIn {
			a.own.SampledOut++
			return
		}
		a.turn = 0
	}
	snap := a.spec.Snap
	if r.Snap != 0 && (snap == 0 || r.Snap < snap) {
		snap = r.Snap
	}
	if snap == 0 || len(f.whole) <= snap {
		a.take(f)
		return
	}
	f.Data = f.whole[:snap]
	a.take(f)
	f.Data = f.whole
}
