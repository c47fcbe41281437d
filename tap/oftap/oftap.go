// Package oftap has the fabric of OpenFlow switches carry taps.
//
// A tap whose source is a port of a switch becomes a policy of the fabric, named after it, and comes and goes with it. What a switch
// cannot do is refused, unless an agent does it behind the port that the copies are delivered at.
//
// Runs in: controller
package oftap

import (
	"errors"
	"fmt"
	"strings"

	"opentap/fabric"
	"opentap/fault"
	"opentap/filter"
	"opentap/tap"
	"opentap/want"
)

// Wish is a tap that the fabric shall carry: a source whose device is a filter port of a switch, SWITCH/PORT, and whose target
// is a delivery port.
type Wish struct {
	tap.Source
	// ExactAt is NODE/DEVICE where an agent applies all options to what is delivered: the fabric need not, and may deliver
	// more. "" = a tool is at the delivery port.
	ExactAt string
}

// Prefix begins the names of policies that taps need.
const Prefix = "tap-"

// Policy makes the policy of a wish. l is the description without taps; nil = there is none. Errors wrap tap.ErrNoDevice or
// tap.ErrUnsupported, or are *fault.Error.
func Policy(l *fabric.Layout, w Wish) (want.FabricPolicy, error) {
	p := want.FabricPolicy{Name: Prefix + w.ID, Tap: w.ID, ExactAt: w.ExactAt}
	from, err := port(l, w.Device.Name, want.RoleFilter, "source")
	if err != nil {
		return p, err
	}
	if w.To.Remote.IsValid() {
		return p, cannot("", "switches send copies to ports, not in tunnels to addresses", "use a tap service at a delivery port, or at a host that one leads to")
	}
	to, err := port(l, w.To.Device.Name, want.RoleDelivery, "destination")
	if err != nil {
		return p, err
	}
	p.From, p.To = []string{from}, []string{to}
	switch {
	case l.Paired(from):
		p.Direction = map[tap.Direction]string{tap.Out: want.Ingress, tap.In: want.Egress, tap.Both: want.BothSides}[w.Direction]
	case w.Direction == tap.In:
		return p, cannot("direction", w.Device.Name+" is not one of a pair: nothing passes the switch on its way to it", "what a passive tap hears comes in by the port, whichever way it went: that is OUT")
	}
	if w.ExactAt != "" {
		p.Filter = w.Options.Filter
	} else if err := options(&p, w.Options); err != nil {
		return p, err
	}
	if err := l.CheckPolicy("policy", &p); err != nil {
		return p, unsupported(err)
	}
	return p, nil
}

// port finds out what the description calls a port, and that it is of use.
func port(l *fabric.Layout, at, role, what string) (string, error) {
	if l == nil {
		return "", fmt.Errorf("%w: no fabric is described", tap.ErrNoDevice)
	}
	switch name, has := l.PortAt(at); has {
	case role:
		return name, nil
	case "":
		return "", fmt.Errorf("%w: the fabric does not name the port %s", tap.ErrNoDevice, at)
	default:
		return "", cannot("", fmt.Sprintf("%s has the role %s in the fabric, and a %s takes the role %s", at, has, what, role), "")
	}
}

// options has the switches do what a tool cannot.
func options(p *want.FabricPolicy, o tap.Options) error {
	const where = "take a service at a host that a delivery port leads to: its agent can"
	switch {
	case o.SampleN > 1:
		return cannot("sample_n", "switches do not sample", where)
	case o.Burst > 0:
		return cannot("burst", "the bucket of a switch's limit is as large as the switch has it", "leave it out")
	}
	if o.Snap > 0 && o.Snap <= 65535 { // frames are never longer
		p.Truncate = int(o.Snap)
	}
	p.RateKbps = int(min((o.RateBPS+999)/1000, 1<<31-1))
	p.Filter = o.Filter
	if o.VLANs != "" {
		text, err := withVLANs(o.Filter, o.VLANs)
		if err != nil {
			return err
		}
		p.Filter = text
	}
	return nil
}

// withVLANs adds a list of VLANs, as Neutron writes it, to a filter. The list is about the outermost tag, and in the filter a tag to the right
// of it would be the next one inwards.
func withVLANs(text, list string) (string, error) {
	var ids []filter.VLANRange
	for item := range strings.SplitSeq(list, ",") {
		var lo, hi int
		if n, _ := fmt.Sscanf(item, "%d-%d", &lo, &hi); n == 1 {
			hi = lo
		}
		if lo <= hi && lo <= 4095 {
			ids = append(ids, filter.VLANRange{Lo: uint16(lo), Hi: uint16(min(hi, 4095))})
		}
	}
	if len(ids) == 0 {
		return "ip and arp", nil // the list asks for what no frame has, and no frame is both
	}
	root := filter.Node(&filter.VLAN{IDs: ids})
	if text == "" {
		return (&filter.Expr{Root: root}).String(), nil
	}
	e, err := filter.Parse(text)
	switch {
	case err != nil:
		return "", fault.Field("filter", "%s", err)
	case e.Root == nil:
		return (&filter.Expr{Root: root}).String(), nil
	case strings.Contains(e.String(), "vlan"):
		return "", cannot("vlan_filter", "a switch matches one tag, and the filter speaks of tags as well", "say all of it in the filter")
	}
	return (&filter.Expr{Root: &filter.And{Terms: []filter.Node{root, e.Root}}}).String(), nil
}

// cannot is what is refused for good.
func cannot(field, msg, hint string) error {
	return &fault.Error{Kind: fault.Unsupported, Field: field, Msg: msg, Hint: hint, Err: tap.ErrUnsupported}
}

// unsupported has an error of the fabric's be one of taps as well.
func unsupported(err error) error {
	var f *fault.Error
	if errors.As(err, &f) && f.Kind == fault.Unsupported && f.Err == nil {
		g := *f
		g.Err = tap.ErrUnsupported
		return &g
	}
	return err
}

// Policies makes those of all wishes that can be; of the others it says why not, by id.
func Policies(l *fabric.Layout, list []Wish) ([]want.FabricPolicy, map[string]error) {
	var out []want.FabricPolicy
	refused := make(map[string]error)
	for _, w := range list {
		p, err := Policy(l, w)
		if err != nil {
			refused[w.ID] = err
			continue
		}
		out = append(out, p)
	}
	return out, refused
}

// With is the description with policies of taps; those that do not go with the others are left out, and refused says why, by id.
func With(l *fabric.Layout, list []Wish) (with *fabric.Layout, refused map[string]error) {
	policies, refused := Policies(l, list)
	if len(policies) == 0 {
		return l, refused
	}
	f := l.Fabric
	f.Policies = append(append([]want.FabricPolicy(nil), f.Policies...), policies...)
	with, err := fabric.NewLayout(f)
	if err == nil {
		return with, refused
	}
	with = l
	for i := range policies { // one by one: seldom, for each of them is right by itself
		f := with.Fabric
		f.Policies = append(append([]want.FabricPolicy(nil), f.Policies...), policies[i])
		next, err := fabric.NewLayout(f)
		if err != nil {
			refused[policies[i].Tap] = unsupported(err)
			continue
		}
		with = next
	}
	return with, refused
}
