package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"opentap/client"
	"opentap/tap"
)

func (a *app) tapCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "tap", Aliases: []string{"taps"}, Short: "Mirror the packets of ports to other ports and addresses",
		Long: `tap mirrors packets. A tap service is a port that receives copies; a tap flow says which port's packets go there; a tap mirror
sends a port's packets in a tunnel to an address. Ports are named by id, by name, or by node/name: see opentap ports.`,
		Example: "  opentap tap service create --port eth2 --name monitor\n  opentap tap flow create --port eth1 --service monitor --direction BOTH --filter 'tcp port 443'\n  opentap tap flow show ID",
	}
	service := &cobra.Command{Use: "service", Aliases: []string{"services"}, Short: "Ports that receive copies"}
	service.AddCommand(a.tapServiceCreateCmd(), a.tapServiceListCmd(), a.tapServiceShowCmd(), a.tapUpdateCmd("service"), a.tapDeleteCmd("service"))
	flow := &cobra.Command{Use: "flow", Aliases: []string{"flows"}, Short: "Which port's packets go to a service"}
	flow.AddCommand(a.tapFlowCreateCmd(), a.tapFlowListCmd(), a.tapFlowShowCmd(), a.tapUpdateCmd("flow"), a.tapDeleteCmd("flow"))
	mirror := &cobra.Command{Use: "mirror", Aliases: []string{"mirrors"}, Short: "A port's packets in a tunnel to an address"}
	mirror.AddCommand(a.tapMirrorCreateCmd(), a.tapMirrorListCmd(), a.tapMirrorShowCmd(), a.tapUpdateCmd("mirror"), a.tapDeleteCmd("mirror"))
	cmd.AddCommand(service, flow, mirror, a.tapTestCmd())
	return cmd
}

// tapFlags are what all taps have.
type tapFlags struct {
	name, description, project string
	rate, burst                string
	life                       time.Duration
	options                    tap.Options
}

func (t *tapFlags) texts(f *pflag.FlagSet) {
	f.StringVar(&t.name, "name", "", "its name")
	f.StringVar(&t.description, "description", "", "what it is for")
	f.DurationVar(&t.life, "for", 0, "how long it is to be (default: until it is deleted)")
}

func (t *tapFlags) filters(f *pflag.FlagSet) {
	o := &t.options
	f.StringVar(&o.Filter, "filter", "", "pcap-filter expression (default: all packets)")
	f.StringVar(&o.VLANs, "vlan-filter", "", "VLAN ids and ranges such as 189,279,999-1008 (default: any)")
	f.Uint32Var(&o.SampleN, "sample", 0, "one in so many of the packets that match (default: all)")
	f.Uint32Var(&o.Snap, "snap", 0, "octets kept of each frame (default: all)")
	f.StringVar(&t.rate, "rate", "", "bits per second of copies at most, such as 100M (default: no limit)")
	f.StringVar(&t.burst, "burst", "", "octets that may pass at once above --rate, such as 64KiB (default: what the rate carries in 100ms)")
	f.IntVar(&o.Priority, "priority", 0, "order on one port: higher first")
	f.StringVar((*string)(&o.OnMTU), "on-mtu", "", "truncate or drop copies that do not fit into the path (default: truncate)")
}

// settled finishes the options.
func (t *tapFlags) settled() (tap.Options, error) {
	o := t.options
	if t.life < 0 {
		return o, usagef("--for is negative")
	}
	if t.life > 0 {
		o.Expires = time.Now().Add(t.life).UTC().Truncate(time.Second)
	}
	if t.rate != "" {
		bps, err := parseBits(t.rate)
		if err != nil {
			return o, err
		}
		o.RateBPS = bps
	}
	if t.burst != "" {
		n, err := parseOctets(t.burst)
		if err != nil {
			return o, err
		}
		o.Burst = n
	}
	return o, nil
}

// parseBits reads bits per second: 100M, 2.5G, 64000.
func parseBits(s string) (uint64, error) {
	unit := 1.0
	text := strings.TrimSuffix(strings.TrimSuffix(s, "/s"), "bit")
	for suffix, n := range map[string]float64{"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9} {
		if rest, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = rest, n
			break
		}
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || v <= 0 || v*unit > 1e15 {
		return 0, usagef("%q is no rate such as 100M or 2.5G bits per second", s)
	}
	return uint64(v * unit), nil
}

func bitRate(v float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1e9, "Gb/s"}, {1e6, "Mb/s"}, {1e3, "kb/s"}} {
		if v >= u.size {
			return strconv.FormatFloat(v/u.size, 'f', 1, 64) + " " + u.name
		}
	}
	return strconv.FormatFloat(v, 'f', 0, 64) + " b/s"
}

