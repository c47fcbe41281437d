// Package agent obeys the desired set on one host: it runs captures on the host's points, keeps their data, and reports
// what became of them.
//
// What it shall do and what it has done is kept on its own disk, so that it goes on without a controller, and after a
// crash knows what it was about. Data is under Config.CaptureDir, a directory a capture, named by the capture's UID.
//
// Runs in: agent
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"opentap/agentapi"
	"opentap/capture"
	"opentap/capture/segment"
	"opentap/fault"
	"opentap/flow"
	"opentap/netdev"
	"opentap/point"
	"opentap/sensor"
	"opentap/want"
)

// Config is what the administrator of a host decides.
type Config struct {
	NodeName   string
	Version    string
	StateDir   string       // small, precious
	CaptureDir string       // large; may be a disk of its own
	SysfsRoot  string       // where sensors are looked for; "" = /sys
	OVSDB      string       // socket of Open vSwitch's database; "" = its usual place
	Underlay   []netip.Addr // where other nodes reach this one with tapped packets; none = all its addresses
	Capture    capture.Config
	Segment    segment.Config // sizes and policies; the rest is set per capture
	Sensors    Sensors
	Flow       flow.Config
	Quota      Quota
	Budgets    Budgets
	Recorders  []Recorder
	Exporters  []Exporter
	Flows      []FlowStore // beside those of exporters
	Collectors []Collector
}

// Quota bounds what captures take of the disk.
type Quota struct {
	Bytes   int64 // all data of captures and recordings; hard. 0 = no bound
	MinFree int64 // octets of the file system that are left free
}

// DefaultConfig is what holds unless the administrator says otherwise.
func DefaultConfig() Config {
	seg := segment.DefaultConfig("")
	seg.SegmentBytes = 64 << 20
	return Config{
		SysfsRoot: "/sys", Capture: capture.DefaultConfig(), Segment: seg, Flow: flow.DefaultConfig(),
		Quota: Quota{Bytes: 10 << 30, MinFree: 512 << 20},
	}
}

// Link is told what is to be reported.
type Link interface {
	StatusChanged(s want.Status)
	InventoryChanged()
	TapsChanged()
}

// Agent is safe for concurrent use.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	keep    *keep
	engine  *capture.Engine
	netdevs *netdev.Watcher
	sensors []sensor.Source
	taps    *tapping
	link    Link
	doctor  Doctor       // nil = there is none
	live    atomic.Int32 // readers of live streams
	probes  atomic.Int32 // that run

	recorders  atomic.Pointer[map[string]*recording] // by point; see allRecorders
	exporters  []*exporting                          // never changes
	browsed    browsed
	shelf      shelf
	flows      *flowStores
	meterings  []*metering                  // never changes
	collectors []*collecting                // never changes
	detects    atomic.Pointer[[]*detecting] // read for every sample
	owners     owners
	devices    atomic.Pointer[[]point.Point] // read by the sources' goroutines, which must not wait for mu

	mu         sync.Mutex
	ctx        context.Context // Run's; nil before
	stopped    bool            // Run is about to return
	revision   int64
	epoch      string          // of the store that counts revision; "" = not known
	jobs       map[string]*job // by UID
	sensorPts  []point.Point
	problems   map[string]string        // by what they concern
	governed   atomic.Pointer[governed] // nil = it has not begun
	missing    map[string]string        // kind → why
	readBy     map[string]string        // by point: how its packets got here when they last did
	used, free int64
	running    sync.WaitGroup // added to with mu held, and not once it is stopped
}

var _ agentapi.Local = (*Agent)(nil)

// New opens the agent's state and recovers what a crash may have left. It starts nothing.
func New(cfg Config, log *slog.Logger) (*Agent, error) {
	for _, dir := range []string{cfg.StateDir, cfg.CaptureDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	k, err := openKeep(filepath.Join(cfg.StateDir, "agent.db"))
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, log: log, keep: k, jobs: make(map[string]*job),
		problems: make(map[string]string), missing: make(map[string]string), readBy: make(map[string]string),
	}
	a.devices.Store(new([]point.Point))
	a.cfg.Capture.IsUp = a.isUp
	a.cfg.Capture.Told = a.reading
	a.engine = capture.NewEngine(a.cfg.Capture, log)
	a.netdevs = netdev.New(log)
	if a.sensors, err = openSensors(cfg, log); err != nil {
		return nil, errors.Join(err, k.close())
	}
	if err := a.loadRecorders(); err != nil {
		return nil, errors.Join(err, k.close())
	}
	for _, x := range cfg.Exporters {
		e, err := newExporting(a, x)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("exporter %s: %w", x.Name, err), k.close())
		}
		a.exporters = append(a.exporters, e)
	}
	if err := a.openFlows(); err != nil {
		return nil, errors.Join(err, k.close())
	}
	if err := a.load(); err != nil {
		return nil, errors.Join(err, k.close())
	}
	if err := a.openTaps(); err != nil {
		return nil, errors.Join(err, k.close())
	}
	return a, nil
}

