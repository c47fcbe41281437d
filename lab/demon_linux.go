package lab

import (
	"context"
	_ "embed" // the scenario
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

//go:embed demon.yaml
var scenario []byte

func demon(ctx context.Context, cfg Config) (err error) {
	b, err := open(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	b.say("Building s1, s2, s3 and h1 to h11 in network namespaces …")
	if err := b.build(ctx); err != nil {
		return err
	}
	if err := b.serve(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, b.tail("opentapd.log"))
	}
	if err := b.run(ctx); err != nil {
		return err
	}
	if cfg.Keep {
		b.say("\nThe lab stays until it is interrupted. In another terminal:\n")
		b.say("  export OPENTAP_DATA=%s/data OVS_RUNDIR=%s", b.dir, b.dir)
		b.say("  ip netns exec %ssw %s fabric show", b.prefix, cfg.Opentap)
		b.say("  ip netns exec %ssw ovs-ofctl -O OpenFlow13 dump-flows s1", b.prefix)
		b.say("  ip netns exec %sh11 tcpdump -eni h11-eth0      ip netns exec %sh1 ping 10.0.0.2", b.prefix, b.prefix)
		<-ctx.Done()
	}
	return nil
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.cfg.Out, format+"\n", args...) }

// tail is the end of a log.
func (b *bench) tail(name string) string {
	text, _ := os.ReadFile(filepath.Join(b.dir, name))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

func (b *bench) build(ctx context.Context) error {
	if err := b.space("sw"); err != nil {
		return err
	}
	if err := b.switches(ctx); err != nil {
		return err
	}
	var ports []string
	for n := 1; n <= 3; n++ {
		name := fmt.Sprintf("s%d", n)
		if err := b.vsctl("add-br", name, "--", "set", "bridge", name, "datapath_type=netdev", "fail_mode=secure", "protocols=OpenFlow13",
			fmt.Sprintf("other_config:datapath-id=%016x", n), "other_config:disable-in-band=true"); err != nil {
			return err
		}
	}
	add := func(sw, port int) string {
		iface := fmt.Sprintf("s%d-eth%d", sw, port)
		ports = append(ports, "--", "add-port", fmt.Sprintf("s%d", sw), iface, "--", "set", "interface", iface, fmt.Sprintf("ofport_request=%d", port))
		return iface
	}
	hostAt := func(n, sw, port int) error {
		name := fmt.Sprintf("h%d", n)
		if err := b.space(name); err != nil {
			return err
		}
		if err := b.cable("sw", add(sw, port), name, name+"-eth0"); err != nil {
			return err
		}
		return b.must("ip", "-n", b.prefix+name, "addr", "add", fmt.Sprintf("10.0.0.%d/8", n), "dev", name+"-eth0")
	}
	for n := 1; n <= 5; n++ {
		if err := errors.Join(hostAt(n, 1, n), hostAt(n+5, 2, n)); err != nil {
			return err
		}
		if err := errors.Join(b.cable("sw", add(1, n+5), "sw", add(3, n)), b.cable("sw", add(2, n+5), "sw", add(3, n+5))); err != nil {
			return err
		}
	}
	if err := hostAt(11, 3, 11); err != nil {
		return err
	}
	return b.vsctl(ports[1:]...)
}

// serve starts the daemon, and has the switches connect to it.
func (b *bench) serve(ctx context.Context) error {
	if err := os.WriteFile(filepath.Join(b.dir, "demon.yaml"), scenario, 0o600); err != nil {
		return err
	}
	config := filepath.Join(b.dir, "opentap.yaml")
	if err := os.WriteFile(config, []byte("fabric: {every: 10s}\ncollectors:\n  - {address: \"127.0.0.1:6343\"}\n"), 0o600); err != nil {
		return err
	}
	if err := b.daemon("opentapd.log", b.cfg.Opentapd, "--config", config, "--data-dir", b.dir+"/data", "--listen", "127.0.0.1:2020", "--openflow", "127.0.0.1:6653"); err != nil {
		return err
	}
	running := func() bool { return strings.Contains(b.tail("opentapd.log"), "opentapd is running") }
	if err := wait(ctx, "opentapd", 30*time.Second, running); err != nil {
		return err
	}
	for n := 1; n <= 3; n++ {
		if err := b.vsctl("set-controller", fmt.Sprintf("s%d", n), "tcp:127.0.0.1:6653"); err != nil {
			return err
		}
	}
	return wait(ctx, "the switches connect", 20*time.Second, func() bool {
		out, _ := b.opentap("fabric", "show", "-o", "json")
		return strings.Count(out, `"connected": true`) == 3
	})
}

func (b *bench) opentap(args ...string) (string, error) {
	return b.quiet("ip", b.inside(b.cfg.Opentap, args...)...)
}

// show runs a command and shows it with what it says. fails tells that it should exit with something else than 0.
func (b *bench) show(fails bool, args ...string) error {
	b.say("\n$ opentap %s", strings.ReplaceAll(strings.Join(args, " "), b.dir+"/", ""))
	out, err := b.opentap(args...)
	b.say("%s", out)
	if (err != nil) != fails {
		return fmt.Errorf("opentap %s: exits with %v", strings.Join(args, " "), err)
	}
	return nil
}

func (b *bench) run(ctx context.Context) error {
	file := b.dir + "/demon.yaml"
	if err := b.show(false, "fabric", "apply", "-f", file); err != nil {
		return err
	}
	if err := wait(ctx, "the policies are active", 30*time.Second, func() bool {
		out, _ := b.opentap("fabric", "show", "-o", "json")
		return strings.Count(out, `"state": "active"`) == 2
	}); err != nil {
		return err
	}
	if err := b.show(false, "fabric", "show"); err != nil {
		return err
	}
	hosts := make(map[int]*host)
	for n := 1; n <= 11; n++ {
		h, err := b.visit(n)
		if err != nil {
			return err
		}
		defer h.close()
		hosts[n] = h
	}
	b.say("\nh1, h2, h3, h4, h6 and h7 send 200 frames each; one of the cables from s1 to s3 is cut after half of them …")
	const frames = 200
	for k := range frames {
		if k == frames/2 {
			if err := b.must("ip", "-n", b.prefix+"sw", "link", "set", "s1-eth7", "down"); err != nil {
				return err
			}
		}
		for _, n := range []int{1, 2, 3, 4, 6, 7} {
			if err := hosts[n].send(n, k); err != nil {
				return err
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	if err := settle(hosts); err != nil {
		return err
	}
	if err := b.judge(hosts, frames); err != nil {
		return err
	}
	if err := b.must("ip", "-n", b.prefix+"sw", "link", "set", "s1-eth7", "up"); err != nil {
		return err
	}
	if err := wait(ctx, "the cable is found again", 30*time.Second, func() bool { _, err := b.opentap("fabric", "verify"); return err == nil }); err != nil {
		return err
	}
	if err := b.show(false, "fabric", "probe", "mirror-h1"); err != nil {
		return err
	}
	b.say("\n$ ovs-ofctl -O OpenFlow13 del-flows s1 in_port=1        (somebody meddles with the switch)")
	for try := 1; ; try++ {
		if err := b.must("ovs-ofctl", "-O", "OpenFlow13", "del-flows", "s1", "in_port=1"); err != nil {
			return err
		}
		// A comparison may have come between, and put the rules back already.
		if err := b.show(true, "fabric", "verify"); err == nil || try == 3 {
			if err != nil {
				return err
			}
			break
		}
	}
	b.say("\nThe next comparison puts it back …")
	if err := wait(ctx, "the rules are put back", 60*time.Second, func() bool { _, err := b.opentap("fabric", "verify"); return err == nil }); err != nil {
		return err
	}
	if err := b.show(false, "fabric", "drift"); err != nil {
		return err
	}
	return b.show(false, "fabric", "verify")
}

// judge says who got what, and whether that is right.
func (b *bench) judge(hosts map[int]*host, frames int) error {
	b.say("\n%-6s %-6s %8s %8s   %s", "FROM", "AT", "CAME", "TWICE", "")
	var wrong []string
	line := func(from, at int, ok bool, why string) {
		came, twice := hosts[at].from(from)
		b.say("%-6s %-6s %8d %8d   %s", fmt.Sprintf("h%d", from), fmt.Sprintf("h%d", at), came, twice, why)
		if !ok {
			wrong = append(wrong, fmt.Sprintf("h%d got %d of %d frames of h%d, %d of them twice", at, came, frames, from, twice))
		}
	}
	for _, p := range [][2]int{{1, 2}, {2, 1}, {3, 4}, {4, 3}, {6, 7}, {7, 6}} {
		came, twice := hosts[p[1]].from(p[0])
		line(p[0], p[1], came == frames && twice == 0, "in line: every frame once")
	}
	came, twice := hosts[11].from(1)
	const handful = 15
	line(1, 11, came >= frames-handful && twice == 0, "mirrored; a cable was cut")
	came, twice = hosts[11].from(7)
	line(7, 11, came == frames && twice == 0, "mirrored: every frame once, unchanged")
	for at, h := range hosts {
		for from := 1; from <= 11; from++ {
			came, _ := h.from(from)
			pair := from+1 == at && from%2 == 1 && from < 5 || at+1 == from && at%2 == 1 && at < 5 || from == 6 && at == 7 || from == 7 && at == 6
			if came > 0 && !pair && !(at == 11 && (from == 1 || from == 7)) {
				line(from, at, false, "should see nothing")
			}
		}
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	b.say("Nobody else saw anything.")
	return nil
}
