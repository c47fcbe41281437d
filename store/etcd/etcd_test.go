package etcd

import (
	"context"
	"log/slog"
	"testing"

	"opentap/store"
	"opentap/store/storetest"
)

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Dir == "" && cfg.Endpoints == nil {
		cfg.Dir = t.TempDir()
	}
	s, err := Open(context.Background(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSuite(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, Config{}) })
}
