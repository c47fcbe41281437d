//go:build linux

package e2e

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

// etcdEnv has this program be a member of an etcd cluster instead of a test: its name, address, all members and directory.
const etcdEnv = "OPENTAP_E2E_ETCD"

// etcdMember runs a member until it is killed.
func etcdMember(spec string) int {
	part := strings.Split(spec, "|")
	name, ip, all, dir := part[0], part[1], part[2], part[3]
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.InitialCluster, cfg.LogLevel, cfg.EnableGRPCGateway = name, dir, all, "fatal", false
	at := func(port int) []url.URL { return []url.URL{{Scheme: "http", Host: fmt.Sprintf("%s:%d", ip, port)}} }
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = at(2379), at(2379)
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = at(2380), at(2380)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stderr, <-e.Err())
	return 1
}

// cluster is three members of etcd, each a process with an address of its own on the switch.
type cluster struct {
	s       *site
	dir     string
	ips     []string
	members []*exec.Cmd
}

func (s *site) cluster() *cluster {
	s.t.Helper()
	c := &cluster{s: s, dir: s.t.TempDir()}
	for i := range 3 {
		ip := fmt.Sprintf("10.9.0.%d", 201+i)
		s.address(s.sw, "br0", ip+"/24")
		c.ips = append(c.ips, ip)
		c.members = append(c.members, nil)
	}
	for i := range 3 {
		c.start(i)
	}
	return c
}

func (c *cluster) start(i int) {
	c.s.t.Helper()
	var all []string
	for k, ip := range c.ips {
		all = append(all, fmt.Sprintf("m%d=http://%s:2380", k, ip))
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=m%d|%s|%s|%s/m%d", etcdEnv, i, c.ips[i], strings.Join(all, ","), c.dir, i))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	c.s.sw.Do(func() { err = cmd.Start() })
	if err != nil {
		c.s.t.Fatal(err)
	}
	c.members[i] = cmd
	c.s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
}

func (c *cluster) kill(i int) {
	_ = c.members[i].Process.Kill()
	_ = c.members[i].Wait()
}

// endpoints are the configuration of a controller.
func (c *cluster) endpoints() string {
	var list []string
	for _, ip := range c.ips {
		list = append(list, "'http://"+ip+":2379'")
	}
	return "store:\n  endpoints: [" + strings.Join(list, ", ") + "]\n"
}

// second starts a further controller of the installation that first is of.
func (s *site) second(name string, first *machine, yaml string) *machine {
	s.t.Helper()
	c := s.machine(name, "role: controller\nfleet:\n  listen: '@IP:2021'\n  advertise: '@IP:2021'\n"+yaml)
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(c.dir+"/admin.token", []byte(first.daemon.token+"\n"), 0o600); err != nil { // the helper looks for it there
		s.t.Fatal(err)
	}
	c.start()
	return c
}
