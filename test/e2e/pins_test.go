//go:build linux

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// removePins takes away what a daemon that was killed has left in the BPF file system: its taps would go on.
func removePins(t testing.TB, dataDir string) {
	t.Helper()
	path := filepath.Join(dataDir, "agent", "agent.db")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return // there was no agent
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		t.Errorf("read the agent's name: %v", err)
		return
	}
	defer db.Close()
	var id string
	err = db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte("meta")); b != nil {
			id = string(b.Get([]byte("node_id")))
		}
		return nil
	})
	if err != nil || id == "" {
		return
	}
	if err := os.RemoveAll(filepath.Join("/sys/fs/bpf/opentap", filepath.Base(id))); err != nil {
		t.Errorf("remove what the daemon left: %v", err)
	}
}
