package session

import (
	"context"
	"errors"
	"fmt"

	"opentap/wire/of13"
)

// ModError says which message of a commit a switch refused, and why.
type ModError struct {
	Index int // of the message
	Err   error
}

// Error implements error.
func (e *ModError) Error() string { return e.Err.Error() }

// Unwrap returns the switch's words.
func (e *ModError) Unwrap() error { return e.Err }

// chunk is how many messages are on their way at a time, so that a long commit does not fill the buffers of both sides.
const chunk = 256

// Commit sends messages in order and waits until the switch has taken them all (barrier, section 7.3.8). The errors are
// those of all refused messages, *ModError each, joined; what was not refused is in effect.
func (s *Session) Commit(ctx context.Context, msgs []of13.Message) error {
	var all []error
	for start := 0; start < len(msgs); start += chunk {
		errs, err := s.commit(ctx, msgs[start:min(start+chunk, len(msgs))], start)
		all = append(all, errs...)
		if err != nil {
			return errors.Join(append(all, err)...)
		}
	}
	return errors.Join(all...)
}

func (s *Session) commit(ctx context.Context, msgs []of13.Message, base int) (refused []error, err error) {
	ch := make(chan answer, len(msgs)+1)
	xids := make([]uint32, 0, len(msgs)+1)
	defer func() { s.forget(xids...) }()
	for i, m := range msgs {
		xid := s.expect(ch, base+i)
		xids = append(xids, xid)
		if err := s.send(xid, m); err != nil {
			return nil, err
		}
	}
	xid := s.expect(ch, -1)
	xids = append(xids, xid)
	if err := s.send(xid, &of13.Bare{Kind: of13.TypeBarrierRequest}); err != nil {
		return nil, err
	}
	for {
		a, err := s.wait(ctx, ch)
		switch {
		case err == nil && a.index < 0:
			return refused, nil
		case err == nil:
			// An answer to a mod that is no error: of no meaning.
		case a.err != nil && a.index >= 0:
			refused = append(refused, &ModError{a.index, a.err})
		default:
			return refused, err
		}
	}
}

// errNoBundles is remembered of switches that know no bundles.
var errNoBundles = errors.New("the switch knows no bundles")

// CommitAtomic is Commit, but the messages take effect together or, if one is refused, not at all (ONF extension 230).
// With a switch that knows no bundles it falls back to Commit, and atomic is false.
func (s *Session) CommitAtomic(ctx context.Context, msgs []of13.Message) (atomic bool, err error) {
	if len(msgs) == 0 {
		return true, nil
	}
	err = s.bundle(ctx, msgs)
	if errors.Is(err, errNoBundles) {
		return false, s.Commit(ctx, msgs)
	}
	return true, err
}

func (s *Session) bundle(ctx context.Context, msgs []of13.Message) error {
	const flags = of13.BundleAtomic | of13.BundleOrdered
	id := s.xid.Add(1)
	if err := s.bundleControl(ctx, id, of13.BundleOpen); err != nil {
		var refusal *of13.Error
		if errors.As(err, &refusal) && refusal.Class == of13.ErrBadRequest {
			return errNoBundles
		}
		return fmt.Errorf("open bundle: %w", err)
	}
	// Refusals carry the number of the message they are of; some come only with the commit.
	ch := make(chan answer, len(msgs)+1)
	xids := make([]uint32, 0, len(msgs))
	defer func() { s.forget(xids...) }()
	for i, m := range msgs {
		xid := s.expect(ch, i)
		xids = append(xids, xid)
		add, err := of13.BundleAdd(id, flags, xid, m)
		if err != nil {
			return err
		}
		if err := s.send(xid, add); err != nil {
			return err
		}
	}
	err := s.bundleControl(ctx, id, of13.BundleCommit)
	for {
		select {
		case a := <-ch:
			if a.err != nil {
				return &ModError{a.index, a.err} // the bundle is gone, nothing is in effect
			}
			continue
		default:
		}
		break
	}
	if err != nil {
		return fmt.Errorf("commit bundle: %w", err)
	}
	return nil
}

func (s *Session) bundleControl(ctx context.Context, id uint32, kind uint16) error {
	m, err := s.Ask(ctx, of13.BundleControl(id, kind, of13.BundleAtomic|of13.BundleOrdered))
	if err != nil {
		return err
	}
	e, ok := m.(*of13.Experimenter)
	if !ok {
		return fmt.Errorf("the answer is %s", m.Type())
	}
	if _, got, ok := of13.BundleReply(e); !ok || got != kind+1 {
		return fmt.Errorf("bundle control %d is answered with %d", kind, got)
	}
	return nil
}

// Barrier waits until the switch has done all that was sent before.
func (s *Session) Barrier(ctx context.Context) error {
	_, err := s.commit(ctx, nil, 0)
	return err
}
