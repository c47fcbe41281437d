package bpftap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"opentap/tap"
)

// memo is what is remembered of an item in the kernel, beside its programs: JSON in a map.
type memo struct {
	ID    string `json:"id"`
	Sink  bool   `json:"sink,omitempty"`
	Print string `json:"print"` // of all that its programs and maps were made from
	Index uint32 `json:"index,omitempty"`
	In    int    `json:"in,omitempty"`  // devices whose ingress and
	Out   int    `json:"out,omitempty"` // egress have its programs; 0 = none
	Made  string `json:"made,omitempty"`
}

// memoOctets bounds a memo.
const memoOctets = 2048

func memoSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "opentap_memo", Type: ebpf.Array, KeySize: 4, ValueSize: memoOctets, MaxEntries: 1}
}

// pinDir makes this agent's directory for this network namespace, and removes those that it had in others, to which it
// does not come back.
func pinDir(cfg Config) (string, error) {
	if err := mountBPF(cfg.PinRoot); err != nil {
		return "", err
	}
	dir, err := dirOf(cfg)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a directory for taps: %w", err)
	}
	others, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "net-*"))
	if err != nil {
		return "", err
	}
	for _, other := range others {
		if other != dir {
			cfg.Log.Info("removing the taps of another network namespace", "dir", other)
			if err := os.RemoveAll(other); err != nil {
				return "", fmt.Errorf("remove taps: %w", err)
			}
		}
	}
	return dir, nil
}

// Left reports whether this agent has left taps here, without touching anything.
func Left(cfg Config) bool {
	cfg.fill()
	dir, err := dirOf(cfg)
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Dir(dir))
	return err == nil
}

func dirOf(cfg Config) (string, error) {
	cookie, err := netnsCookie()
	if err != nil {
		return "", fmt.Errorf("%w: this network namespace has no cookie (Linux 5.14 has): %w", tap.ErrUnsupported, err)
	}
	return filepath.Join(cfg.PinRoot, "opentap", escape(cfg.Instance), fmt.Sprintf("net-%d", cookie)), nil
}

// mountBPF mounts a BPF file system where there is none.
func mountBPF(root string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		return fmt.Errorf("%w: no BPF file system at %s: %w", tap.ErrUnsupported, root, err)
	}
	if fs.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", root, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("%w: mount a BPF file system at %s: %w", tap.ErrUnsupported, root, err)
	}
	return nil
}

// netnsCookie returns the number of the thread's network namespace, unique until the host restarts.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

// escape turns an id into a name for the BPF file system, which allows no dots.
func escape(id string) string {
	var b strings.Builder
	for _, c := range []byte(id) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

// sharedMaps are those that are not of one item.
var sharedMaps = []string{tapMapTapDepth, tapMapTapHeaders, tapMapOwnTunnels, muxMapMuxConfigs, muxMapMuxStats, muxMapMuxDevices, sinkMapSinks, sinkMapSinkDevices, sinkMapOwnAddresses, sinkMapSinkStats}

// adopt opens the shared maps, or makes them, and reads the memos.
func (d *Driver) adopt() error {
	specs := make(map[string]*ebpf.MapSpec)
	for _, load := range []func() (*ebpf.CollectionSpec, error){loadTap, loadMux, loadSink} {
		spec, err := load()
		if err != nil {
			return err
		}
		for name, m := range spec.Maps {
			specs[name] = m
		}
	}
	d.shared = make(map[string]*ebpf.Map)
	for _, name := range sharedMaps {
		spec := specs[name].Copy()
		path := filepath.Join(d.dir, name)
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err == nil && spec.Compatible(m) != nil {
			// Of another version. What hangs on it goes with it, and is made again.
			d.log.Warn("the taps of another version are made anew", "map", name)
			_ = m.Close() // only opened to look
			if err := d.wipe(); err != nil {
				return err
			}
			for _, m := range d.shared {
				_ = m.Close() // made anew
			}
			return d.adopt()
		}
		if errors.Is(err, os.ErrNotExist) {
			if m, err = ebpf.NewMap(spec); err == nil {
				err = m.Pin(path)
			}
		}
		if err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
		d.shared[name] = m
	}
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "tap-") && !strings.HasPrefix(e.Name(), "sink-") {
			continue
		}
		dir := filepath.Join(d.dir, e.Name())
		it, err := readItem(dir)
		if err != nil {
			// A crash while it was made, or another version's: without a memo it is nobody's.
			d.log.Warn("removing the remains of a tap", "dir", dir, "err", err)
			if err := errors.Join(d.detachAll(dir), os.RemoveAll(dir)); err != nil {
				return err
			}
			continue
		}
		d.items[it.memo.ID] = it
		d.next = max(d.next, it.memo.Index+1)
	}
	if d.next > maxIndex {
		d.next = 1
	}
	return nil
}

