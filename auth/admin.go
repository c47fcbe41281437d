package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"opentap/store"
)

// adminSpec is the token of the first start.
var adminSpec = Spec{Name: "admin", Role: "admin", Project: DefaultProject}

// FirstStart makes the administrator's token if there has never been one, leaves it in the file path with mode 0600
// and returns it, to be shown once; otherwise it returns "". It may be called at every start and by several
// controllers at once: one of them makes the token. It needs no Run.
//
// A crash between the steps loses nothing: the file is written and synced under another name first, then the token
// becomes valid, then the file gets its name; the next FirstStart completes what was cut short. When the token exists
// and its file is lost, only ResetAdmin helps: the secret is nowhere else.
func (a *Authenticator) FirstStart(ctx context.Context, path string) (text string, err error) {
	_, err = a.store.Get(ctx, adminKey)
	switch {
	case err == nil:
		return "", a.completeFirstStart(ctx, path)
	case !errors.Is(err, store.ErrNotFound):
		return "", fmt.Errorf("first start: %w", err)
	}
	r, text := a.draft(adminSpec, "first start")
	if err := writeSecret(path+".new", text); err != nil {
		return "", fmt.Errorf("first start: keep administrator's token: %w", err)
	}
	ops := append(r.puts(), store.Put(adminKey, []byte(r.ID)))
	_, err = a.store.Txn(ctx, []store.Compare{store.Absent(adminKey)}, ops)
	if errors.Is(err, store.ErrConflict) { // another controller was first
		return "", os.Remove(path + ".new")
	}
	if err != nil {
		return "", fmt.Errorf("first start: %w", err)
	}
	if err := publish(path); err != nil {
		return "", fmt.Errorf("first start: keep administrator's token: %w", err)
	}
	return text, nil
}

// ResetAdmin makes a new administrator's token in place of the one in the store, which is revoked, and leaves it in
// the file path like FirstStart. It is for somebody at the machine who has lost the token.
func (a *Authenticator) ResetAdmin(ctx context.Context, path string) (text string, err error) {
	compare := store.Absent(adminKey)
	var old string
	kv, err := a.store.Get(ctx, adminKey)
	switch {
	case err == nil:
		compare, old = store.Unchanged(kv), string(kv.Value)
	case !errors.Is(err, store.ErrNotFound):
		return "", fmt.Errorf("reset administrator's token: %w", err)
	}
	r, text := a.draft(adminSpec, "reset")
	ops := append(r.puts(), store.Put(adminKey, []byte(r.ID)))
	compares := []store.Compare{compare}
	if old != "" {
		kv, err := a.store.Get(ctx, tokenKeys+old)
		if err == nil {
			var was record
			if json.Unmarshal(kv.Value, &was) == nil && was.Revoked.IsZero() {
				was.Revoked = a.now().UTC()
				compares = append(compares, store.Unchanged(kv))
				ops = append(ops, store.Put(kv.Key, was.value()))
			}
		} else if !errors.Is(err, store.ErrNotFound) {
			return "", fmt.Errorf("reset administrator's token: %w", err)
		}
	}
	if err := writeSecret(path+".new", text); err != nil {
		return "", fmt.Errorf("reset administrator's token: %w", err)
	}
	if _, err := a.store.Txn(ctx, compares, ops); err != nil {
		if errors.Is(err, store.ErrConflict) {
			os.Remove(path + ".new")
		} // otherwise the outcome is unknown, and the next FirstStart finds out
		return "", fmt.Errorf("reset administrator's token: %w", err)
	}
	if err := publish(path); err != nil {
		return "", fmt.Errorf("reset administrator's token: %w", err)
	}
	return text, nil
}

// completeFirstStart gives the file its name when a crash came after the token became valid.
func (a *Authenticator) completeFirstStart(ctx context.Context, path string) error {
	b, err := os.ReadFile(path + ".new")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("first start: %w", err)
	}
	kv, err := a.store.Get(ctx, adminKey)
	if err != nil {
		return fmt.Errorf("first start: %w", err)
	}
	id, _, ok := split(strings.TrimSpace(string(b)))
	if !ok || id != string(kv.Value) {
		return os.Remove(path + ".new") // of an attempt that never became valid
	}
	return publish(path)
}

// writeSecret makes a file only its owner reads, and syncs it. What was at path is replaced, never written through: a
// link left there leads nowhere.
func writeSecret(path, text string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}

// publish renames path.new to path and makes that durable.
func publish(path string) error {
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
