package netflow

import (
	"cmp"
	"fmt"
	"slices"
)

// State is what a Decoder has learnt of its exporter: without it, data that comes after a restart cannot be read until the
// exporter declares its templates again.
type State struct {
	Domains []DomainState `json:"domains"`
}

// DomainState is what is known of one observation domain.
type DomainState struct {
	Version   Version           `json:"version"`
	ID        uint32            `json:"id"`
	Templates [][]byte          `json:"templates,omitempty"` // as they were declared, the one declared longest ago first
	Options   [][]byte          `json:"options,omitempty"`   // templates of options
	Sampling  uint32            `json:"sampling,omitempty"`
	Samplers  map[uint64]uint32 `json:"samplers,omitempty"`
}

// Learnt returns a number that changes when State has more to tell.
func (d *Decoder) Learnt() uint64 { return d.clock }

// State returns what is to be kept. It shares nothing with the Decoder.
func (d *Decoder) State() State {
	var s State
	for id, dom := range d.domains {
		if id.version == V5 {
			continue
		}
		out := DomainState{Version: id.version, ID: id.id, Sampling: dom.sampling, Samplers: make(map[uint64]uint32, len(dom.samplers))}
		for k, v := range dom.samplers {
			out.Samplers[k] = v
		}
		all := make([]*template, 0, len(dom.templates))
		for _, t := range dom.templates {
			all = append(all, t)
		}
		slices.SortFunc(all, func(a, b *template) int { return cmp.Compare(a.declared, b.declared) })
		for _, t := range all {
			if raw := slices.Clone(t.raw); t.options {
				out.Options = append(out.Options, raw)
			} else {
				out.Templates = append(out.Templates, raw)
			}
		}
		s.Domains = append(s.Domains, out)
	}
	slices.SortFunc(s.Domains, func(a, b DomainState) int {
		return cmp.Or(cmp.Compare(a.Version, b.Version), cmp.Compare(a.ID, b.ID))
	})
	return s
}

// Restore has the Decoder know what an earlier one had learnt. What cannot be read is left out; the error is the first such.
func (d *Decoder) Restore(s State) (first error) {
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	for _, in := range s.Domains {
		if in.Version != V9 && in.Version != IPFIX {
			note(fmt.Errorf("restore templates: version %d has none", in.Version))
			continue
		}
		dom, err := d.domain(in.Version, in.ID)
		if err != nil {
			note(err)
			continue
		}
		for i, list := range [][][]byte{in.Templates, in.Options} {
			for _, raw := range list {
				t, n, err := parseTemplate(in.Version, i == 1, raw)
				if err != nil || n != len(raw) || t.steps == nil && t.shortest == 0 {
					note(fmt.Errorf("restore templates of domain %d: %d octets are no template: %w", in.ID, len(raw), err))
					continue
				}
				d.declare(dom, t)
				d.stats.Templates-- // it was counted when it was declared
			}
		}
		dom.sampling = in.Sampling
		for k, v := range in.Samplers {
			if dom.samplers == nil {
				dom.samplers = make(map[uint64]uint32)
			}
			if len(dom.samplers) < maxSamplers && v > 0 {
				dom.samplers[k] = v
			}
		}
	}
	return first
}

// MarshalText spells a version by its name.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (v *Version) UnmarshalText(b []byte) error {
	for _, known := range []Version{V5, V9, IPFIX} {
		if known.String() == string(b) {
			*v = known
			return nil
		}
	}
	return fmt.Errorf("netflow: %q is none of netflow5, netflow9, ipfix", b)
}
