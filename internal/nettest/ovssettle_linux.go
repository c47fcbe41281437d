package nettest

// Settle waits until packets are treated as the rules say: Open vSwitch answers barriers before its cache of flows knows of a change.
func (o *OVS) Settle() {
	o.tb.Helper()
	o.run("ovs-appctl", "-t", o.dir+"/vswitchd.ctl", "revalidator/wait")
}
