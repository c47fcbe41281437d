package bpftap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// clsactHook attaches by filters of the clsact queueing discipline, for kernels before 6.6. A filter is found by its name,
// which is the path; the program is pinned there as well.
type clsactHook struct {
	nl  *netlink.Handle
	dir string
}

// clsactMark begins the names of what stands for a queueing discipline that we made.
const clsactMark = "clsact-"

// clsactPriority is that of our filters; direct action lets the next one have the packet.
const clsactPriority = 1

func (h *clsactHook) name(path string) string {
	rel, err := filepath.Rel(h.dir, path)
	if err != nil {
		rel = path
	}
	return "opentap:" + filepath.Base(h.dir) + "/" + rel
}

// filters calls fn with each of our filters.
func (h *clsactHook) filters(fn func(l netlink.Link, f *netlink.BpfFilter, ingress bool) bool) {
	links, err := h.nl.LinkList()
	if err != nil {
		return
	}
	for _, l := range links {
		for _, ingress := range []bool{true, false} {
			fs, err := h.nl.FilterList(l, parent(ingress))
			if err != nil {
				continue // no such queueing discipline
			}
			for _, f := range fs {
				if b, ok := f.(*netlink.BpfFilter); ok && !fn(l, b, ingress) {
					return
				}
			}
		}
	}
}

func parent(ingress bool) uint32 {
	if ingress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

// find returns the filter of a path and its device; nil if there is none.
func (h *clsactHook) find(path string) (at netlink.Link, found *netlink.BpfFilter) {
	name := h.name(path)
	h.filters(func(l netlink.Link, f *netlink.BpfFilter, _ bool) bool {
		if f.Name == name {
			at, found = l, f
		}
		return found == nil
	})
	return at, found
}

func (h *clsactHook) attach(path string, p *ebpf.Program, ifindex int, ingress bool) error {
	old, filter := h.find(path)
	if filter != nil && old.Attrs().Index != ifindex {
		if err := h.nl.FilterDel(filter); err != nil {
			return fmt.Errorf("take the filter of %s away: %w", old.Attrs().Name, err)
		}
		filter = nil
	}
	if filter == nil {
		qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
		switch err := h.nl.QdiscAdd(qdisc); {
		case err == nil:
			// Who made it takes it away.
			m, err := ebpf.NewMap(memoSpec())
			if err != nil {
				return err
			}
			defer m.Close()
			if err := m.Pin(h.made(ifindex)); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		case !errors.Is(err, unix.EEXIST):
			return fmt.Errorf("add clsact: %w", err)
		}
		filter = &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: ifindex, Parent: parent(ingress), Priority: clsactPriority, Protocol: unix.ETH_P_ALL}}
	}
	filter.Fd, filter.Name, filter.DirectAction = p.FD(), h.name(path), true
	add := h.nl.FilterAdd
	if filter.Handle != 0 {
		add = h.nl.FilterReplace
	}
	if err := add(filter); err != nil {
		return fmt.Errorf("attach at clsact: %w", err)
	}
	_ = os.Remove(path) // of the program before
	return p.Pin(path)
}

func (h *clsactHook) detach(path string) error {
	l, filter := h.find(path)
	if filter != nil {
		if err := h.nl.FilterDel(filter); err != nil {
			return err
		}
		if err := h.sweep(l); err != nil {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (h *clsactHook) made(ifindex int) string {
	return filepath.Join(h.dir, fmt.Sprint(clsactMark, ifindex))
}

// sweep removes a queueing discipline that we made and that holds nothing any more.
func (h *clsactHook) sweep(l netlink.Link) error {
	made := h.made(l.Attrs().Index)
	if _, err := os.Stat(made); err != nil {
		return nil
	}
	for _, ingress := range []bool{true, false} {
		if fs, err := h.nl.FilterList(l, parent(ingress)); err != nil || len(fs) > 0 {
			return err
		}
	}
	err := h.nl.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
	return errors.Join(err, os.Remove(made))
}

func (h *clsactHook) at(path string) int {
	l, f := h.find(path)
	if f == nil {
		return 0
	}
	return l.Attrs().Index
}
