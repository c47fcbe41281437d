// Package doortest is a controller in memory against which doors and clients are tested.
//
// Runs in: tools
package doortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sort"
	"strings"
	"sync"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/filter"
	"opentap/point"
	"opentap/tap"
	"opentap/want"
)

// Epoch is when everything here was made.
var Epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Controller keeps captures in memory and gives made-up data. Set the fields before it is used, or in Change; methods are
// safe for concurrent use.
type Controller struct {
	List  []point.Point
	Fail  map[string]error // method name → what it returns instead
	Calls []want.Request   // requests that CreateCapture got, read with Requests
	Sick  bool             // the doctor finds something bad
	// Broken makes every Retrieval fail after so many octets; 0 = never.
	Broken int64
	// Unsized hides the size of retrievals.
	Unsized bool
	// Payload is what OpenCapture gives; nil makes some lines.
	Payload []byte
	// Polls is how many times a capture shows itself running before it is done; below 0 = until stopped.
	Polls int
	// SlowStop makes StopCapture wait until its caller goes away.
	SlowStop bool
	// Finish changes a capture's status when it ends; nil = nothing.
	Finish func(*want.Status)
	// Live writes what OpenLive gives; nil = some packets.
	Live func(ctx context.Context, w io.Writer) error

	mu     sync.Mutex
	taps   tap.Change // what was changed last of the service and the flow
	views  map[string]*want.View
	asked  map[string]want.Request
	lives  []want.LiveRequest
	rules  map[string]want.Rule
	left   map[string]int
	opened int
	closed int
	made   int
}

// New returns a controller with two network points, an alias and a sensor.
func New() *Controller {
	return &Controller{
		List: []point.Point{
			{Name: "eth0", Node: "virgo", Kind: point.Netdev, Aliases: []string{"uplink"}, Default: true, Present: true, IfIndex: 2, MAC: "02:00:00:00:00:01", MTU: 1500, Up: true, SpeedBPS: 1e9, LinkType: 1, Driver: "virtio_net", Since: Epoch},
			{Name: "eth1", Node: "virgo", Kind: point.Netdev, Present: true, IfIndex: 3, MTU: 1500, LinkType: 1, Since: Epoch},
			{Name: "coretemp/Core 0", Node: "virgo", Kind: point.Sensor, Present: true, Quantity: "temperature", Unit: "Cel", Since: Epoch},
		},
		Fail: map[string]error{}, views: map[string]*want.View{}, asked: map[string]want.Request{}, left: map[string]int{}, Polls: 1,
	}
}

// Requests returns what CreateCapture was asked.
func (c *Controller) Requests() []want.Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]want.Request(nil), c.Calls...)
}

// Held is how many retrievals are open.
func (c *Controller) Held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opened - c.closed
}

// Change sets fields while the controller is in use.
func (c *Controller) Change(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn()
}

// Set changes a capture's view.
func (c *Controller) Set(id string, fn func(*want.View)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(c.views[id])
}

// Points implements the doors' Controller.
func (c *Controller) Points(ctx context.Context, id auth.Identity) ([]point.Point, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]point.Point(nil), c.List...), c.Fail["Points"]
}

// Capabilities implements the doors' Controller.
func (c *Controller) Capabilities(ctx context.Context, id auth.Identity) (want.Capabilities, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return want.Capabilities{
		Name: "virgo", Version: "1.2.3", Kinds: []want.Kind{want.Packets, want.Flows, want.Counters, want.Sensor, "temperature"},
		Missing: map[string]string{"motion": "no such sensor"}, RetentionDefault: want.Duration(time.Hour), MaxDuration: want.Duration(24 * time.Hour),
		QuotaBytes: 1 << 30, DefaultPoint: "eth0",
		Formats: map[want.Kind][]want.Format{want.Packets: want.FormatsOf(want.Packets), want.Flows: want.FormatsOf(want.Flows)},
	}, c.Fail["Capabilities"]
}

// Nodes implements the doors' Controller.
func (c *Controller) Nodes(ctx context.Context, id auth.Identity) ([]want.Node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return []want.Node{{Name: "virgo", ID: "n1", Version: "1.2.3", Connected: true, Since: Epoch, Revision: 7, DiskFree: 1 << 30}}, c.Fail["Nodes"]
}

