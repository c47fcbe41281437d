package session

import (
	"context"
	"errors"
	"fmt"

	"opentap/wire/of13"
)

// Tables is what a switch has: its rules, groups and meters.
type Tables struct {
	Rules  []of13.FlowStats
	Groups []of13.GroupDesc
	Meters []of13.MeterConfig
}

// ReadTables reads all rules, groups and meters. A switch without groups or meters has none.
func (s *Session) ReadTables(ctx context.Context) (t Tables, err error) {
	parts, err := s.Multipart(ctx, of13.AskFlows(0, 0))
	if err != nil {
		return t, fmt.Errorf("read rules: %w", err)
	}
	for _, p := range parts {
		t.Rules = append(t.Rules, p.Flows...)
	}
	if parts, err = s.Multipart(ctx, of13.Ask(of13.PartGroupDesc)); err != nil && !unknown(err) {
		return t, fmt.Errorf("read groups: %w", err)
	}
	for _, p := range parts {
		t.Groups = append(t.Groups, p.Groups...)
	}
	if parts, err = s.Multipart(ctx, of13.Ask(of13.PartMeterConfig)); err != nil && !unknown(err) {
		return t, fmt.Errorf("read meters: %w", err)
	}
	for _, p := range parts {
		t.Meters = append(t.Meters, p.Meters...)
	}
	return t, nil
}

// unknown reports that a switch does not know what it was asked for, which is allowed.
func unknown(err error) bool {
	var e *of13.Error
	return errors.As(err, &e) && e.Class == of13.ErrBadRequest
}

// Generation is the newest election that the switch knows of, and this connection's role; 0 = nobody was ever elected.
func (s *Session) Generation(ctx context.Context) (uint64, of13.Role, error) {
	m, err := s.role(ctx, of13.RoleNoChange, 0)
	if err != nil {
		return 0, 0, err
	}
	if m.Generation == ^uint64(0) { // section 7.3.9: not defined yet
		return 0, m.Role, nil
	}
	return m.Generation, m.Role, nil
}

// Become takes a role by an election. A switch that knows a later one refuses (of13.Error.StaleGeneration).
func (s *Session) Become(ctx context.Context, role of13.Role, generation uint64) error {
	_, err := s.role(ctx, role, generation)
	return err
}

func (s *Session) role(ctx context.Context, role of13.Role, generation uint64) (*of13.RoleMessage, error) {
	m, err := s.Ask(ctx, &of13.RoleMessage{Role: role, Generation: generation})
	if err != nil {
		return nil, fmt.Errorf("ask for role %s: %w", role, err)
	}
	r, ok := m.(*of13.RoleMessage)
	if !ok {
		return nil, fmt.Errorf("ask for role %s: the answer is %s", role, m.Type())
	}
	return r, nil
}