func (a *app) tapServiceCreateCmd() *cobra.Command {
	var t tapFlags
	var port string
	cmd := &cobra.Command{
		Use: "create", Short: "Have a port receive copies", Args: cobra.NoArgs,
		Example: "  opentap tap service create --port eth2 --name monitor\n  opentap tap service create --port host2/tool0 --encap geneve",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			o, err := t.settled()
			if err != nil {
				return err
			}
			v, err := c.CreateTapService(ctx, client.TapServiceWish{Name: t.name, Description: t.description, Project: t.project, Port: port, Options: o})
			if err != nil {
				return err
			}
			return a.showTapService(&v)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&port, "port", "", "the port that receives: id, name or node/name")
	f.StringVar(&t.project, "project", "", "whose it is (default: your own)")
	t.texts(f)
	f.StringVar((*string)(&t.options.Encap), "encap", "", "between nodes: vxlan, gre or geneve (default: vxlan)")
	f.BoolVar(&t.options.Device, "make-device", false, "make a tap device of the port's name for the tool, and remove it with the service")
	_ = cmd.MarkFlagRequired("port") // only a flag that is not there fails
	return cmd
}

func (a *app) tapFlowCreateCmd() *cobra.Command {
	var t tapFlags
	var port, service, direction string
	var dry bool
	cmd := &cobra.Command{
		Use: "create", Short: "Send copies of a port's packets to a service", Args: cobra.NoArgs,
		Example: "  opentap tap flow create --port eth1 --service monitor\n  opentap tap flow create --port eth1 --service monitor --direction IN --filter 'tcp port 443' --snap 128 --for 1h\n  opentap tap flow create --port eth1 --service monitor --dry-run",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			o, err := t.settled()
			if err != nil {
				return err
			}
			q := client.TapFlowWish{
				Name: t.name, Description: t.description, Project: t.project, Port: port, Service: service,
				Direction: tap.Direction(strings.ToUpper(direction)), Options: o,
			}
			if dry {
				e, err := c.EstimateTapFlow(ctx, q)
				if err != nil {
					return err
				}
				return a.showEstimate(e)
			}
			v, err := c.CreateTapFlow(ctx, q)
			if err != nil {
				return err
			}
			return a.showTapFlow(&v)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&port, "port", "", "whose packets are copied: id, name or node/name")
	f.StringVar(&service, "service", "", "where copies go: the id or name of a tap service")
	f.StringVar(&direction, "direction", "both", "in (to the port's owner), out (from it) or both")
	f.StringVar(&t.project, "project", "", "whose it is (default: your own)")
	f.BoolVar(&dry, "dry-run", false, "make nothing; say what it would mean for the network")
	t.texts(f)
	t.filters(f)
	_ = cmd.MarkFlagRequired("port")
	_ = cmd.MarkFlagRequired("service")
	return cmd
}

func (a *app) tapMirrorCreateCmd() *cobra.Command {
	var t tapFlags
	var port, remote, kind string
	directions := tunnels{}
	var dry bool
	cmd := &cobra.Command{
		Use: "create", Short: "Send copies of a port's packets in a tunnel to an address", Args: cobra.NoArgs,
		Example: "  opentap tap mirror create --port eth1 --remote 192.0.2.9 --type gre --directions IN=101,OUT=102\n  opentap tap mirror create --port eth1 --remote 2001:db8::9 --type vxlan --directions BOTH=7 --filter 'udp port 53'",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			o, err := t.settled()
			if err != nil {
				return err
			}
			if _, err := netip.ParseAddr(remote); err != nil {
				return usagef("--remote %q is not an address", remote)
			}
			q := client.TapMirrorWish{
				Name: t.name, Description: t.description, Project: t.project, Port: port, Directions: directions, Remote: remote, Type: mirrorType(kind), Options: o,
			}
			if dry {
				e, err := c.EstimateTapMirror(ctx, q)
				if err != nil {
					return err
				}
				return a.showEstimate(e)
			}
			v, err := c.CreateTapMirror(ctx, q)
			if err != nil {
				return err
			}
			return a.showTapMirror(&v)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&port, "port", "", "whose packets are copied: id, name or node/name")
	f.StringVar(&remote, "remote", "", "address that copies are sent to")
	f.StringVar(&kind, "type", "gre", "gre, erspan1, erspan2, vxlan or geneve; Neutron's erspanv1 is erspan1")
	f.Var(directions, "directions", "the tunnel id of each direction: IN=101,OUT=102, or BOTH=7")
	f.StringVar(&t.project, "project", "", "whose it is (default: your own)")
	f.BoolVar(&dry, "dry-run", false, "make nothing; say what it would mean for the network")
	t.texts(f)
	t.filters(f)
	for _, name := range []string{"port", "remote", "directions"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}

// tunnels are the tunnel ids of a mirror's directions, as an option.
type tunnels map[tap.Direction]uint32

func (t tunnels) String() string { return "" }

func (t tunnels) Type() string { return "direction=id" }

func (t tunnels) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		d, text, _ := strings.Cut(part, "=")
		id, err := strconv.ParseUint(text, 0, 32)
		if err != nil {
			return fmt.Errorf("%q is no direction and its tunnel id, such as IN=101", part)
		}
		t[tap.Direction(strings.ToUpper(d))] = uint32(id)
	}
	return nil
}