// CreateCapture implements the doors' Controller.
func (c *Controller) CreateCapture(ctx context.Context, id auth.Identity, r want.Request) (want.View, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Calls = append(c.Calls, r)
	if err := c.Fail["CreateCapture"]; err != nil {
		return want.View{}, false, err
	}
	if !id.May(auth.Start) {
		return want.View{}, false, fault.New(fault.Forbidden, "role %s may not start captures", id.Role)
	}
	if _, _, err := checkFilter(r.Filter); err != nil {
		return want.View{}, false, err
	}
	if r.ID != "" {
		if v, ok := c.views[r.ID]; ok {
			if fmt.Sprint(c.asked[r.ID]) == fmt.Sprint(r) {
				return *v, false, nil
			}
			return want.View{}, false, fault.New(fault.Conflict, "the id is taken by a capture with other arguments")
		}
	}
	c.made++
	if r.ID == "" {
		r.ID = fmt.Sprintf("cap-%d", c.made)
	}
	if len(r.Points) == 0 {
		r.Points = []string{"eth0"}
	}
	for _, p := range r.Points {
		if p != "eth0" && p != "eth1" && p != "uplink" && !strings.HasPrefix(p, "core") {
			return want.View{}, false, fault.Field("points", "no observation point %q", p)
		}
	}
	asked := c.Calls[len(c.Calls)-1]
	asked.ID = r.ID
	c.asked[r.ID] = asked
	v := &want.View{Node: "virgo", Formats: want.FormatsOf(r.Kind)}
	v.UID, v.ID, v.Project, v.Owner, v.Kind, v.Created, v.Retain = fmt.Sprintf("%032x", c.made), r.ID, "default", id.Name, r.Kind, Epoch, want.Duration(time.Hour)
	v.Query = filter.Query{Points: r.Points, From: r.From, To: r.To, Filter: r.Filter, Strict: r.Strict, Limits: r.Limits, Snap: r.Snap}
	if v.Query.From.IsZero() {
		v.Query.From = Epoch
	}
	if r.MovePast && v.Query.From.Before(Epoch) {
		v.Query.From, v.Note = Epoch, "start time was in the past; moved to now"
	}
	if r.Duration > 0 {
		v.Query.To = v.Query.From.Add(time.Duration(r.Duration))
	}
	v.Status = want.Status{UID: v.UID, State: want.Running, Started: v.Query.From, Updated: Epoch}
	v.Status.Ledger.Seen, v.Status.Ledger.Captured, v.Status.Ledger.Filtered = 150, 100, 50
	v.Status.Ledger.Octets, v.Status.Ledger.StoredOctets, v.Status.Bytes = 64000, 64000, 65536
	c.views[r.ID], c.left[r.ID] = v, c.Polls
	return *v, true, nil
}

// Captures implements the doors' Controller.
func (c *Controller) Captures(ctx context.Context, id auth.Identity) ([]want.View, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []want.View
	for _, v := range c.views {
		list = append(list, *v)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID < list[j].ID })
	return list, c.Fail["Captures"]
}

func (c *Controller) get(id string) (*want.View, error) {
	v, ok := c.views[id]
	if !ok {
		return nil, fault.New(fault.NotFound, "no capture with that id")
	}
	return v, nil
}

func (c *Controller) end(v *want.View, s want.State) {
	v.Status.State, v.Status.Ended = s, Epoch.Add(5*time.Second)
	if c.Finish != nil {
		c.Finish(&v.Status)
	}
}

// Capture implements the doors' Controller. Each call brings a running capture nearer to its end.
func (c *Controller) Capture(ctx context.Context, id auth.Identity, captureID string) (want.View, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.Fail["Capture"]; err != nil {
		return want.View{}, err
	}
	v, err := c.get(captureID)
	if err != nil {
		return want.View{}, err
	}
	if !v.Status.State.Final() && c.left[captureID] >= 0 {
		if c.left[captureID]--; c.left[captureID] < 0 {
			c.end(v, want.Done)
		}
	}
	return *v, nil
}

