package tap

// Cause says why a wish about taps was refused, so that each door can say it in its own words.
type Cause string

// Causes that have to do with what there is.
const (
	NoService      Cause = "no_service"       // or none that the caller may see
	NoFlow         Cause = "no_flow"          //
	NoMirror       Cause = "no_mirror"        //
	NoPort         Cause = "no_port"          //
	NoNetwork      Cause = "no_network"       //
	PortOfOther    Cause = "port_of_other"    // the port is another project's
	ServiceOfOther Cause = "service_of_other" // the service is another project's
	ProjectOfOther Cause = "project_of_other" // only an administrator acts for another project
	TunnelTaken    Cause = "tunnel_taken"     // Refusal.Value is the tunnel id
	NoTunnelLeft   Cause = "no_tunnel_left"   //
	OverQuota      Cause = "over_quota"       // Refusal.Field says of what
	PortInUse      Cause = "port_in_use"      // a device of a node is no record that could be deleted
	NotAllowed     Cause = "not_allowed"      // the caller's role
)

// Causes that have to do with a value. Refusal.Field names it, Refusal.Value is it.
const (
	Missing     Cause = "missing"     // required, and not given
	NotUUID     Cause = "not_uuid"    //
	BadName     Cause = "bad_name"    // blanks around it, or characters that cannot be shown
	TooLong     Cause = "too_long"    // Refusal.Detail is the limit
	NotOneOf    Cause = "not_one_of"  // Refusal.Detail lists what is taken
	BadVLANs    Cause = "bad_vlans"   // not as Neutron's vlan_filter
	BadAddress  Cause = "bad_address" // no address that packets could be sent to
	BadTunnel   Cause = "bad_tunnel"  // out of range; Refusal.Detail says of which
	SameTunnel  Cause = "same_tunnel" // two directions of one mirror with the same id
	BadFilter   Cause = "bad_filter"  // Refusal.Err says where
	OutOfBounds Cause = "out_of_bounds"
)

// Refusal says what was wrong. It travels as the Err of a fault.Error.
type Refusal struct {
	Cause  Cause
	ID     string // of what was not found
	Field  string
	Value  any
	Detail string
	Err    error
}

// Error implements error. The text is for the log; doors have their own words.
func (r *Refusal) Error() string {
	s := string(r.Cause)
	if r.Detail != "" {
		s += " (" + r.Detail + ")"
	}
	if r.Err != nil {
		s += ": " + r.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }
