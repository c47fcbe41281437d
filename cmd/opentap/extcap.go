package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/packet"
	"opentap/point"
	"opentap/want"
)

const (
	// extcapName is what the program is called in Wireshark's extcap folder.
	extcapName = "opentap-extcap"
	// extcapPrefix begins the names of interfaces; what follows is node/point.
	extcapPrefix = "opentap:"
	// extcapAny is the interface whose point is chosen in its options.
	extcapAny = "opentap"
	// extcapPatience bounds how long Wireshark's start waits for a server that does not answer.
	extcapPatience = 3 * time.Second
)

// arguments makes the program opentap extcap when it is started under the name of Wireshark's link.
func arguments(argv []string) []string {
	if len(argv) > 0 && strings.TrimSuffix(strings.ToLower(filepath.Base(argv[0])), ".exe") == extcapName {
		return append([]string{"extcap"}, argv[1:]...)
	}
	return argv[min(1, len(argv)):]
}

// extcapFlags are the words of the extcap protocol and of our options in it.
type extcapFlags struct {
	interfaces, dlts, config, capture    bool
	version, iface, reload, filter, fifo string
	point, own, past, ca                 string
	strict, insecure                     bool
	snap                                 int
}

func (a *app) extcapCmd() *cobra.Command {
	var f extcapFlags
	cmd := &cobra.Command{
		Use:   "extcap",
		Short: "Be Wireshark's capture source",
		Long: `extcap speaks the protocol by which Wireshark and tshark use other programs as capture interfaces. Every point of
every node becomes an interface opentap:NODE/POINT, with its options behind the cog wheel; the interface opentap
asks for the point there. opentap extcap install puts a link to this program where Wireshark looks for it.

The server and the token are those of the other commands; install can note others for Wireshark alone.`,
		Args: cobra.ArbitraryArgs,
		Example: `  opentap extcap install
  tshark -D
  tshark -i opentap:virgo/eth0 -f 'port 53'`,
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true}, // of Wiresharks to come
		RunE: a.do(func(ctx context.Context, _ []string) error {
			a.quiet = true // Wireshark shows what is on stderr as an error
			return a.extcap(ctx, &f)
		}),
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.interfaces, "extcap-interfaces", false, "list the interfaces")
	fl.StringVar(&f.version, "extcap-version", "", "Wireshark's version; not needed")
	fl.Lookup("extcap-version").NoOptDefVal = " "
	fl.StringVar(&f.iface, "extcap-interface", "", "the interface the call is about")
	fl.BoolVar(&f.dlts, "extcap-dlts", false, "list the interface's link type")
	fl.BoolVar(&f.config, "extcap-config", false, "list the interface's options")
	fl.StringVar(&f.reload, "extcap-reload-option", "", "list the values of one option")
	fl.StringVar(&f.filter, "extcap-capture-filter", "", "capture filter; without --capture it is only checked")
	fl.BoolVar(&f.capture, "capture", false, "capture, into --fifo")
	fl.StringVar(&f.fifo, "fifo", "", "pipe to write pcapng to")
	fl.StringVar(&f.point, "point", "", "point of the interface opentap")
	fl.StringVar(&f.own, "filter", "", "further filter; both must match")
	fl.StringVar(&f.past, "past", "", "begin with what was recorded so long ago, such as 30s")
	fl.IntVar(&f.snap, "snap", 0, "octets kept of each packet (0 = all)")
	fl.BoolVar(&f.strict, "strict", false, "libpcap's meaning of offsets behind VLAN tags")
	fl.StringVar(&f.ca, "ca", "", "file with the certificates to trust")
	fl.BoolVar(&f.insecure, "insecure", false, "do not verify the server's certificate")
	cmd.AddCommand(a.extcapInstallCmd(), a.extcapUninstallCmd())
	return cmd
}

// extcap answers one call.
func (a *app) extcap(ctx context.Context, f *extcapFlags) error {
	switch {
	case f.interfaces:
		return a.extcapInterfaces(ctx, f)
	case f.dlts:
		return a.extcapDLTs(ctx, f)
	case f.reload != "":
		return a.extcapReload(ctx, f)
	case f.config:
		return a.extcapConfig()
	case f.capture:
		return a.extcapCapture(ctx, f)
	case f.iface != "":
		return a.extcapCheck(f)
	}
	return usagef("Wireshark starts this; opentap extcap install puts it where Wireshark finds it")
}

// sentence writes one line of the protocol: a word and its arguments, name and value by turns. Values cannot hold braces.
func (a *app) sentence(word string, args ...string) error {
	var b strings.Builder
	b.WriteString(word + " ")
	for i := 0; i < len(args); i += 2 {
		fmt.Fprintf(&b, "{%s=%s}", args[i], strings.NewReplacer("{", "(", "}", ")").Replace(clean(args[i+1])))
	}
	_, err := fmt.Fprintln(a.stdout, b.String())
	return err
}

// extcapClient connects as the call says, else as the environment says, else as install noted.
func (a *app) extcapClient(f *extcapFlags) (*client.Client, error) {
	note := readExtcapNote()
	if a.url == "" && os.Getenv("OPENTAP_URL") == "" {
		a.url = note.URL
	}
	if a.token != "" {
		a.tokenFile = "" // the token that was typed counts
	} else if a.tokenFile == "" && os.Getenv("OPENTAP_TOKEN") == "" {
		a.tokenFile = note.TokenFile
	}
	a.ca = cmp.Or(f.ca, a.ca, note.CA)
	if !f.insecure && (a.ca != "" || !note.Insecure) {
		return a.connect() // which believes what the other commands believe: the authorities, and servers that are known
	}
	addr := withScheme(cmp.Or(a.url, os.Getenv("OPENTAP_URL"), defaultURL))
	token, err := a.findToken(addr)
	if err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig, t.ResponseHeaderTimeout = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}, 2*time.Minute //nolint:gosec // asked for
	return client.New(client.Config{
		URL: addr, Token: token, UserAgent: "opentap/" + programVersion(),
		HTTP: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	})
}

// extcapPoints asks for the points that give packets.
func (a *app) extcapPoints(ctx context.Context, f *extcapFlags) ([]point.Point, error) {
	c, err := a.extcapClient(f)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, extcapPatience)
	defer cancel()
	all, err := c.Points(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("the server does not answer within %s", extcapPatience)
	}
	var out []point.Point
	for _, p := range all {
		if p.Kind == point.Netdev && p.Present && p.NoPcap == "" {
			out = append(out, p)
		}
	}
	return out, err
}

func displayOf(p *point.Point) string {
	s := p.Name
	if len(p.Aliases) > 0 {
		s += " (" + strings.Join(p.Aliases, ", ") + ")"
	}
	return s + " on " + p.Node
}

func (a *app) extcapInterfaces(ctx context.Context, f *extcapFlags) error {
	if err := a.sentence("extcap", "version", programVersion()); err != nil {
		return err
	}
	if err := a.sentence("interface", "value", extcapAny, "display", "OpenTap"); err != nil {
		return err
	}
	points, err := a.extcapPoints(ctx, f)
	if err != nil {
		a.say("opentap: no points to list: %v", err) // the list of other interfaces must not fail with ours
		return nil
	}
	for i := range points {
		p := &points[i]
		if err := a.sentence("interface", "value", extcapPrefix+p.Node+"/"+p.Name, "display", "OpenTap: "+displayOf(p)); err != nil {
			return err
		}
	}
	return nil
}

// pointName is the point that the call is about; "" is the server's default.
func (f *extcapFlags) pointName() (string, error) {
	if name, ok := strings.CutPrefix(f.iface, extcapPrefix); ok && name != "" {
		return name, nil
	}
	if f.iface == extcapAny {
		return f.point, nil
	}
	return "", usagef("%q is no interface of ours", f.iface)
}

func (a *app) extcapDLTs(ctx context.Context, f *extcapFlags) error {
	name, err := f.pointName()
	if err != nil {
		return err
	}
	link := packet.LinkEthernet
	if points, err := a.extcapPoints(ctx, f); err == nil {
		if p, err := point.NewSet(points, nil, "").Resolve(name); err == nil && p.LinkType != 0 {
			link = packet.LinkType(p.LinkType)
		}
	}
	dlt, display := fmt.Sprintf("LINKTYPE_%d", link), fmt.Sprintf("link type %d", link)
	switch link {
	case 1:
		dlt, display = "EN10MB", "Ethernet"
	case 9:
		dlt, display = "PPP", "PPP"
	case 101:
		dlt, display = "RAW", "Raw IP"
	case 113:
		dlt, display = "LINUX_SLL", "Linux cooked"
	case 276:
		dlt, display = "LINUX_SLL2", "Linux cooked v2"
	}
	return a.sentence("dlt", "number", fmt.Sprint(link), "name", dlt, "display", display)
}

// argPoint is the number of the option that chooses the point.
const argPoint = "0"

