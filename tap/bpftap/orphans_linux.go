package bpftap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hold marks the agent's directory as that of a living process, for as long as the process lives: other agents of this host
// see that its taps are somebody's. The lock is shared, flock(2), and lies on the directory above those of network namespaces.
func (d *Driver) hold() error {
	if d.held != nil {
		return nil
	}
	f, err := os.Open(filepath.Dir(d.dir))
	if err != nil {
		return fmt.Errorf("hold the directory of taps: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		return errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	d.held = f
	return nil
}

// release undoes hold.
func (d *Driver) release() error {
	if d.held == nil {
		return nil
	}
	f := d.held
	d.held = nil
	return f.Close()
}

// Orphans finds what agents have left that do not run: directories in the BPF file system, whose taps go on, and devices in
// this network namespace. What is of cfg.Instance is not among it. Nothing is touched.
func Orphans(cfg Config) (dirs, devices []string, err error) {
	cfg.fill()
	root := filepath.Join(cfg.PinRoot, "opentap")
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("look for taps: %w", err)
	}
	living := []string{escape(cfg.Instance)}
	for _, e := range entries {
		if slices.Contains(living, e.Name()) {
			continue
		}
		path := filepath.Join(root, e.Name())
		switch free, err := nobodyHolds(path); {
		case errors.Is(err, os.ErrNotExist): // it went just now
		case err != nil:
			return nil, nil, err
		case free:
			dirs = append(dirs, path)
		default:
			living = append(living, e.Name())
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, nil, fmt.Errorf("list devices: %w", err)
	}
	for _, l := range links {
		owner, ours := strings.CutPrefix(l.Attrs().Alias, muxAlias)
		if ours && !slices.Contains(living, escape(owner)) {
			devices = append(devices, l.Attrs().Name)
		}
	}
	return dirs, devices, nil
}

// nobodyHolds reports whether no process holds a directory.
func nobodyHolds(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close() // and with it the lock
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", path, err)
	}
	return true, nil
}
