package taas

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/tap"
)

// httpProblem stands for none where only a class and its words are wanted.
var httpProblem = httpapi.Problem{Fault: &fault.Error{}}

func address(v any) netip.Addr {
	a, _ := v.(netip.Addr)
	return a
}

func stamp(t time.Time) string {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

// showPort is a port as Neutron shows one. What OpenTap does not know has Neutron's default.
func showPort(v *tap.PortView) object {
	status, host := "DOWN", v.Node
	if v.Present {
		status = "ACTIVE"
	}
	o := object{
		"id": v.ID, "name": v.Name, "network_id": v.Network, "mac_address": v.MAC, "fixed_ips": []any{}, "device_id": "", "device_owner": "",
		"status": status, "admin_state_up": true, "security_groups": []any{}, "port_security_enabled": false, "allowed_address_pairs": []any{},
		"binding:host_id": host, "binding:vif_type": "other", "binding:vnic_type": "normal", "binding:vif_details": object{}, "binding:profile": object{},
		"description": v.Description, "tags": []any{}, "project_id": v.Project, "tenant_id": v.Project, "revision_number": 1,
		"created_at": stamp(v.Created), "updated_at": stamp(v.Created),
	}
	if host == "" {
		o["binding:vif_type"] = "unbound"
	}
	var also []string
	for _, n := range v.Nodes {
		also = append(also, n+"/"+v.Name)
		if v.Device != v.Name {
			also = append(also, n+"/"+v.Device, v.Device)
		}
	}
	o[alsoCalled] = also
	return o
}

func asIs(v any) (any, error) { return v, nil }

func asText(v any) (any, error) {
	if v == nil {
		return "", nil
	}
	return asString(v)
}

// profileDevice is the member of binding:profile that names the network device which a port is.
const profileDevice = "device"

func (s *server) ports() kind {
	both := attribute{post: true, put: true, convert: asIs}
	return kind{
		name: "port", plural: "ports", loose: true,
		attributes: map[string]attribute{
			"id": {post: true, convert: asUUID}, "status": {}, "project_id": {post: true}, "name": {post: true, put: true, convert: asText},
			"description": {post: true, put: true, convert: asText}, "network_id": {post: true, convert: asUUID}, "mac_address": {post: true, put: true, convert: asMAC},
			"binding:host_id": {post: true, put: true, convert: asText}, "binding:profile": both,
			"revision_number": {}, "created_at": {}, "updated_at": {}, "binding:vif_type": {}, "binding:vif_details": {},
			"fixed_ips": both, "device_id": both, "device_owner": both, "admin_state_up": both, "security_groups": both, "port_security_enabled": both,
			"allowed_address_pairs": both, "binding:vnic_type": both,
		},
		list: func(ctx context.Context, id auth.Identity) ([]object, error) {
			list, err := s.ctl.Ports(ctx, id)
			return each(list, showPort), err
		},
		get: func(ctx context.Context, id auth.Identity, key string) (object, error) {
			v, err := byID(key, tap.NoPort, func() (tap.PortView, error) { return s.ctl.Port(ctx, id, key) })
			return showPort(&v), err
		},
		create: func(ctx context.Context, id auth.Identity, list []object) ([]object, error) {
			wishes := make([]tap.PortWish, len(list))
			for i, o := range list {
				if text(o, "mac_address") == "" && text(o, "binding:host_id") == "" {
					o["mac_address"] = newMAC()
				}
				if wishes[i] = portWish(o); wishes[i].Project == nil {
					wishes[i].Project = &id.Project // in Neutron a port is always somebody's
				}
			}
			made, err := s.ctl.CreatePorts(ctx, id, wishes)
			return each(made, showPort), err
		},
		update: func(ctx context.Context, id auth.Identity, key string, o object) (object, error) {
			v, err := byID(key, tap.NoPort, func() (tap.PortView, error) { return s.ctl.UpdatePort(ctx, id, key, portWish(o)) })
			return showPort(&v), err
		},
		remove: func(ctx context.Context, id auth.Identity, key string) error {
			_, err := byID(key, tap.NoPort, func() (any, error) { return nil, s.ctl.DeletePort(ctx, id, key) })
			return err
		},
	}
}

func asMAC(v any) (any, error) {
	s, ok := v.(string)
	if ok && len(s) == 17 && strings.Count(s, ":") == 5 {
		return s, nil
	}
	return nil, fmt.Errorf("'%s' is not a valid MAC address", python(v))
}

// newMAC makes an address with the prefix that Neutron has.
func newMAC() string {
	var b [3]byte
	rand.Read(b[:]) // never fails, crypto/rand
	return fmt.Sprintf("fa:16:3e:%02x:%02x:%02x", b[0], b[1], b[2])
}

func portWish(o object) (w tap.PortWish) {
	set := func(name string, to **string) {
		if s, ok := o[name].(string); ok && s != "" {
			*to = &s
		}
	}
	set("id", &w.ID)
	set("name", &w.Name)
	set("description", &w.Description)
	set("project_id", &w.Project)
	set("network_id", &w.Network)
	set("mac_address", &w.MAC)
	set("binding:host_id", &w.Node)
	if p, ok := o["binding:profile"].(object); ok {
		if d, ok := p[profileDevice].(string); ok && d != "" {
			w.Device = &d
		}
	}
	return w
}

func showNetwork(n *tap.Network) object {
	mtu := n.MTU
	if mtu == 0 {
		mtu = 1500
	}
	return object{
		"id": n.ID, "name": n.Name, "status": "ACTIVE", "admin_state_up": true, "shared": false, "subnets": []any{}, "mtu": mtu, "router:external": false,
		"provider:network_type": "vlan", "provider:physical_network": nil, "provider:segmentation_id": nil, "project_id": n.Project, "tenant_id": n.Project,
		"tags": []any{}, "description": n.Description, "availability_zones": []any{}, "availability_zone_hints": []any{}, "port_security_enabled": true,
		"revision_number": 1, "created_at": stamp(n.Created), "updated_at": stamp(n.Created),
	}
}

func (s *server) networks() kind {
	list := func(ctx context.Context, id auth.Identity) ([]object, error) {
		list, err := s.ctl.Networks(ctx, id)
		return each(list, showNetwork), err
	}
	return kind{
		name: "network", plural: "networks", loose: true,
		attributes: map[string]attribute{
			"id": {}, "status": {}, "project_id": {post: true}, "name": {post: true, put: true, convert: asText}, "description": {post: true, put: true, convert: asText},
			"mtu": {post: true, convert: asIs}, "subnets": {},
		},
		list: list,
		get: func(ctx context.Context, id auth.Identity, key string) (object, error) {
			all, err := list(ctx, id)
			for _, o := range all {
				if o["id"] == key {
					return o, nil
				}
			}
			if err == nil {
				err = notFound(tap.NoNetwork, key)
			}
			return nil, err
		},
		create: func(ctx context.Context, id auth.Identity, list []object) ([]object, error) {
			wishes := make([]tap.Network, len(list))
			for i, o := range list {
				wishes[i] = tap.Network{Name: text(o, "name"), Description: text(o, "description"), Project: text(o, "project_id"), MTU: number(o["mtu"])}
			}
			made, err := s.ctl.CreateNetworks(ctx, id, wishes)
			return each(made, showNetwork), err
		},
		remove: func(ctx context.Context, id auth.Identity, key string) error {
			_, err := byID(key, tap.NoNetwork, func() (any, error) { return nil, s.ctl.DeleteNetwork(ctx, id, key) })
			return err
		},
	}
}

func (s *server) subnets() kind {
	return kind{
		name: "subnet", plural: "subnets", attributes: map[string]attribute{"id": {}, "name": {}},
		list: func(context.Context, auth.Identity) ([]object, error) { return []object{}, nil },
		get: func(_ context.Context, _ auth.Identity, key string) (object, error) {
			return nil, &problem{404, "SubnetNotFound", "Subnet " + key + " could not be found."}
		},
	}
}