// StopCapture implements the doors' Controller.
func (c *Controller) StopCapture(ctx context.Context, id auth.Identity, captureID string) (want.View, error) {
	c.mu.Lock()
	slow := c.SlowStop
	c.mu.Unlock()
	if slow {
		<-ctx.Done()
		return want.View{}, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	v, err := c.get(captureID)
	if err != nil {
		return want.View{}, err
	}
	if !v.Status.State.Final() {
		c.end(v, want.Stopped)
	}
	return *v, c.Fail["StopCapture"]
}

// DeleteCapture implements the doors' Controller.
func (c *Controller) DeleteCapture(ctx context.Context, id auth.Identity, captureID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.get(captureID); err != nil {
		return err
	}
	delete(c.views, captureID)
	return c.Fail["DeleteCapture"]
}

// OpenCapture implements the doors' Controller.
func (c *Controller) OpenCapture(ctx context.Context, id auth.Identity, captureID string, o want.OpenOptions) (*want.Retrieval, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.Fail["OpenCapture"]; err != nil {
		return nil, err
	}
	v, err := c.get(captureID)
	if err != nil {
		return nil, err
	}
	if !id.May(auth.ReadPayload) {
		return nil, fault.New(fault.Forbidden, "role %s may not read captured data", id.Role)
	}
	if o.Format == "" {
		o.Format = v.Formats[0]
	}
	ok := false
	for _, f := range v.Formats {
		ok = ok || f == o.Format
	}
	if !ok {
		return nil, fault.Field("format", "a %s capture cannot be had as %s", v.Kind, o.Format)
	}
	if v.Status.State == want.Scheduled {
		return nil, &fault.Error{Kind: fault.NotReady, Msg: "the capture has not begun", RetryAfter: 3 * time.Second}
	}
	data := c.Payload
	if data == nil {
		data = []byte("time,state,rx_bytes\n" + strings.Repeat("1700000000000,1,100\n", 5000))
	}
	c.opened++
	rt := &want.Retrieval{
		Format: o.Format, FileName: "capture" + o.Format.Extension(), Size: int64(len(data)), ETag: fmt.Sprintf("%s-%s-%d", v.UID[30:], o.Format, len(data)),
		Modified: Epoch, Final: v.Status.State.Final(), Ledger: v.Status.Ledger, Records: 100,
	}
	if c.Unsized {
		rt.Size = -1
	}
	broken := c.Broken
	rt.Write = func(ctx context.Context, w io.Writer, offset, length int64) error {
		part := data[offset:]
		if length >= 0 {
			part = part[:length]
		}
		if broken > 0 && int64(len(part)) > broken {
			if _, err := w.Write(part[:broken]); err != nil {
				return err
			}
			return errors.New("chunk 17: checksum mismatch")
		}
		_, err := io.Copy(w, bytes.NewReader(part))
		return err
	}
	rt.Close = func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.closed++
		return nil
	}
	return rt, nil
}

// CheckFilter implements the doors' Controller. It knows "tcp" and refuses "bogus".
func (c *Controller) CheckFilter(ctx context.Context, expr string, strict bool) (string, string, error) {
	return checkFilter(expr)
}

func checkFilter(expr string) (string, string, error) {
	if i := strings.Index(expr, "bogus"); i >= 0 {
		return "", "", &fault.Error{Kind: fault.Invalid, Field: "filter", Msg: "unknown word \"bogus\"", Pos: i + 1, Hint: "did you mean \"tcp\"?"}
	}
	return "(" + expr + ")", "packets that are " + expr, nil
}

// Tokens is an Authenticator: token → identity.
type Tokens map[string]auth.Identity

// Everything is an identity that may do anything.
var Everything = auth.Identity{Name: "root", Project: "default", Role: "admin", Rights: 0xffff, Via: "token"}

// Users has the tokens "admin" and "viewer"; without a token nobody comes in.
func Users() Tokens {
	return Tokens{
		"admin":  Everything,
		"viewer": {Name: "eve", Project: "default", Role: "viewer", Rights: auth.SeeMetadata, Via: "token"},
	}
}

// Authenticate implements httpapi.Authenticator.
func (t Tokens) Authenticate(ctx context.Context, token string, remote netip.AddrPort) (auth.Identity, error) {
	if id, ok := t[token]; ok {
		id.Remote = remote.String()
		return id, nil
	}
	if token == "busy" {
		return auth.Identity{}, &fault.Error{Kind: fault.Exhausted, Msg: "too many attempts", RetryAfter: 7 * time.Second}
	}
	if token == "" {
		return auth.Identity{}, &fault.Error{Kind: fault.Unauthenticated, Msg: "a token is needed", Hint: "send it as Authorization: Bearer TOKEN"}
	}
	return auth.Identity{}, fault.New(fault.Unauthenticated, "the token is not known")
}
