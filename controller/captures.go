package controller

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/packet"
	"opentap/store"
	"opentap/want"
)

// CreateCapture accepts a request. created is false when the same request had been accepted before. The answer waits a
// little for the node, so that it can say what really happened.
func (c *Controller) CreateCapture(ctx context.Context, id auth.Identity, r want.Request) (want.View, bool, error) {
	if !id.May(auth.Start) {
		return want.View{}, false, c.refuse(ctx, id, "capture.start", r.ID, auth.Start)
	}
	if r.ID != "" {
		if v, err := c.repeated(id, r); v != nil || err != nil {
			if err != nil {
				return want.View{}, false, err
			}
			return *v, false, nil
		}
	}
	s, err := c.plan(id, r, time.Now().UTC())
	if err != nil {
		return want.View{}, false, err
	}
	if err := c.room(id.Project); err != nil {
		return want.View{}, false, err
	}
	s.Admin = id.May(auth.Administer)
	q := s.Capture.Query
	if err := c.record(ctx, id, "capture.start", s.Capture.ID, id.Project, map[string]string{
		"uid": s.Capture.UID, "kind": string(s.Capture.Kind), "node": s.Node, "points": strings.Join(q.Points, ","), "filter": q.Filter,
		"from": q.From.Format(time.RFC3339Nano), "to": timeOrNone(q.To),
	}); err != nil {
		return want.View{}, false, err
	}
	value, err := json.Marshal(s)
	if err != nil {
		return want.View{}, false, err
	}
	uid := s.Capture.UID
	nameKey := idKey(id.Project, s.Capture.ID)
	rev, err := c.store.Txn(ctx, []store.Compare{store.Absent(nameKey)},
		[]store.Op{store.Put(nameKey, []byte(uid)), store.Put(capturePrefix+uid, value)})
	if errors.Is(err, store.ErrConflict) { // somebody was quicker with the same id
		c.settle(ctx, func() bool { _, ok := c.byID[captureKey{id.Project, s.Capture.ID}]; return ok })
		v, err := c.repeated(id, r)
		if err != nil {
			return want.View{}, false, err
		}
		if v == nil {
			return want.View{}, false, taken(s.Capture.ID)
		}
		return *v, false, nil
	}
	if err != nil {
		return want.View{}, false, storeFault(err)
	}
	if err := c.await(ctx, func() bool { return c.revision >= rev }); err != nil {
		return want.View{}, false, err
	}
	due := time.Until(q.From) < c.cfg.SettleWait/4
	c.settle(ctx, func() bool {
		st, ok := c.status[uid]
		return ok && !(due && st.State == want.Scheduled) // what begins now is told when it has begun
	})
	v, err := c.view(uid)
	return v, true, err
}

