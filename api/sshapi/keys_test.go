package sshapi

import (
	"testing"

	"opentap/auth"
	"opentap/report"
)

func FuzzUser(f *testing.F) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
	f.Add([]byte("role=analyst,project=default,name=alice " + key + " alice@laptop"))
	f.Add([]byte(`role=viewer,from="192.0.2.0/24,2001:db8::/32",restrict ` + key))
	f.Add([]byte(`name="a\"b",command="x" ` + key))
	f.Add([]byte(key + " x"))
	f.Fuzz(func(t *testing.T, line []byte) {
		blob, u, err := parseUser(line)
		if err != nil {
			return
		}
		rights, rerr := auth.RightsOf(u.role)
		if blob == "" || u.name == "" || u.project == "" || rerr != nil || rights != u.rights || report.Clean(u.name) != u.name {
			t.Fatalf("%q lets in %+v", line, u)
		}
	})
}
