package taas_test

import (
	"reflect"
	"testing"
)

// The checks of neutron-tempest-plugin's tap_as_a_service/api, in its order, with a tenant's own network and ports.

type tempest struct {
	*bench
	network string
	ports   [3]string
}

func newTempest(t *testing.T) *tempest {
	b := &tempest{bench: newBench(t)}
	b.network = b.make("alice", "/v2.0/networks", `{"network":{"name":"net"}}`).id("network")
	for i := range b.ports {
		b.ports[i] = b.port()
	}
	return b
}

func (b *tempest) port() string {
	a := b.make("alice", "/v2.0/ports", `{"port":{"network_id":"`+b.network+`","name":"tempest-port"}}`)
	if a.at("port", "status") != "DOWN" || a.at("port", "project_id") != "red" {
		b.t.Errorf("a port that nobody has bound: %s", a.text)
	}
	return a.id("port")
}

func (b *tempest) tapService(port string) string {
	return b.make("alice", services, `{"tap_service":{"name":"tempest-ts","port_id":"`+port+`"}}`).id("tap_service")
}

func (b *tempest) tapFlow(service, port, more string) answer {
	return b.make("alice", flows, `{"tap_flow":{"name":"tempest-tf","source_port":"`+port+`","tap_service_id":"`+service+`","direction":"BOTH"`+more+`}}`)
}

func (b *tempest) mirror(port, directions, remote, kind string) answer {
	return b.do("alice", "POST", mirrors, `{"tap_mirror":{"name":"tempest-m","port_id":"`+port+`","directions":`+directions+`,"remote_ip":"`+remote+`","mirror_type":"`+kind+`"}}`)
}

func (b *tempest) wants(status int, method, path, body string) answer {
	b.t.Helper()
	a := b.do("alice", method, path, body)
	if a.status != status {
		b.t.Errorf("%s %s: %d %s, want %d", method, path, a.status, a.text, status)
	}
	return a
}

func TestTempestCreateTapServiceAndFlow(t *testing.T) {
	b := newTempest(t)
	b.tapFlow(b.tapService(b.ports[0]), b.ports[1], "")
}

func TestTempestCreateTapServiceAndFlowVLANFilter(t *testing.T) {
	b := newTempest(t)
	if a := b.tapFlow(b.tapService(b.ports[0]), b.ports[1], `,"vlan_filter":"189,279,999-1008"`); a.at("tap_flow", "vlan_filter") != "189,279,999-1008" {
		t.Errorf("vlan_filter: %s", a.text)
	}
}

func TestTempestDeleteTapResourcesAfterServicePortDelete(t *testing.T) {
	b := newTempest(t)
	ts := b.tapService(b.ports[0])
	tf := b.tapFlow(ts, b.ports[1], "").id("tap_flow")
	b.wants(204, "DELETE", "/v2.0/ports/"+b.ports[0], "")
	b.wants(404, "DELETE", services+"/"+ts, "")
	b.wants(404, "DELETE", flows+"/"+tf, "")
}

func TestTempestDeleteTapResourcesAfterFlowPortDelete(t *testing.T) {
	b := newTempest(t)
	ts := b.tapService(b.ports[0])
	tf := b.tapFlow(ts, b.ports[1], "").id("tap_flow")
	b.wants(204, "DELETE", "/v2.0/ports/"+b.ports[1], "")
	b.wants(404, "DELETE", flows+"/"+tf, "")
	b.wants(204, "DELETE", services+"/"+ts, "")
}

func TestTempestUpdateTapServiceAndFlow(t *testing.T) {
	b := newTempest(t)
	ts := b.tapService(b.ports[0])
	if a := b.wants(200, "PUT", services+"/"+ts, `{"tap_service":{"description":"Tap Service Description Updated"}}`); a.id("tap_service") != ts {
		t.Errorf("%s", a.text)
	}
	tf := b.tapFlow(ts, b.ports[1], "").id("tap_flow")
	if a := b.wants(200, "PUT", flows+"/"+tf, `{"tap_flow":{"description":"Tap Flow Description Updated"}}`); a.id("tap_flow") != tf {
		t.Errorf("%s", a.text)
	}
}