func timeOrNone(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

// repeated answers a request whose id is in use: the same request has its capture, another one is refused.
func (c *Controller) repeated(id auth.Identity, r want.Request) (*want.View, error) {
	c.mu.Lock()
	uid, ok := c.byID[captureKey{id.Project, r.ID}]
	var e *entry
	if ok {
		e = c.captures[uid]
	}
	c.mu.Unlock()
	if e == nil {
		return nil, nil
	}
	if !sameRequest(e.Request, r) {
		return nil, taken(r.ID)
	}
	v, err := c.view(uid)
	if err != nil {
		return nil, err
	}
	return &v, nil
}

func taken(id string) error {
	return &fault.Error{
		Kind: fault.Conflict, Field: "id", Msg: "the id " + strconv.Quote(id) + " is taken by a capture with other arguments",
		Hint: "choose another id, or leave it out to have one made",
	}
}

// sameRequest compares two requests after the way through JSON, in which times lose their location.
func sameRequest(a, b want.Request) bool {
	norm := func(r want.Request) (n want.Request) {
		j, err := json.Marshal(r)
		if err == nil {
			err = json.Unmarshal(j, &n)
		}
		if err != nil {
			return r
		}
		n.From, n.To = n.From.UTC(), n.To.UTC()
		if len(n.Points) == 0 {
			n.Points = nil
		}
		return n
	}
	return reflect.DeepEqual(norm(a), norm(b))
}

// room refuses a capture too many.
func (c *Controller) room(project string) error {
	if err := c.refusedForRoom(); err != nil {
		return err
	}
	limits := c.limits(project)
	if limits.Captures <= 0 && limits.Bytes <= 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.used(project)
	const hint = "delete captures that are no longer needed"
	switch {
	case limits.Captures > 0 && u.Captures >= limits.Captures:
		return &fault.Error{Kind: fault.Exhausted, Msg: "the project has " + strconv.Itoa(u.Captures) + " captures, as many as it may", Hint: hint}
	case limits.Bytes > 0 && u.Bytes >= limits.Bytes:
		return &fault.Error{Kind: fault.Exhausted, Msg: fmt.Sprintf("the captures of the project hold %d octets, and it may have %d", u.Bytes, limits.Bytes), Hint: hint}
	}
	return nil
}

// idKey is the key that makes an id unique in its project. The id is opaque, so it is spelt in hexadecimal.
func idKey(project, id string) string {
	return idPrefix + hex.EncodeToString([]byte(project)) + "/" + hex.EncodeToString([]byte(id))
}

func newUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, crypto/rand
	return hex.EncodeToString(b[:])
}

func newID(k want.Kind) string {
	var b [5]byte
	rand.Read(b[:])
	return string(k) + "-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// find returns the capture that id names for this caller.
func (c *Controller) find(id auth.Identity, captureID string) (*entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if uid, ok := c.byID[captureKey{id.Project, captureID}]; ok {
		return c.captures[uid], nil
	}
	if id.May(auth.Administer) { // an administrator sees every project; ids may repeat between them, UIDs do not
		var found *entry
		for uid, e := range c.captures {
			if e.Capture.ID == captureID || uid == captureID {
				if found != nil {
					return nil, fault.Field("id", "several projects have a capture %q; use its uid", captureID)
				}
				found = e
			}
		}
		if found != nil {
			return found, nil
		}
	}
	return nil, &fault.Error{Kind: fault.NotFound, Msg: "no capture has the id " + strconv.Quote(captureID), Hint: "list the captures to see their ids; expired ones are deleted"}
}

// view shows a capture with its newest status.
func (c *Controller) view(uid string) (want.View, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.captures[uid]
	if e == nil {
		return want.View{}, fault.New(fault.NotFound, "the capture was deleted")
	}
	return c.viewLocked(e), nil
}

func (c *Controller) viewLocked(e *entry) want.View {
	v := want.View{Capture: e.Capture, Node: e.Node, Formats: want.FormatsOf(e.Capture.Kind)}
	v.Filtering = e.filtering
	n := c.nodes[e.NodeID]
	away := n == nil || !n.connected
	st, known := c.status[e.Capture.UID]
	switch {
	case e.Final != nil:
		v.Status = *e.Final
	case known:
		v.Status = st
		if away && !st.State.Final() {
			v.Status.Reason = "node " + e.Node + " is not connected; this is its last word"
		}
	default:
		v.Status = want.Status{UID: e.Capture.UID, State: want.Scheduled, Reason: "node " + e.Node + " has not taken it yet", Updated: e.Capture.Created}
		if away {
			v.Status.Reason = "node " + e.Node + " is not connected; it goes on with what it knows"
		}
	}
	if v.Status.State.Final() && !v.Status.Ended.IsZero() {
		v.Expires = v.Status.Ended.Add(time.Duration(e.Capture.Retain))
	}
	return v
}

func visible(id auth.Identity, e *entry) bool {
	return e.Capture.Project == id.Project || id.May(auth.Administer)
}

// Captures lists the captures that the caller may see, the newest first.
func (c *Controller) Captures(ctx context.Context, id auth.Identity) ([]want.View, error) {
	if !id.May(auth.SeeMetadata) {
		return nil, c.refuse(ctx, id, "capture.list", "", auth.SeeMetadata)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]want.View, 0, len(c.captures))
	for _, e := range c.captures {
		if visible(id, e) {
			out = append(out, c.viewLocked(e))
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if !out[i].Created.Equal(out[j].Created) {
			return out[i].Created.After(out[j].Created)
		}
		return out[i].UID < out[j].UID
	})
	return out, nil
}

