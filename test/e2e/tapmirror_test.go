//go:build linux

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"opentap/internal/await"
	"opentap/internal/nettest"
)

// decoded is what tshark makes of frames: the fields of each, separated by blanks; "-" = it has none of that.
func decoded(t testing.TB, dir string, frames [][]byte, fields ...string) []string {
	t.Helper()
	file := []byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0} // pcap, Ethernet
	for i, f := range frames {
		for _, n := range []int{i, 0, len(f), len(f)} {
			file = binary.LittleEndian.AppendUint32(file, uint32(n))
		}
		file = append(file, f...)
	}
	path := dir + "/frames.pcap"
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-n", "-r", path, "-T", "fields", "-E", "separator= ", "-E", "occurrence=f"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	var out []string
	for line := range strings.Lines(output(t, "tshark", args...)) {
		values := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		for i, v := range values {
			if v == "" {
				values[i] = "-"
			}
		}
		out = append(out, strings.Join(values, " "))
	}
	return out
}

// TestNetnsTapMirrors: mirrors through Neutron's door bring a port's packets to an address elsewhere, as GRE and as ERSPAN, by
// direction and both in one; tshark reads them there. Once they are deleted nothing comes any more.
func TestNetnsTapMirrors(t *testing.T) {
	t.Parallel()
	needTool(t, "tshark")
	l := newTapLab(t, "")
	far := nettest.NewNS(t)
	nettest.Veth(t, l.ns, "uplink", far, "eth0")
	for ns, at := range map[*nettest.NS][2]string{l.ns: {"uplink", "198.51.100.1/24"}, far: {"eth0", "198.51.100.2/24"}} {
		a, err := netlink.ParseAddr(at[1])
		if err == nil {
			err = ns.Netlink().AddrAdd(ns.Link(at[0]), a)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ear := nettest.NewEar(t, far, "eth0")
	left := l.portNamed("left")
	number := 0
	// hears sends pings until tshark has found all of it at the address, and nothing else in a tunnel.
	hears := func(what string, fields []string, all ...string) {
		t.Helper()
		slices.Sort(all)
		var got []string
		end := time.Now().Add(await.Patience)
		for {
			number++
			l.ping(number)
			var frames [][]byte
			for _, f := range ear.All(100 * time.Millisecond) {
				if len(f) > 24 && f[23] == 47 && bytes.Equal(f[12:14], []byte{8, 0}) { // GRE in IPv4
					frames = append(frames, f)
				}
			}
			if got = nil; len(frames) > 0 {
				got = decoded(t, t.TempDir(), frames, fields...)
			}
			slices.Sort(got)
			if slices.Equal(slices.Compact(got), all) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: tshark reads %q, want %q", what, got, all)
			}
		}
	}
	create := func(kind string, directions m) string {
		wish := m{"port_id": left, "mirror_type": kind, "remote_ip": "198.51.100.2", "directions": directions}
		id := l.ask(201, "POST", "/v2.0/taas/tap_mirrors", m{"tap_mirror": wish}).resource(t, "tap_mirror", "id")
		await.Until(t, "the mirror is active", func() bool {
			return l.ask(200, "GET", "/v2.0/taas/tap_mirrors/"+id, nil).resource(t, "tap_mirror", "status") == "ACTIVE"
		})
		return id
	}
	const request, reply = 8, 0 // ICMP types; left asks
	gre, erspan := []string{"ip.dst", "gre.proto", "gre.key", "icmp.type"}, []string{"ip.dst", "gre.proto", "erspan.version", "erspan.spanid", "icmp.type"}
	for _, c := range []struct {
		kind       string
		fields     []string
		directions m
		all        []string
	}{
		{"gre", gre, m{"IN": "101", "OUT": "102"}, []string{
			fmt.Sprintf("198.51.100.2 0x6558 0x00000065 %d", reply), fmt.Sprintf("198.51.100.2 0x6558 0x00000066 %d", request),
		}},
		{"gre", gre, m{"BOTH": 103}, []string{fmt.Sprintf("198.51.100.2 0x6558 0x00000067 %d", reply), fmt.Sprintf("198.51.100.2 0x6558 0x00000067 %d", request)}},
		{"erspanv1", erspan, m{"IN": 101, "OUT": 102}, []string{
			fmt.Sprintf("198.51.100.2 0x88be 1 101 %d", reply), fmt.Sprintf("198.51.100.2 0x88be 1 102 %d", request),
		}},
		{"erspanv1", erspan, m{"BOTH": 103}, []string{fmt.Sprintf("198.51.100.2 0x88be 1 103 %d", reply), fmt.Sprintf("198.51.100.2 0x88be 1 103 %d", request)}},
	} {
		what := fmt.Sprintf("%s %v", c.kind, c.directions)
		id := create(c.kind, c.directions)
		hears(what, c.fields, c.all...)
		l.ask(409, "POST", "/v2.0/taas/tap_mirrors", m{"tap_mirror": m{"port_id": left, "mirror_type": c.kind, "remote_ip": "198.51.100.3", "directions": c.directions}})
		l.ask(204, "DELETE", "/v2.0/taas/tap_mirrors/"+id, nil)
		hears(what+", deleted", c.fields)
	}

	// With its port, a mirror goes.
	host := l.ask(200, "GET", "/v2.0/ports/"+left, nil).resource(t, "port", "binding:host_id")
	port := l.ask(201, "POST", "/v2.0/ports", m{"port": m{"name": "vm", "binding:host_id": host, "binding:profile": m{"device": "right"}}}).resource(t, "port", "id")
	id := l.ask(201, "POST", "/v2.0/taas/tap_mirrors", m{"tap_mirror": m{"port_id": port, "mirror_type": "gre", "remote_ip": "198.51.100.2", "directions": m{"OUT": 104}}}).resource(t, "tap_mirror", "id")
	hears("of a port with a name", gre, fmt.Sprintf("198.51.100.2 0x6558 0x00000068 %d", reply))
	l.ask(204, "DELETE", "/v2.0/ports/"+port, nil)
	l.ask(404, "GET", "/v2.0/taas/tap_mirrors/"+id, nil)
	hears("its port deleted", gre)
}