func (a *app) extcapConfig() error {
	note := readExtcapNote()
	for _, s := range [][]string{
		{
			"number", argPoint, "call", "--point", "display", "Point", "type", "selector", "reload", "true", "placeholder", "Load the points",
			"group", "Capture", "tooltip", "node/name, name or alias; only the interface opentap asks for it",
		},
		{"number", "1", "call", "--filter", "display", "Filter", "type", "string", "group", "Capture", "tooltip", "pcap-filter expression, besides Wireshark's capture filter: both must match"},
		{"number", "2", "call", "--snap", "display", "Snap length", "type", "integer", "range", "0,262144", "default", "0", "group", "Capture", "tooltip", "Octets kept of each packet; 0 is all"},
		{"number", "3", "call", "--past", "display", "Past", "type", "string", "group", "Capture", "tooltip", "Begin with what was recorded so long ago, such as 30s or 5m; the point needs a recorder"},
		{"number", "4", "call", "--strict", "display", "Strict filter", "type", "boolflag", "default", "false", "group", "Capture", "tooltip", "libpcap's meaning of offsets behind VLAN tags"},
		{"number", "5", "call", "--url", "display", "Server", "type", "string", "default", cmp.Or(os.Getenv("OPENTAP_URL"), note.URL, defaultURL), "group", "Server", "tooltip", "URL of the OpenTap server"},
		{"number", "6", "call", "--token", "display", "Token", "type", "password", "group", "Server", "tooltip", "Others on this machine can see it while the capture runs; a token file is better"},
		{"number", "7", "call", "--token-file", "display", "Token file", "type", "fileselect", "mustexist", "true", "default", note.TokenFile, "group", "Server", "tooltip", "File that holds the token"},
		{"number", "8", "call", "--ca", "display", "Certificates", "type", "fileselect", "mustexist", "true", "default", note.CA, "group", "Server", "tooltip", "PEM file with the certificates to trust for https"},
		{"number", "9", "call", "--insecure", "display", "Do not verify TLS", "type", "boolflag", "default", "false", "group", "Server", "tooltip", "Take any certificate: whoever stands between can read the packets and the token"},
	} {
		for i := 0; i < len(s); i += 2 { // an empty default would be a value
			if s[i] == "default" && s[i+1] == "" {
				s = append(s[:i], s[i+2:]...)
			}
		}
		if err := a.sentence("arg", s...); err != nil {
			return err
		}
	}
	return a.sentence("value", "arg", argPoint, "value", "", "display", "the server's default point", "default", "true")
}

func (a *app) extcapReload(ctx context.Context, f *extcapFlags) error {
	if f.reload != "point" {
		return nil
	}
	points, err := a.extcapPoints(ctx, f)
	if err != nil {
		return err
	}
	for i := range points {
		p := &points[i]
		if err := a.sentence("value", "arg", argPoint, "value", p.Node+"/"+p.Name, "display", displayOf(p)); err != nil {
			return err
		}
	}
	return nil
}

// extcapCheck says nothing about a filter that is right, and what is wrong about another.
func (a *app) extcapCheck(f *extcapFlags) error {
	e, err := filter.Parse(f.filter)
	if err == nil {
		_, err = cbpf.Compile(e, cbpf.Options{Link: packet.LinkEthernet, Strict: f.strict, Target: cbpf.Kernel})
	}
	if err != nil {
		fmt.Fprintln(a.stdout, err)
	}
	return nil
}

// both joins the filter of the options and Wireshark's capture filter.
func (f *extcapFlags) both() string {
	if f.own == "" || f.filter == "" {
		return f.own + f.filter
	}
	return "(" + f.own + ") and (" + f.filter + ")"
}

func (a *app) extcapCapture(ctx context.Context, f *extcapFlags) error {
	name, err := f.pointName()
	if err != nil {
		return err
	}
	if f.fifo == "" {
		return usagef("--capture needs --fifo")
	}
	q := want.LiveRequest{Filter: f.both(), Strict: f.strict, Snap: f.snap}
	if name != "" {
		q.Points = []string{name}
	}
	if f.past != "" {
		d, err := time.ParseDuration(f.past)
		if err != nil || d < 0 {
			return usagef("past: %q is not a time such as 30s or 5m", f.past)
		}
		q.Past = want.Duration(d)
	}
	c, err := a.extcapClient(f)
	if err != nil {
		return err
	}
	defer c.Close()
	// The pipe first: Wireshark's end of it waits for ours, also when there is only an error to tell.
	fifo, err := openFifo(ctx, f.fifo)
	if fifo == nil {
		return err
	}
	defer fifo.Close()
	body, err := c.Live(ctx, q)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return pointAt(q.Filter, err)
	}
	defer body.Close()
	var t tally
	err = t.copy(fifo, body, func() {})
	if errors.Is(err, errReader) || ctx.Err() != nil { // so Wireshark ends a capture
		return nil
	}
	return err
}

// openFifo waits until Wireshark has opened its end, or the capture is ended before: then it returns nil, nil.
func openFifo(ctx context.Context, path string) (*os.File, error) {
	type opened struct {
		f   *os.File
		err error
	}
	c := make(chan opened, 1)
	go func() { // left behind when nobody opens the other end: the program ends then
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		c <- opened{f, err}
	}()
	select {
	case o := <-c:
		if o.err != nil {
			return nil, fmt.Errorf("open Wireshark's pipe: %w", o.err)
		}
		return o.f, nil
	case <-ctx.Done():
		return nil, nil
	}
}
