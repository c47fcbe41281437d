// Package sensortest helps the tests of sources of samples.
//
// Runs in: tools
package sensortest

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"opentap/sensor"
)

// Source is a source that runs.
type Source interface {
	sensor.Source
	Run(ctx context.Context) error
}

// Start makes a source and runs it until the test ends.
func Start[C any, S Source](tb testing.TB, newSource func(C, *slog.Logger) (S, error), cfg C) S {
	tb.Helper()
	s, err := newSource(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("Run: %v", err)
		}
	})
	return s
}

// Reads returns the value of a sensor now, to six digits, or why there is none.
func Reads(tb testing.TB, s sensor.Source, name string) string {
	tb.Helper()
	got, err := s.Read(tb.Context(), name)
	if err != nil {
		tb.Fatal(err)
	}
	if got.Missing != "" {
		return got.Missing
	}
	return fmt.Sprintf("%.6g", got.Value)
}
