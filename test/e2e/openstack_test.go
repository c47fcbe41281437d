//go:build linux

package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"opentap/internal/nettest"
)

// openstackBin is Debian's: with python3-neutron-taas it has the tap commands.
const openstackBin = "/usr/bin/openstack"

// openstack runs the client, which shall succeed, and decodes what it prints as JSON.
func (d *daemon) openstack(auth []string, out any, args ...string) {
	d.t.Helper()
	if out != nil {
		args = append(args, "-f", "json")
	}
	r := d.exec(openstackBin, append(append([]string{}, auth...), args...)...)
	if r.code != 0 {
		d.t.Fatalf("openstack %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal([]byte(r.stdout), out); err != nil {
		d.t.Fatalf("openstack %s: %v\n%s", strings.Join(args, " "), err, r.stdout)
	}
}

// TestNetnsOpenStackClient drives tap services and flows with the openstack client of Debian, unchanged, by each way of
// coming in.
func TestNetnsOpenStackClient(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needTool(t, openstackBin)
	ns := nettest.NewNS(t)
	for _, name := range []string{"left", "right", "monitor"} {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-in"}
		if err := ns.Netlink().LinkAdd(v); err != nil {
			t.Fatal(err)
		}
		ns.Up(name)
		ns.Up(name + "-in")
	}
	// What comes without a token has one project and no administrator's rights: the ports of that project are its.
	d := newDaemon(t, ns, "auth:\n  anonymous:\n    - {role: owner, project: red, ranges: [127.0.0.0/8]}\n")
	if r := d.exec(openstackBin, "tap", "service", "create", "--help"); r.code != 0 {
		t.Skip("needs python3-neutron-taas: the openstack client has no tap commands")
	}
	parts := strings.Split(d.token, "_")
	ways := map[string][]string{
		"admin_token": {"--os-auth-type", "admin_token", "--os-endpoint", d.url(), "--os-token", d.token},
		"http_basic":  {"--os-auth-type", "http_basic", "--os-endpoint", d.url(), "--os-username", "admin", "--os-password", d.token},
		"v3password": {
			"--os-auth-type", "v3password", "--os-auth-url", d.url() + "/identity/v3", "--os-username", "admin", "--os-password", d.token,
			"--os-project-name", "default", "--os-user-domain-id", "default", "--os-project-domain-id", "default",
		},
		"v3applicationcredential": {
			"--os-auth-type", "v3applicationcredential", "--os-auth-url", d.url() + "/identity/v3",
			"--os-application-credential-id", parts[1], "--os-application-credential-secret", parts[2],
		},
		"v3token": {"--os-auth-type", "v3token", "--os-auth-url", d.url() + "/identity/v3", "--os-token", d.token},
	}
	for way, auth := range ways {
		type shown struct {
			ID, Name, Port, Status, Tenant, Direction string
			Description                               string `json:"description"`
			VLANs                                     string `json:"vlan_filter"`
			Service                                   string `json:"tap_service_id"`
		}
		name := strings.ReplaceAll(way, "_", "-")
		var made, got, flow shown
		d.openstack(auth, &made, "tap", "service", "create", "--name", name, "--port", "monitor", "--description", "d")
		if made.Name != name || made.Description != "d" || made.Status != "DOWN" || made.Tenant != "default" || made.Port != d.portNamed("monitor") {
			t.Errorf("%s: service made: %+v", way, made)
		}
		d.openstack(auth, &flow, "tap", "flow", "create", "--name", name, "--port", "left", "--tap-service", name, "--direction", "both", "--vlan-filter", "1-5,9")
		if flow.Direction != "BOTH" || flow.VLANs != "1-5,9" || flow.Service != made.ID {
			t.Errorf("%s: flow made: %+v", way, flow)
		}
		var list []shown
		d.openstack(auth, &list, "tap", "flow", "list")
		if len(list) != 1 || list[0].ID != flow.ID {
			t.Errorf("%s: flows: %+v", way, list)
		}
		d.openstack(auth, &got, "tap", "flow", "show", flow.ID)
		if got.ID != flow.ID || got.Status != "ACTIVE" {
			t.Errorf("%s: flow shown by id: %+v", way, got)
		}
		if way == "admin_token" { // the rest of it once: each call takes a second
			d.openstack(auth, &list, "tap", "service", "list")
			if len(list) != 1 || list[0].ID != made.ID {
				t.Errorf("services: %+v", list)
			}
			d.openstack(auth, &got, "tap", "service", "show", name)
			if got.ID != made.ID || got.Status != "ACTIVE" {
				t.Errorf("service shown by name: %+v", got)
			}
			d.openstack(auth, &got, "tap", "service", "show", made.ID)
			d.openstack(auth, &got, "tap", "flow", "show", name)
			if got.ID != flow.ID {
				t.Errorf("flow shown by name: %+v", got)
			}
			d.openstack(auth, &got, "tap", "flow", "update", name, "--description", "new")
			if got.Description != "new" {
				t.Errorf("flow changed by name: %+v", got)
			}
			d.openstack(auth, &got, "tap", "flow", "update", flow.ID, "--name", "other")
			d.openstack(auth, &got, "tap", "service", "update", made.ID, "--name", "other")
			if got.Name != "other" {
				t.Errorf("service changed by id: %+v", got)
			}
			d.openstack(auth, &got, "tap", "service", "update", "other", "--name", name)
			d.openstack(auth, nil, "tap", "flow", "delete", "other")
			d.openstack(auth, &flow, "tap", "flow", "create", "--port", d.portNamed("right"), "--tap-service", made.ID, "--direction", "in")
			d.openstack(auth, nil, "tap", "flow", "delete", flow.ID)
			r := d.exec(openstackBin, append(append([]string{}, auth...), "tap", "flow", "create", "--port", "left", "--tap-service", name, "--direction", "in", "--vlan-filter", "1,")...)
			if r.code == 0 || !strings.Contains(r.stderr, "vlan_filter") {
				t.Errorf("a wrong VLAN list: %+v", r)
			}
		}
		d.openstack(auth, nil, "tap", "service", "delete", name)
		d.openstack(auth, &list, "tap", "flow", "list")
		if len(list) != 0 {
			t.Errorf("%s: flows of a service that was deleted: %+v", way, list)
		}
	}
	none := []string{"--os-auth-type", "none", "--os-endpoint", d.url()}
	if r := d.exec(openstackBin, append(append([]string{}, none...), "tap", "service", "create", "--port", "right")...); r.code == 0 {
		t.Errorf("a port of nobody's, without a token: %+v", r)
	}
	if r := d.opentap("ports", "set", "right", "--project", "red"); r.code != 0 {
		t.Fatalf("give the port away: %+v", r)
	}
	var made struct{ ID, Tenant string }
	d.openstack(none, &made, "tap", "service", "create", "--name", "mine", "--port", "right")
	var list []struct{ ID string }
	d.openstack(none, &list, "tap", "service", "list")
	if made.Tenant != "red" || len(list) != 1 || list[0].ID != made.ID {
		t.Errorf("without a token: made %+v, listed %+v", made, list)
	}
	r := d.exec(openstackBin, "--os-auth-type", "admin_token", "--os-endpoint", d.url(), "--os-token", "wrong", "tap", "service", "list")
	if r.code == 0 {
		t.Errorf("a wrong token: %+v", r)
	}
}