// Capture shows one capture.
func (c *Controller) Capture(ctx context.Context, id auth.Identity, captureID string) (want.View, error) {
	if !id.May(auth.SeeMetadata) {
		return want.View{}, c.refuse(ctx, id, "capture.show", captureID, auth.SeeMetadata)
	}
	e, err := c.find(id, captureID)
	if err != nil {
		return want.View{}, err
	}
	return c.view(e.Capture.UID)
}

// StopCapture ends a capture now. One that has ended already is shown as it is: stopping twice is stopping once.
func (c *Controller) StopCapture(ctx context.Context, id auth.Identity, captureID string) (want.View, error) {
	if !id.May(auth.Start) {
		return want.View{}, c.refuse(ctx, id, "capture.stop", captureID, auth.Start)
	}
	e, err := c.find(id, captureID)
	if err != nil {
		return want.View{}, err
	}
	uid := e.Capture.UID
	final := func() bool {
		e := c.captures[uid]
		return e == nil || e.Final != nil || c.status[uid].State.Final()
	}
	c.mu.Lock()
	ended := final()
	c.mu.Unlock()
	if ended || !e.Capture.StopAt.IsZero() {
		c.settle(ctx, final)
		return c.view(uid)
	}
	if err := c.record(ctx, id, "capture.stop", e.Capture.ID, e.Capture.Project, map[string]string{"uid": uid}); err != nil {
		return want.View{}, err
	}
	now := time.Now().UTC()
	err = c.update(ctx, uid, func(s *stored) bool {
		if !s.Capture.StopAt.IsZero() || s.Final != nil {
			return false
		}
		s.Capture.StopAt = now
		return true
	})
	if err != nil {
		return want.View{}, err
	}
	c.settle(ctx, final)
	return c.view(uid)
}

// update changes a stored capture; change says whether there is anything to write. A deleted capture is not found.
func (c *Controller) update(ctx context.Context, uid string, change func(*stored) bool) error {
	for {
		kv, err := c.store.Get(ctx, capturePrefix+uid)
		if errors.Is(err, store.ErrNotFound) {
			return fault.New(fault.NotFound, "the capture was deleted")
		}
		if err != nil {
			return storeFault(err)
		}
		var s stored
		if err := json.Unmarshal(kv.Value, &s); err != nil {
			return err
		}
		if !change(&s) {
			return nil
		}
		value, err := json.Marshal(s)
		if err != nil {
			return err
		}
		rev, err := c.store.Txn(ctx, []store.Compare{store.Unchanged(kv)}, []store.Op{store.Put(kv.Key, value)})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return storeFault(err)
		}
		return c.await(ctx, func() bool { return c.revision >= rev })
	}
}

// DeleteCapture forgets a capture and has its data removed. A running one ends.
func (c *Controller) DeleteCapture(ctx context.Context, id auth.Identity, captureID string) error {
	if !id.May(auth.Delete) {
		return c.refuse(ctx, id, "capture.delete", captureID, auth.Delete)
	}
	e, err := c.find(id, captureID)
	if err != nil {
		return err
	}
	rev, err := c.remove(ctx, id, e, "capture.delete")
	if err != nil {
		return err
	}
	c.settle(ctx, func() bool { n := c.nodes[e.NodeID]; return n != nil && n.revision >= rev })
	return nil
}

