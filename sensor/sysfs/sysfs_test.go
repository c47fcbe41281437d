package sysfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestReason(t *testing.T) {
	for errno, want := range map[error]string{
		syscall.EIO: "does not answer", syscall.EAGAIN: "no value now", syscall.ENODATA: "no value now",
		syscall.ENODEV: "gone", os.ErrPermission: "may not be read", errors.New("odd"): "odd",
		&os.PathError{Op: "read", Path: "/sys/secret", Err: syscall.EFAULT}: "bad address",
	} {
		if got := Reason(errno); !strings.Contains(got, want) || strings.Contains(got, "/sys") {
			t.Errorf("Reason(%v) = %q, want %q", errno, got, want)
		}
	}
}

func TestReadFloat(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]float64{"0.038307\n": 0.038307, "-3": -3, "1e3": 1000} {
		if err := os.WriteFile(filepath.Join(dir, "x"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadFloat(dir, "x"); err != nil || got != want {
			t.Errorf("ReadFloat of %q = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "NaN", "inf", "1 2", "x"} {
		if err := os.WriteFile(filepath.Join(dir, "x"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadFloat(dir, "x"); err == nil {
			t.Errorf("ReadFloat of %q = %v", text, got)
		}
	}
}