// load makes the jobs that the disk knows of and removes data that belongs to none.
func (a *Agent) load() error {
	revision, wanted, done, err := a.keep.load()
	if err != nil {
		return err
	}
	a.revision, a.epoch = revision, a.keep.epoch
	for _, c := range wanted {
		if !isUID(c.UID) {
			return fmt.Errorf("the agent's state names the capture %q, which cannot name its data", c.UID)
		}
		a.jobs[c.UID] = newJob(a, c, done[c.UID])
	}
	entries, err := os.ReadDir(a.cfg.CaptureDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !isUID(e.Name()) {
			continue // not ours: recordings have a directory of their own, and strangers are left alone
		}
		if a.jobs[e.Name()] == nil {
			a.log.Info("removing the data of a capture that is no longer wanted", "uid", e.Name())
			if err := os.RemoveAll(filepath.Join(a.cfg.CaptureDir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func isUID(s string) bool {
	if len(s) != 32 {
		return false
	}
	for _, ch := range []byte(s) {
		if (ch < '0' || ch > '9') && (ch < 'a' || ch > 'f') {
			return false
		}
	}
	return true
}

// Identity says which agent this is.
func (a *Agent) Identity() agentapi.Identity {
	return agentapi.Identity{NodeID: a.keep.nodeID, NodeName: a.cfg.NodeName, Version: a.cfg.Version}
}

// SetLink gives the way to report; it must be called before Run.
func (a *Agent) SetLink(l Link) { a.link = l }

// Run does what is desired until ctx ends; then it closes every capture in good order, so that the next Run can go on
// with it, and returns.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.look(); err != nil {
		return fmt.Errorf("find this host's points: %w", err)
	}
	a.probe()
	a.mu.Lock()
	a.ctx = ctx
	for _, r := range a.allRecorders() {
		a.startRecording(r, nil)
	}
	for _, e := range a.exporters {
		a.running.Go(func() { e.run(ctx) })
	}
	for _, j := range a.jobs {
		a.start(j)
	}
	a.mu.Unlock()
	endFlows := a.runFlows(ctx)
	a.link.InventoryChanged()

	var wg sync.WaitGroup
	wg.Go(func() { a.guard(ctx) })
	wg.Go(func() { a.govern(ctx) })
	wg.Go(func() { a.runSensors(ctx) })
	wg.Go(func() { a.taps.run(ctx) })
	wg.Go(func() { a.followOwners(ctx) })
	err := a.netdevs.Run(ctx, func(devices []point.Point) {
		a.owners.setDevices(a, devices)
		a.taps.rec.Poke()
		a.link.InventoryChanged()
	})
	if ctx.Err() == nil {
		a.log.Error("network devices can no longer be followed; restart to see changes", "err", err)
		a.trouble("netdev", "network devices can no longer be followed: "+errText(err))
		<-ctx.Done()
	}
	wg.Wait()
	a.mu.Lock()
	a.stopped = true
	a.mu.Unlock()
	a.running.Wait()
	endFlows()
	a.engine.Close()
	return a.keep.close()
}

func errText(err error) string {
	if err == nil {
		return "the watch ended"
	}
	return err.Error()
}

// start has a job run. a.mu is held, a.ctx is set.
func (a *Agent) start(j *job) {
	ctx, cancel := context.WithCancel(a.ctx)
	j.cancel = cancel
	a.running.Go(func() {
		defer cancel()
		defer close(j.done)
		j.run(ctx)
	})
}

// look lists the devices and sensors.
func (a *Agent) look() error {
	devices, err := netdev.List()
	if err != nil {
		return err
	}
	a.owners.setDevices(a, devices)
	a.lookSensors(context.Background())
	return nil
}

func (a *Agent) isUp(name string) bool {
	for _, p := range *a.devices.Load() {
		if p.Name == name {
			return p.Up
		}
	}
	return false
}

// trouble sets or, with an empty text, clears a problem that an operator should know.
func (a *Agent) trouble(what, text string) {
	a.mu.Lock()
	same := a.problems[what] == text
	if text == "" {
		delete(a.problems, what)
	} else {
		a.problems[what] = text
	}
	a.mu.Unlock()
	if !same {
		a.link.InventoryChanged()
	}
}

// Obey implements agentapi.Local.
func (a *Agent) Obey(d agentapi.Desired) error {
	revision, captures := d.Revision, d.Captures
	if err := checkRecorders(d.Recorders); err != nil {
		return err
	}
	for i := range captures {
		if !isUID(captures[i].UID) {
			return fmt.Errorf("capture %d has the UID %q, which cannot name its data", i, captures[i].UID)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.follows(d); err != nil {
		a.problems[staleProblem] = err.Error()
		a.link.InventoryChanged()
		return err
	}
	delete(a.problems, staleProblem)
	if a.stopped || a.ctx != nil && a.ctx.Err() != nil {
		return errors.New("the agent is stopping")
	}
	if err := a.keep.obey(d); err != nil {
		return err
	}
	a.revision, a.epoch = revision, d.Epoch
	a.obeyRecorders(d.Recorders)
	a.taps.rec.Set(d.Taps)
	a.link.TapsChanged()
	a.link.InventoryChanged()
	wanted := make(map[string]bool, len(captures))
	for _, c := range captures {
		wanted[c.UID] = true
		if j := a.jobs[c.UID]; j != nil {
			j.respec(c)
			continue
		}
		j := newJob(a, c, nil)
		a.jobs[c.UID] = j
		if a.ctx != nil { // otherwise Run starts it
			a.start(j)
		}
	}
	for uid, j := range a.jobs {
		if !wanted[uid] {
			delete(a.jobs, uid)
			a.drop(j)
		}
	}
	return nil
}

// drop ends a job and removes its data. a.mu is held.
func (a *Agent) drop(j *job) {
	j.forget()
	j.release()
	a.forgetBrowsed(j.uid)
	a.shelf.forget(j.uid)
	started := a.ctx != nil
	a.running.Go(func() {
		if started {
			<-j.done
		}
		if err := os.RemoveAll(j.dir); err != nil {
			a.log.Error("cannot remove a capture's data; it is tried again at the next start", "uid", j.uid, "err", err)
		}
	})
}

// Actual implements agentapi.Local.
func (a *Agent) Actual() (int64, []want.Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]want.Status, 0, len(a.jobs))
	for _, j := range a.jobs {
		out = append(out, j.snapshot())
	}
	sort.Slice(out, func(i, k int) bool { return out[i].UID < out[k].UID })
	return a.revision, out
}

// Inventory implements agentapi.Local.
func (a *Agent) Inventory() ([]point.Point, want.Node) {
	exporters, collectors, stores := a.exporterPoints(), a.collectorViews(), a.flows.views() // they have locks of their own, and wait for the disk
	a.mu.Lock()
	defer a.mu.Unlock()
	points := append(append([]point.Point(nil), *a.devices.Load()...), a.sensorPts...)
	points = append(points, exporters...)
	for i := range points {
		points[i].Node = a.cfg.NodeName
		a.describeReading(&points[i])
	}
	n := want.Node{
		Name: a.cfg.NodeName, ID: a.keep.nodeID, Version: a.cfg.Version, DiskFree: a.free, DiskUsed: a.used,
		QuotaBytes: a.cfg.Quota.Bytes, GovernorStage: a.governor().stage, Epoch: a.epoch, Missing: make(map[string]string), Recorders: make(map[string]time.Time),
	}
	for k, why := range a.missing {
		n.Missing[k] = why
	}
	for _, text := range a.problems {
		n.Problems = append(n.Problems, text)
	}
	sort.Strings(n.Problems)
	n.Recordings = a.recorderViews()
	n.Underlay = a.underlay()
	for name, r := range a.allRecorders() {
		if since := r.since(); !since.IsZero() {
			n.Recorders[name] = since
		}
	}
	for _, e := range a.exporters {
		n.Exporters = append(n.Exporters, e.status())
	}
	n.Collectors, n.FlowStores = collectors, stores
	return points, n
}

// Open implements agentapi.Local.
func (a *Agent) Open(ctx context.Context, uid string, o want.OpenOptions) (*want.Retrieval, error) {
	j := a.job(uid)
	if j == nil {
		return nil, fault.New(fault.NotFound, "the node does not have this capture (any more)")
	}
	return j.open(ctx, o)
}

func (a *Agent) job(uid string) *job {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.jobs[uid]
}

// readableJob finds a capture whose data can be read.
func (a *Agent) readableJob(uid string) (*job, want.Status, error) {
	j := a.job(uid)
	if j == nil {
		return nil, want.Status{}, fault.New(fault.NotFound, "the node does not have this capture (any more)")
	}
	st, err := j.readable()
	return j, st, err
}