// remove deletes a capture from the store and returns the revision of that. Its id is given free only together with it:
// another capture may have the same id by now.
func (c *Controller) remove(ctx context.Context, id auth.Identity, e *entry, action string) (rev int64, err error) {
	uid := e.Capture.UID
	if err := c.record(ctx, id, action, e.Capture.ID, e.Capture.Project, map[string]string{"uid": uid}); err != nil {
		return 0, err
	}
	for {
		kv, err := c.store.Get(ctx, capturePrefix+uid)
		if errors.Is(err, store.ErrNotFound) {
			return 0, fault.New(fault.NotFound, "the capture was deleted")
		}
		if err != nil {
			return 0, storeFault(err)
		}
		rev, err = c.store.Txn(ctx, []store.Compare{store.Unchanged(kv)},
			[]store.Op{store.Delete(kv.Key), store.Delete(idKey(e.Capture.Project, e.Capture.ID))})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return 0, storeFault(err)
		}
		return rev, c.await(ctx, func() bool { return c.revision >= rev })
	}
}

// OpenCapture opens the data for reading.
func (c *Controller) OpenCapture(ctx context.Context, id auth.Identity, captureID string, o want.OpenOptions) (*want.Retrieval, error) {
	if !id.May(auth.ReadPayload) {
		return nil, c.refuse(ctx, id, "capture.retrieve", captureID, auth.ReadPayload)
	}
	e, err := c.find(id, captureID)
	if err != nil {
		return nil, err
	}
	formats := want.FormatsOf(e.Capture.Kind)
	if o.Format == "" {
		o.Format = formats[0]
	}
	known := false
	for _, f := range formats {
		known = known || f == o.Format
	}
	if !known {
		return nil, &fault.Error{
			Kind: fault.Invalid, Field: "format", Msg: strconv.Quote(string(o.Format)) + " is not a format of " + string(e.Capture.Kind) + " captures",
			Hint: "use one of " + join(formats),
		}
	}
	c.mu.Lock()
	v := c.viewLocked(e)
	c.mu.Unlock()
	if v.Status.State == want.Scheduled {
		f := &fault.Error{Kind: fault.NotReady, Msg: "the capture has not begun", RetryAfter: time.Until(e.Capture.Query.From)}
		if f.RetryAfter < time.Second {
			f.RetryAfter = time.Second
		}
		return nil, f
	}
	if err := c.record(ctx, id, "capture.retrieve", e.Capture.ID, e.Capture.Project, map[string]string{"uid": e.Capture.UID, "format": string(o.Format)}); err != nil {
		return nil, err
	}
	return c.hub.Open(ctx, e.NodeID, e.Node, e.Capture.UID, o)
}

func join[T ~string](list []T) string {
	var b strings.Builder
	for i, s := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(s))
	}
	return b.String()
}

// CheckFilter says how a filter is understood.
func (c *Controller) CheckFilter(_ context.Context, expr string, strict bool) (canonical, explanation string, err error) {
	e, err := parseFilter(expr, strict)
	if err != nil {
		return "", "", err
	}
	return e.String(), e.Explain(), nil
}

// parseFilter takes a filter that can be understood and compiled.
func parseFilter(expr string, strict bool) (*filter.Expr, error) {
	if len(expr) > maxFilter {
		return nil, fault.Field("filter", "is %d octets long, at most %d are taken", len(expr), maxFilter)
	}
	e, err := filter.Parse(expr)
	if err != nil {
		return nil, filterFault(err)
	}
	if _, err := cbpf.Compile(e, cbpf.Options{Link: packet.LinkEthernet, Strict: strict, Target: cbpf.Kernel}); err != nil {
		return nil, filterFault(err)
	}
	return e, nil
}

func filterFault(err error) error {
	var s *filter.SyntaxError
	if errors.As(err, &s) {
		return &fault.Error{Kind: fault.Invalid, Field: "filter", Msg: s.Msg, Hint: s.Hint, Pos: s.Pos + 1}
	}
	return &fault.Error{Kind: fault.Invalid, Field: "filter", Msg: err.Error()}
}
