package main

import (
	"net"
	"net/netip"
	"testing"
)

func TestOwnURL(t *testing.T) {
	for at, want := range map[string]string{
		"127.0.0.1:2020": "http://127.0.0.1:2020", "0.0.0.0:2020": "http://127.0.0.1:2020", "[::]:80": "http://[::1]:80", "192.0.2.7:1": "http://192.0.2.7:1",
	} {
		if got := ownURL(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(at)), false); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
	if got := ownURL(net.TCPAddrFromAddrPort(netip.MustParseAddrPort("[::1]:2020")), true); got != "https://[::1]:2020" {
		t.Error(got)
	}
}
