package tap

import (
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"opentap/filter"
)

// Longest texts, octets. Those of names and descriptions are the columns of Neutron's tables.
const (
	MaxName              = 255
	MaxDescription       = 1024
	MaxMirrorDescription = 255
	MaxVLANs             = 1024
)

// MaxSession is the largest session id that ERSPAN carries, 10 bits; larger ones are cut when they are sent.
const MaxSession = 1<<10 - 1

// Most of what Options may ask for.
const (
	maxSnap     = 256 << 10
	minSnap     = 34 // Ethernet and IPv4 headers
	maxPriority = 1000
)

// Directions and encapsulations that Check takes.
var (
	directions      = []Direction{In, Out, Both}
	serviceEncaps   = []Encap{VXLAN, GRE, Geneve} // an id of 24 bits fits
	mirrorEncaps    = []Encap{GRE, ERSPAN1, ERSPAN2, VXLAN, Geneve}
	waysWithTooLong = []OnMTU{Truncate, Drop}
)

// Check finds what is wrong with a service as it was asked for; nil = nothing.
func (s *Service) Check() *Refusal {
	if r := checkTexts(s.Name, s.Description, MaxDescription); r != nil {
		return r
	}
	if r := checkID("port_id", s.PortID); r != nil {
		return r
	}
	o := s.Options
	o.Device, o.Expires, o.Encap = false, time.Time{}, ""
	if o != (Options{}) {
		return &Refusal{Cause: OutOfBounds, Field: "options", Detail: "of a service only tap_device, expires_at and encap mean something; the rest belongs to its flows"}
	}
	return oneOf("encap", s.Options.Encap, serviceEncaps)
}

// Check finds what is wrong with a flow as it was asked for; nil = nothing.
func (f *Flow) Check() *Refusal {
	if r := checkTexts(f.Name, f.Description, MaxDescription); r != nil {
		return r
	}
	if r := checkID("tap_service_id", f.ServiceID); r != nil {
		return r
	}
	if r := checkID("source_port", f.PortID); r != nil {
		return r
	}
	if f.Direction == "" {
		return &Refusal{Cause: Missing, Field: "direction"}
	}
	if r := oneOf("direction", f.Direction, directions); r != nil {
		return r
	}
	if f.Options.Device || f.Options.Encap != "" {
		return &Refusal{Cause: OutOfBounds, Field: "options", Detail: "tap_device and encap are said of the service, not of a flow"}
	}
	return f.Options.Check()
}

// Check finds what is wrong with a mirror as it was asked for; nil = nothing.
func (m *Mirror) Check() *Refusal {
	if r := checkTexts(m.Name, m.Description, MaxMirrorDescription); r != nil {
		return r
	}
	if r := checkID("port_id", m.PortID); r != nil {
		return r
	}
	if len(m.Directions) == 0 {
		return &Refusal{Cause: Missing, Field: "directions"}
	}
	seen := make(map[uint32]bool)
	for _, d := range directions {
		id, ok := m.Directions[d]
		if !ok {
			continue
		}
		if seen[id] {
			return &Refusal{Cause: SameTunnel, Field: "directions", Value: id}
		}
		seen[id] = true
		if id > 1<<24-1 && (m.Type == VXLAN || m.Type == Geneve) {
			return &Refusal{Cause: BadTunnel, Field: "directions", Value: id, Detail: "0 to 16777215 of " + string(m.Type)}
		}
	}
	if len(seen) != len(m.Directions) {
		for d := range m.Directions {
			if r := oneOf("directions", d, directions); r != nil {
				return r
			}
		}
	}
	if m.Type == "" {
		return &Refusal{Cause: Missing, Field: "mirror_type"}
	}
	if r := oneOf("mirror_type", m.Type, mirrorEncaps); r != nil {
		return r
	}
	if !m.Remote.IsValid() {
		return &Refusal{Cause: Missing, Field: "remote_ip"}
	}
	if m.Remote.IsUnspecified() || m.Remote.IsMulticast() || m.Remote.Zone() != "" {
		return &Refusal{Cause: BadAddress, Field: "remote_ip", Value: m.Remote.String()}
	}
	if m.Options.Device || m.Options.Encap != "" {
		return &Refusal{Cause: OutOfBounds, Field: "options", Detail: "tap_device and encap mean nothing for a mirror"}
	}
	return m.Options.Check()
}

