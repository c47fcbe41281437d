package taas

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"

	"opentap/auth"
	"opentap/tap"
)

// texts are the attributes that all tap resources have.
func texts(more map[string]attribute) map[string]attribute {
	all := map[string]attribute{
		"id": {}, "status": {}, "status_reason": {}, "project_id": {post: true}, "name": {post: true, put: true}, "description": {post: true, put: true},
	}
	for name, a := range more {
		all[name] = a
	}
	return all
}

func text(o object, name string) string {
	s, _ := o[name].(string)
	return s
}

// change is what a PUT asks for.
func change(o object) (ch tap.Change) {
	if s, ok := o["name"].(string); ok {
		ch.Name = &s
	}
	if s, ok := o["description"].(string); ok {
		ch.Description = &s
	}
	return ch
}

// byID hides what is not called by its id: in paths a name is none.
func byID[V any](key string, missing tap.Cause, get func() (V, error)) (V, error) {
	if !tap.IsUUID(key) {
		var none V
		return none, notFound(missing, key)
	}
	return get()
}

func notFound(cause tap.Cause, id string) error {
	_, class, words := ofRefusal(httpProblem, &tap.Refusal{Cause: cause, ID: id})
	return &problem{404, class, words}
}

// fresh makes a view one of a thing just made: Neutron's answer to POST says DOWN.
func fresh(o object) object {
	if _, has := o["status"]; has {
		o["status"] = string(tap.Down)
	}
	delete(o, "status_reason")
	return o
}

func reported(o object, r *tap.Report) object {
	o["status"] = string(r.Status)
	if r.Reason != "" {
		o["status_reason"] = r.Reason
	}
	return o
}

func showService(v *tap.ServiceView) object {
	return reported(object{
		"id": v.ID, "tenant_id": v.Project, "project_id": v.Project, "name": v.Name, "description": v.Description, "port_id": v.PortID,
	}, &v.Report)
}

func showFlow(v *tap.FlowView) object {
	o := reported(object{
		"id": v.ID, "tenant_id": v.Project, "project_id": v.Project, "name": v.Name, "description": v.Description,
		"tap_service_id": v.ServiceID, "source_port": v.PortID, "direction": string(v.Direction), "vlan_filter": nil,
	}, &v.Report)
	if v.Options.VLANs != "" {
		o["vlan_filter"] = v.Options.VLANs
	}
	return o
}

func showMirror(v *tap.MirrorView) object {
	directions := object{}
	for d, id := range v.Directions {
		if s, ok := v.Spelling[d]; ok {
			directions[string(d)] = s
		} else {
			directions[string(d)] = id
		}
	}
	kind := string(v.Type)
	if v.Type == tap.ERSPAN1 {
		kind = "erspanv1"
	}
	o := object{
		"id": v.ID, "tenant_id": v.Project, "project_id": v.Project, "name": v.Name, "description": v.Description,
		"port_id": v.PortID, "directions": directions, "remote_ip": v.Remote.String(), "mirror_type": kind,
	}
	return reported(o, &v.Report)
}

// asVLANs takes null for none.
func asVLANs(v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	if s, ok := v.(string); ok && tap.VLANsOK(s) {
		return s, nil
	}
	return nil, fmt.Errorf("'%s' is not a valid input", python(v))
}

// directions are the tunnel ids of a mirror, and how they were written where that was as text.
type directions struct {
	ids      map[tap.Direction]uint32
	spelling map[tap.Direction]string
}

func asDirections(v any) (any, error) {
	o, ok := v.(object)
	if !ok {
		return nil, fmt.Errorf("'%s' is not a dictionary", python(v))
	}
	if len(o) == 0 { // Neutron takes it, and mirrors nothing
		return nil, errors.New("at least one of IN, OUT and BOTH is needed")
	}
	out := directions{ids: map[tap.Direction]uint32{}, spelling: map[tap.Direction]string{}}
	names := sorted(o)
	sort.Strings(names)
	for _, name := range names {
		d := tap.Direction(name)
		if d != tap.In && d != tap.Out && d != tap.Both {
			return nil, fmt.Errorf("'%s' is not in ['IN', 'OUT', 'BOTH']", name)
		}
		n, isText, ok := wholeNumber(o[name])
		if !ok {
			return nil, fmt.Errorf("'%s' is not an integer from 0 to 4294967295", python(o[name]))
		}
		out.ids[d] = n
		if isText {
			out.spelling[d] = o[name].(string)
		}
	}
	return out, nil
}

func asAddress(v any) (any, error) {
	if s, ok := v.(string); ok && strings.TrimSpace(s) == s {
		if a, ok := tap.ParseAddress(s); ok {
			return a, nil
		}
	}
	return nil, fmt.Errorf("'%s' is not a valid IP address", python(v))
}

func (s *server) kinds() []kind {
	return []kind{s.services(), s.flows(), s.mirrors(), s.ports(), s.networks(), s.subnets()}
}

