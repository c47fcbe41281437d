package member

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"opentap/agentapi/agentpb"
	"opentap/cert"
)

// renewTimeout is how long one attempt to renew may take.
const renewTimeout = 20 * time.Second

// due is when the certificate is to be renewed: when some two fifths of its life have passed, not at the same moment
// everywhere.
func (m *Member) due() (time.Time, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current == nil {
		return time.Time{}, m.fresh
	}
	c := m.current.Leaf
	life := c.NotAfter.Sub(c.NotBefore)
	return c.NotBefore.Add(life*35/100 + rand.N(life/10)), m.fresh
}

// Run renews the certificate in time, over the connection of the session, until ctx ends, and then returns nil.
func (m *Member) Run(ctx context.Context) error {
	pause := time.Duration(0)
	for {
		at, fresh := m.due()
		wait := time.Duration(1<<63 - 1)
		if !at.IsZero() {
			wait = max(at.Sub(m.cfg.Now()), pause)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-fresh: // it has joined
			t.Stop()
			continue
		case <-t.C:
		}
		err := m.renew(ctx)
		if err == nil {
			pause = 0
			continue
		}
		_, ends, _ := m.Who()
		pause = min(max(ends.Sub(m.cfg.Now())/10, time.Second), 5*time.Minute)
		if ctx.Err() == nil {
			m.log.Warn("the certificate of this host was not renewed; trying again", "err", err, "ends", ends, "retry_in", pause)
		}
	}
}

func (m *Member) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	m.mu.Lock()
	cc, trusted := m.cc, m.trusted
	m.mu.Unlock()
	if cc == nil {
		return errors.New("no controller was reached yet")
	}
	key, request, err := cert.Request()
	if err != nil {
		return err
	}
	a, err := agentpb.NewEnrolmentClient(cc).Renew(ctx, &agentpb.RenewRequest{Request: request})
	if err != nil {
		return err
	}
	if err := m.take(key, a, trusted, ""); err != nil {
		return err
	}
	_, ends, _ := m.Who()
	m.log.Info("the certificate of this host was renewed", "ends", ends)
	return nil
}