func TestTempestCreateTapMirror(t *testing.T) {
	b := newTempest(t)
	a := b.mirror(b.ports[0], `{"IN":101}`, "192.0.2.10", "gre")
	if a.status != 201 || a.at("tap_mirror", "port_id") != b.ports[0] || a.at("tap_mirror", "mirror_type") != "gre" || !reflect.DeepEqual(a.at("tap_mirror", "directions"), map[string]any{"IN": 101.0}) {
		t.Errorf("gre: %d %s", a.status, a.text)
	}
	b.wants(204, "DELETE", mirrors+"/"+a.id("tap_mirror"), "")
	a = b.mirror(b.ports[0], `{"IN":101,"OUT":102}`, "192.0.2.10", "erspanv1")
	if a.status != 201 || a.at("tap_mirror", "mirror_type") != "erspanv1" || !reflect.DeepEqual(a.at("tap_mirror", "directions"), map[string]any{"IN": 101.0, "OUT": 102.0}) {
		t.Errorf("erspanv1: %d %s", a.status, a.text)
	}
}

func TestTempestListShowAndUpdateTapMirror(t *testing.T) {
	b := newTempest(t)
	made := b.mirror(b.ports[0], `{"IN":101,"OUT":102}`, "192.0.2.10", "gre")
	id := made.id("tap_mirror")
	found := false
	for _, o := range b.wants(200, "GET", mirrors, "").at("tap_mirrors").([]any) {
		found = found || o.(map[string]any)["id"] == id
	}
	if !found {
		t.Error("the mirror is not in the list")
	}
	shown := b.wants(200, "GET", mirrors+"/"+id, "")
	for _, name := range []string{"id", "mirror_type", "remote_ip", "directions"} {
		if !reflect.DeepEqual(shown.at("tap_mirror", name), made.at("tap_mirror", name)) {
			t.Errorf("%s: %v, made with %v", name, shown.at("tap_mirror", name), made.at("tap_mirror", name))
		}
	}
	b.wants(200, "PUT", mirrors+"/"+id, `{"tap_mirror":{"name":"new","description":"of it"}}`)
	if a := b.wants(200, "GET", mirrors+"/"+id, ""); a.at("tap_mirror", "name") != "new" || a.at("tap_mirror", "description") != "of it" {
		t.Errorf("updated: %s", a.text)
	}
}

func TestTempestTapMirrorAndItsPort(t *testing.T) {
	b := newTempest(t)
	id := b.mirror(b.ports[0], `{"IN":101}`, "192.0.2.10", "gre").id("tap_mirror")
	b.wants(204, "DELETE", "/v2.0/ports/"+b.ports[0], "")
	b.wants(404, "GET", mirrors+"/"+id, "")
	id = b.mirror(b.ports[1], `{"IN":101}`, "192.0.2.10", "gre").id("tap_mirror")
	b.wants(204, "DELETE", mirrors+"/"+id, "")
	if a := b.wants(200, "GET", "/v2.0/ports/"+b.ports[1], ""); a.at("port", "name") != "tempest-port" {
		t.Errorf("the port of a deleted mirror: %s", a.text)
	}
}

func TestTempestCreateTapMirrorNegative(t *testing.T) {
	b := newTempest(t)
	for name, a := range map[string]answer{
		"direction": b.mirror(b.ports[0], `{"something":101}`, "192.0.2.10", "gre"),
		"type":      b.mirror(b.ports[0], `{"IN":101}`, "192.0.2.10", "erspanv2"),
		"address":   b.mirror(b.ports[0], `{"IN":101}`, "192.101.0.420", "gre"),
	} {
		if a.status != 400 {
			t.Errorf("%s: %d %s", name, a.status, a.text)
		}
	}
	if a := b.mirror(nowhere, `{"IN":101}`, "192.0.2.10", "gre"); a.status != 404 {
		t.Errorf("no such port: %d %s", a.status, a.text)
	}
}

func TestTempestTunnelIDs(t *testing.T) {
	b := newTempest(t)
	if a := b.mirror(b.ports[0], `{"IN":101}`, "192.0.2.10", "gre"); a.status != 201 {
		t.Fatalf("%d %s", a.status, a.text)
	}
	if a := b.mirror(b.ports[1], `{"IN":101}`, "192.0.2.11", "gre"); a.status != 409 {
		t.Errorf("the same id for another port and address: %d %s", a.status, a.text)
	}
	if a := b.mirror(b.ports[2], `{"IN":105,"OUT":102}`, "192.0.2.10", "gre"); a.status != 201 {
		t.Errorf("%d %s", a.status, a.text)
	}
	if a := b.mirror(b.ports[2], `{"OUT":103}`, "192.0.2.12", "gre"); a.status != 201 {
		t.Errorf("another mirror of one port: %d %s", a.status, a.text)
	}
	if a := b.mirror(b.ports[2], `{"OUT":"102"}`, "192.0.2.13", "gre"); a.status != 409 {
		t.Errorf("an id that the port has, as text: %d %s", a.status, a.text)
	}
}