func (s *server) services() kind {
	return kind{
		name: "tap_service", plural: "tap_services", taas: true,
		attributes: texts(map[string]attribute{"port_id": {post: true, required: true, convert: asUUID}}),
		list: func(ctx context.Context, id auth.Identity) ([]object, error) {
			list, err := s.ctl.TapServices(ctx, id)
			return each(list, showService), err
		},
		get: func(ctx context.Context, id auth.Identity, key string) (object, error) {
			v, err := byID(key, tap.NoService, func() (tap.ServiceView, error) { return s.ctl.TapService(ctx, id, key) })
			return showService(&v), err
		},
		create: func(ctx context.Context, id auth.Identity, list []object) ([]object, error) {
			wishes := make([]tap.Service, len(list))
			for i, o := range list {
				wishes[i] = tap.Service{Project: text(o, "project_id"), Name: text(o, "name"), Description: text(o, "description"), PortID: text(o, "port_id")}
			}
			made, err := s.ctl.CreateTapServices(ctx, id, wishes)
			return freshly(made, showService), err
		},
		update: func(ctx context.Context, id auth.Identity, key string, o object) (object, error) {
			v, err := byID(key, tap.NoService, func() (tap.ServiceView, error) { return s.ctl.UpdateTapService(ctx, id, key, change(o)) })
			return showService(&v), err
		},
		remove: func(ctx context.Context, id auth.Identity, key string) error {
			_, err := byID(key, tap.NoService, func() (any, error) { return nil, s.ctl.DeleteTapService(ctx, id, key) })
			return err
		},
	}
}

func (s *server) flows() kind {
	return kind{
		name: "tap_flow", plural: "tap_flows", taas: true,
		attributes: texts(map[string]attribute{
			"tap_service_id": {post: true, required: true, convert: asUUID}, "source_port": {post: true, required: true, convert: asUUID},
			"direction": {post: true, required: true, convert: oneOf("IN", "OUT", "BOTH")}, "vlan_filter": {post: true, convert: asVLANs},
		}),
		list: func(ctx context.Context, id auth.Identity) ([]object, error) {
			list, err := s.ctl.TapFlows(ctx, id)
			return each(list, showFlow), err
		},
		get: func(ctx context.Context, id auth.Identity, key string) (object, error) {
			v, err := byID(key, tap.NoFlow, func() (tap.FlowView, error) { return s.ctl.TapFlow(ctx, id, key) })
			return showFlow(&v), err
		},
		create: func(ctx context.Context, id auth.Identity, list []object) ([]object, error) {
			wishes := make([]tap.Flow, len(list))
			for i, o := range list {
				wishes[i] = tap.Flow{
					Project: text(o, "project_id"), Name: text(o, "name"), Description: text(o, "description"), ServiceID: text(o, "tap_service_id"),
					PortID: text(o, "source_port"), Direction: tap.Direction(text(o, "direction")), Options: tap.Options{VLANs: text(o, "vlan_filter")},
				}
			}
			made, err := s.ctl.CreateTapFlows(ctx, id, wishes)
			return freshly(made, showFlow), err
		},
		update: func(ctx context.Context, id auth.Identity, key string, o object) (object, error) {
			v, err := byID(key, tap.NoFlow, func() (tap.FlowView, error) { return s.ctl.UpdateTapFlow(ctx, id, key, change(o)) })
			return showFlow(&v), err
		},
		remove: func(ctx context.Context, id auth.Identity, key string) error {
			_, err := byID(key, tap.NoFlow, func() (any, error) { return nil, s.ctl.DeleteTapFlow(ctx, id, key) })
			return err
		},
	}
}

func (s *server) mirrors() kind {
	return kind{
		name: "tap_mirror", plural: "tap_mirrors", taas: true,
		attributes: texts(map[string]attribute{
			"port_id": {post: true, required: true, convert: asUUID}, "directions": {post: true, required: true, convert: asDirections},
			"remote_ip": {post: true, required: true, convert: asAddress}, "mirror_type": {post: true, required: true, convert: oneOf("erspanv1", "gre")},
		}),
		list: func(ctx context.Context, id auth.Identity) ([]object, error) {
			list, err := s.ctl.TapMirrors(ctx, id)
			return each(list, showMirror), err
		},
		get: func(ctx context.Context, id auth.Identity, key string) (object, error) {
			v, err := byID(key, tap.NoMirror, func() (tap.MirrorView, error) { return s.ctl.TapMirror(ctx, id, key) })
			return showMirror(&v), err
		},
		create: func(ctx context.Context, id auth.Identity, list []object) ([]object, error) {
			wishes := make([]tap.Mirror, len(list))
			for i, o := range list {
				d, _ := o["directions"].(directions)
				wishes[i] = tap.Mirror{
					Project: text(o, "project_id"), Name: text(o, "name"), Description: text(o, "description"), PortID: text(o, "port_id"),
					Directions: d.ids, Spelling: d.spelling, Remote: address(o["remote_ip"]), Type: mirrorType(text(o, "mirror_type")),
				}
			}
			made, err := s.ctl.CreateTapMirrors(ctx, id, wishes)
			out := freshly(made, showMirror)
			for _, o := range out {
				delete(o, "status") // Neutron's mirrors have none
			}
			return out, err
		},
		update: func(ctx context.Context, id auth.Identity, key string, o object) (object, error) {
			v, err := byID(key, tap.NoMirror, func() (tap.MirrorView, error) { return s.ctl.UpdateTapMirror(ctx, id, key, change(o)) })
			return showMirror(&v), err
		},
		remove: func(ctx context.Context, id auth.Identity, key string) error {
			_, err := byID(key, tap.NoMirror, func() (any, error) { return nil, s.ctl.DeleteTapMirror(ctx, id, key) })
			return err
		},
	}
}

func mirrorType(s string) tap.Encap {
	if s == "erspanv1" {
		return tap.ERSPAN1
	}
	return tap.Encap(s)
}

func each[V any](list []V, show func(*V) object) []object {
	out := make([]object, len(list))
	for i := range list {
		out[i] = show(&list[i])
	}
	return out
}

func freshly[V any](list []V, show func(*V) object) []object {
	out := each(list, show)
	for _, o := range out {
		fresh(o)
	}
	return out
}

// number reads a JSON number or gives 0.
func number(v any) int {
	n, _ := v.(json.Number)
	i, _ := n.Int64()
	return int(i)
}