// mirrorType is what a mirror's type is called here; Neutron writes a v.
func mirrorType(s string) tap.Encap {
	if rest, ok := strings.CutPrefix(s, "erspanv"); ok {
		return tap.Encap("erspan" + rest)
	}
	return tap.Encap(s)
}

// tapUpdateCmd changes the name, the description and the time of a tap.
func (a *app) tapUpdateCmd(kind string) *cobra.Command {
	var t tapFlags
	var forever bool
	var flags *pflag.FlagSet
	cmd := &cobra.Command{
		Use: "update ID-OR-NAME", Short: "Change a tap " + kind + "; what is not given stays", Args: cobra.ExactArgs(1),
		Example: "  opentap tap " + kind + " update web --for 1h",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			now, show, err := a.tapNow(ctx, c, kind, args[0])
			if err != nil {
				return err
			}
			var ch tap.Change
			if flags.Changed("name") {
				ch.Name = &t.name
			}
			if flags.Changed("description") {
				ch.Description = &t.description
			}
			given, err := t.settled()
			if err != nil {
				return err
			}
			options := now
			changed := forever
			if forever {
				options.Expires = time.Time{}
			}
			for name, take := range map[string]func(){
				"for": func() { options.Expires = given.Expires }, "filter": func() { options.Filter = given.Filter }, "vlan-filter": func() { options.VLANs = given.VLANs },
				"sample": func() { options.SampleN = given.SampleN }, "snap": func() { options.Snap = given.Snap }, "rate": func() { options.RateBPS = given.RateBPS },
				"burst": func() { options.Burst = given.Burst }, "priority": func() { options.Priority = given.Priority }, "on-mtu": func() { options.OnMTU = given.OnMTU },
			} {
				if flags.Lookup(name) != nil && flags.Changed(name) {
					take()
					changed = true
				}
			}
			if changed {
				ch.Options = &options
			}
			return show(ch)
		}),
	}
	flags = cmd.Flags()
	t.texts(flags)
	flags.BoolVar(&forever, "forever", false, "let it be until it is deleted")
	if kind != "service" {
		t.filters(flags)
	}
	cmd.MarkFlagsMutuallyExclusive("for", "forever")
	return cmd
}

// tapNow finds a tap's options, and returns what changes and shows it.
func (a *app) tapNow(ctx context.Context, c *client.Client, kind, name string) (tap.Options, func(tap.Change) error, error) {
	switch kind {
	case "service":
		v, err := c.TapService(ctx, name)
		return v.Options, func(ch tap.Change) error {
			v, err := c.UpdateTapService(ctx, v.ID, ch)
			if err != nil {
				return err
			}
			return a.showTapService(&v)
		}, err
	case "flow":
		v, err := c.TapFlow(ctx, name)
		return v.Options, func(ch tap.Change) error {
			v, err := c.UpdateTapFlow(ctx, v.ID, ch)
			if err != nil {
				return err
			}
			return a.showTapFlow(&v)
		}, err
	}
	v, err := c.TapMirror(ctx, name)
	return v.Options, func(ch tap.Change) error {
		v, err := c.UpdateTapMirror(ctx, v.ID, ch)
		if err != nil {
			return err
		}
		return a.showTapMirror(&v)
	}, err
}

func (a *app) tapDeleteCmd(kind string) *cobra.Command {
	short := "Delete tap " + kind + "s"
	if kind == "service" {
		short += " together with their flows"
	}
	return &cobra.Command{
		Use: "delete ID-OR-NAME...", Short: short, Args: cobra.MinimumNArgs(1),
		Example: "  opentap tap " + kind + " delete web",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			remove := map[string]func(context.Context, string) error{"service": c.DeleteTapService, "flow": c.DeleteTapFlow, "mirror": c.DeleteTapMirror}[kind]
			for _, name := range args {
				if err := remove(ctx, name); err != nil {
					return fmt.Errorf("delete %s: %w", name, err)
				}
			}
			return nil
		}),
	}
}

func directionsText(m map[tap.Direction]uint32) string {
	var out []string
	for _, d := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s=%d", d, m[d]))
	}
	return strings.Join(out, ",")
}
