package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"opentap/fabric"
	"opentap/fabric/session"
	"opentap/want"
	"opentap/wire/of13"
)

// slave is the role of a controller that may look and not touch.
const slave = "slave"

const anotherLeads = "another controller has made itself master of it; nothing is changed there"

// assume brings the roles on all switches in line with the term. It reports whether this controller leads.
func (e *Engine) assume(ctx context.Context) (leads bool, err error) {
	e.mu.Lock()
	term := e.term
	todo, master := make(map[uint64]*session.Session), make(map[uint64]*session.Session)
	for dpid, m := range e.switches {
		switch {
		case m.session == nil:
		case m.assumed != term:
			todo[dpid] = m.session
		case m.role == of13.RoleMaster.String():
			master[dpid] = m.session
		}
	}
	e.mu.Unlock()
	for dpid, s := range master { // a switch does not tell when somebody else has become its master
		if generation, role, err := s.Generation(ctx); err == nil && role == of13.RoleSlave {
			e.shutOut(dpid)
			if e.cfg.Overtaken != nil {
				e.cfg.Overtaken(generation)
			}
		}
	}
	for dpid, s := range todo {
		role := e.takeRole(ctx, s, term)
		e.mu.Lock()
		if m := e.switches[dpid]; m != nil && m.session == s {
			m.role, m.assumed = role, term
		}
		e.mu.Unlock()
		if role != slave || term != 0 {
			e.log.Info("a role is taken", "switch", e.name(dpid), "role", role, "term", term)
		}
	}
	return term != 0, e.recall(ctx)
}

// takeRole asks a switch for the role that a term gives, and returns the one that holds.
func (e *Engine) takeRole(ctx context.Context, s *session.Session, term uint64) string {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Read)
	defer cancel()
	for try := 1; ; try++ {
		generation, now, err := s.Generation(ctx)
		if err != nil {
			return of13.RoleEqual.String() // it knows no roles
		}
		role, by := of13.RoleSlave, generation
		if term != 0 {
			role, by = of13.RoleMaster, term
			if int64(generation-term) > 0 { // section 7.3.9: compared as a difference with sign
				if e.cfg.Overtaken != nil {
					e.cfg.Overtaken(generation)
				}
				return slave
			}
		}
		err = s.Become(ctx, role, by)
		if err == nil {
			return role.String()
		}
		var refusal *of13.Error
		if errors.As(err, &refusal) && refusal.StaleGeneration() && try < 3 {
			continue // somebody was elected between the question and this
		}
		e.log.Warn("a switch refuses a role", "address", s.Remote().String(), "role", role, "err", err)
		if role == of13.RoleMaster {
			return slave
		}
		return now.String()
	}
}

// recall reads the memory anew where another controller writes it.
func (e *Engine) recall(ctx context.Context) error {
	e.mu.Lock()
	follows := e.term == 0
	fresh := e.term != 0 && e.recalled != e.term // just elected: the one before wrote it last
	e.mu.Unlock()
	if !follows && !fresh {
		return nil
	}
	m, err := e.keeper.LoadMemory(ctx)
	if err != nil {
		return fmt.Errorf("read the fabric's memory: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tags = m.Tags
	e.topology.Remember(m.Links)
	e.recalled = e.term
	if fresh { // nothing was heard of links so far: that is no sign
		e.began = time.Now()
		e.topology.Renew(e.began)
	}
	return nil
}

// look takes note of what switches have, without changing anything.
func (e *Engine) look(ctx context.Context, at situation, sessions map[uint64]*session.Session) {
	intent := fabric.Compile(at.layout, at.links, at.tags, at.refused, at.now)
	actual, errs := e.read(ctx, sessions)
	e.conclude(ctx, at, intent, actual, errs, true)
	e.mu.Lock()
	e.intent = intent
	e.mu.Unlock()
}

// mayChange reports whether this controller is not shut out by another.
func (e *Engine) mayChange(dpid uint64) bool { return !e.isSlave(dpid) }

func (e *Engine) isSlave(dpid uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.switches[dpid]
	return m != nil && e.term != 0 && m.role == slave
}

// lost takes note that a switch refused a change because another controller is its master now.
func (e *Engine) lost(dpid uint64, err error) bool {
	var refusal *of13.Error
	if !errors.As(err, &refusal) || !refusal.Slave() {
		return false
	}
	e.shutOut(dpid)
	return true
}

func (e *Engine) shutOut(dpid uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m := e.switches[dpid]; m != nil && m.role != slave {
		m.role, m.problem, m.inSync = slave, anotherLeads, false
		e.note(e.nameLocked(dpid), want.FindingUnreachable, anotherLeads, "reported")
	}
}

// Leads reports whether this controller changes switches.
func (e *Engine) Leads() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.term != 0
}