// Check finds what is wrong with options; nil = nothing. It does not look at the clock.
func (o *Options) Check() *Refusal {
	switch {
	case o.Snap != 0 && (o.Snap < minSnap || o.Snap > maxSnap):
		return &Refusal{Cause: OutOfBounds, Field: "snap", Value: o.Snap, Detail: "34 to 262144 octets, or 0 for whole frames"}
	case o.Priority < -maxPriority || o.Priority > maxPriority:
		return &Refusal{Cause: OutOfBounds, Field: "priority", Value: o.Priority, Detail: "-1000 to 1000"}
	case o.Burst != 0 && o.RateBPS == 0:
		return &Refusal{Cause: OutOfBounds, Field: "burst", Value: o.Burst, Detail: "means nothing without rate_bps"}
	case o.RateBPS != 0 && o.RateBPS < 8000:
		return &Refusal{Cause: OutOfBounds, Field: "rate_bps", Value: o.RateBPS, Detail: "at least 8000 bits per second"}
	}
	if o.VLANs != "" && !VLANsOK(o.VLANs) {
		return &Refusal{Cause: BadVLANs, Field: "vlan_filter", Value: o.VLANs}
	}
	if r := oneOf("on_mtu", o.OnMTU, waysWithTooLong); r != nil {
		return r
	}
	if o.Filter != "" {
		if _, err := filter.Parse(o.Filter); err != nil {
			return &Refusal{Cause: BadFilter, Field: "filter", Value: o.Filter, Err: err}
		}
	}
	return nil
}

// VLANsOK reports whether s is a list of VLAN ids and ranges as Neutron's vlan_filter has it: "189,279,999-1008". Ids
// beyond 4095 and ranges from high to low are taken as there; they match nothing.
func VLANsOK(s string) bool {
	if len(s) > MaxVLANs {
		return false
	}
	for item := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(item, "-")
		if !digits(low) || isRange && !digits(high) {
			return false
		}
	}
	return true
}

func digits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

func checkTexts(name, description string, most int) *Refusal {
	switch {
	case len(name) > MaxName:
		return &Refusal{Cause: TooLong, Field: "name", Value: name, Detail: "255"}
	case strings.TrimSpace(name) != name || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return &Refusal{Cause: BadName, Field: "name", Value: name}
	case len(description) > most:
		return &Refusal{Cause: TooLong, Field: "description", Value: description, Detail: map[bool]string{true: "255", false: "1024"}[most == MaxMirrorDescription]}
	case !utf8.ValidString(description):
		return &Refusal{Cause: BadName, Field: "description", Value: description}
	}
	return nil
}

func checkID(field, id string) *Refusal {
	switch {
	case id == "":
		return &Refusal{Cause: Missing, Field: field}
	case !IsUUID(id):
		return &Refusal{Cause: NotUUID, Field: field, Value: id}
	}
	return nil
}

// oneOf takes "" as well: what must be there is checked before.
func oneOf[T ~string](field string, v T, list []T) *Refusal {
	if v == "" || slices.Contains(list, v) {
		return nil
	}
	all := make([]string, len(list))
	for i, s := range list {
		all[i] = string(s)
	}
	return &Refusal{Cause: NotOneOf, Field: field, Value: string(v), Detail: strings.Join(all, ", ")}
}

// ParseAddress reads an address that copies can be sent to; IPv4 in decimal without leading zeros.
func ParseAddress(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}
