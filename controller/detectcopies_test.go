package controller

import (
	"testing"

	"opentap/want"
)

func TestCarriesCopies(t *testing.T) {
	f := want.Fabric{
		Switches: map[string]want.FabricSwitch{"s1": {DPID: 1}, "s3": {DPID: 3}},
		Ports: map[string]want.FabricPort{
			"h1": {At: "s1/1", Role: want.RoleFilter}, "both": {At: "s1/4", Role: want.RoleDelivery}, "again": {At: "s1/4", Role: want.RoleFilter},
			"ids": {At: "s3/11", Role: want.RoleDelivery}, "nat": {At: "s3/12", Return: "s3/13", Role: want.RoleService},
		},
		Links: []want.FabricLink{{A: "s1/7", B: "s3/2"}},
	}
	links := []want.FabricLinkView{{A: "s1/6", B: "s3/1"}}
	for at, copies := range map[[2]string]bool{
		{"0000000000000001", "1"}: false, {"0000000000000001", "2"}: false, {"0000000000000001", "4"}: false, {"0000000000000001", "6"}: true, {"0000000000000001", "7"}: true,
		{"0000000000000003", "1"}: true, {"0000000000000003", "2"}: true, {"0000000000000003", "11"}: true, {"0000000000000003", "12"}: true, {"0000000000000003", "13"}: true,
		{"0000000000000009", "1"}: false,
	} {
		if got := carriesCopies(&f, links, at[0], at[1]); got != copies {
			t.Errorf("%v: %v", at, got)
		}
	}
}
