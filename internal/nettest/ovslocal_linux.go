package nettest

import (
	"encoding/hex"
	"os"
)

// Socket is where its database server listens. The control socket of ovs-vswitchd is found beside it, as on a host where Open vSwitch is installed.
func (o *OVS) Socket() string {
	o.tb.Helper()
	pid := o.dir + "/ovs-vswitchd.pid"
	if _, err := os.Stat(pid); err != nil {
		if err := os.WriteFile(pid, []byte("0\n"), 0o600); err != nil {
			o.tb.Fatal(err)
		}
		if err := os.Symlink("vswitchd.ctl", o.dir+"/ovs-vswitchd.0.ctl"); err != nil {
			o.tb.Fatal(err)
		}
	}
	return o.dir + "/db.sock"
}

// Receive has a frame come in at an interface of type dummy, which no device of the kernel stands for.
func (o *OVS) Receive(iface string, frame []byte) {
	o.tb.Helper()
	o.run("ovs-appctl", "-t", o.dir+"/vswitchd.ctl", "netdev-dummy/receive", iface, hex.EncodeToString(frame))
}