// unpin removes the directory when nothing is in it but the shared maps. They are pinned again when something is made.
func (d *Driver) unpin() error {
	var err error
	for name, m := range d.shared {
		if m.IsPinned() {
			if e := m.Unpin(); e != nil {
				err = errors.Join(err, fmt.Errorf("unpin %s: %w", name, e))
			}
		}
	}
	if err != nil {
		return err
	}
	marks, err := filepath.Glob(filepath.Join(d.dir, clsactMark+"*"))
	if err != nil {
		return err
	}
	for _, m := range marks { // of devices that are gone
		if err := os.Remove(m); err != nil {
			return err
		}
	}
	for dir := d.dir; filepath.Base(dir) != "opentap"; dir = filepath.Dir(dir) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return d.release()
}

// pin takes back what unpin did.
func (d *Driver) pin() error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	if err := d.hold(); err != nil {
		return err
	}
	for name, m := range d.shared {
		if m.IsPinned() {
			continue
		}
		if err := m.Pin(filepath.Join(d.dir, name)); err != nil {
			return fmt.Errorf("pin %s: %w", name, err)
		}
	}
	return nil
}

// wipe takes everything of ours away.
func (d *Driver) wipe() error {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(d.dir, e.Name())
		if e.IsDir() {
			err = errors.Join(err, d.detachAll(path))
		} else if strings.HasPrefix(e.Name(), "at-") || e.Name() == "mux" {
			err = errors.Join(err, d.hook.detach(path))
		}
		err = errors.Join(err, os.RemoveAll(path))
	}
	return errors.Join(err, d.deleteMux())
}

// detachAll detaches the programs of an item.
func (d *Driver) detachAll(dir string) error {
	var err error
	for _, name := range []string{"in", "out", "made"} {
		err = errors.Join(err, d.hook.detach(filepath.Join(dir, name)))
	}
	return err
}

func readItem(dir string) (*item, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, "memo"), nil)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	b := make([]byte, memoOctets)
	if err := m.Lookup(uint32(0), b); err != nil {
		return nil, err
	}
	it := new(item)
	if err := json.Unmarshal(bytes.TrimRight(b, "\x00"), &it.memo); err != nil {
		return nil, fmt.Errorf("read its memo: %w", err)
	}
	if it.memo.Sink {
		return it, nil
	}
	it.stats, err = ebpf.LoadPinnedMap(filepath.Join(dir, "stats"), nil)
	return it, err
}

// remember writes an item's memo.
func (d *Driver) remember(m memo) error {
	dir := d.itemDir(m.ID, m.Sink)
	b, err := json.Marshal(&m)
	if err != nil {
		return err
	}
	if len(b) > memoOctets {
		return fmt.Errorf("the memo of %s has %d octets, more than %d", m.ID, len(b), memoOctets)
	}
	path := filepath.Join(dir, "memo")
	kept, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		if kept, err = ebpf.NewMap(memoSpec()); err == nil {
			if err = kept.Pin(path); err != nil {
				_ = kept.Close()
			}
		}
	}
	if err != nil {
		return fmt.Errorf("remember %s: %w", m.ID, err)
	}
	defer kept.Close()
	return kept.Put(uint32(0), append(b, make([]byte, memoOctets-len(b))...))
}
