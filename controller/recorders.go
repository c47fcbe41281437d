package controller

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"sort"
	"strconv"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/store"
	"opentap/want"
)

// recorderPrefix is where recorders are stored: <node id>/<point, in hexadecimal>.
const recorderPrefix = "capture-recorder/"

// minRecorder is the least a recorder may hold: some segments of its smallest chunks. Octets.
const minRecorder = 64 << 20

// recorderKey names a recorder: a point has at most one.
type recorderKey struct{ nodeID, point string }

func (k recorderKey) path() string {
	return recorderPrefix + k.nodeID + "/" + hex.EncodeToString([]byte(k.point))
}

// storedRecorder is a recorder as the store holds it.
type storedRecorder struct {
	Recorder want.Recorder `json:"recorder"`
	NodeID   string        `json:"node_id"`
	path     string
	rev      int64 // mod revision
}

func (s *storedRecorder) key() recorderKey { return recorderKey{s.NodeID, s.Recorder.Point} }

func (c *Controller) decodeRecorder(kv store.KV) *storedRecorder {
	r := &storedRecorder{path: kv.Key, rev: kv.ModRevision}
	if err := json.Unmarshal(kv.Value, r); err != nil || r.Recorder.Point == "" || r.key().path() != kv.Key {
		c.log.Error("the store holds a recorder that cannot be read; it is left alone", "key", kv.Key, "err", err)
		return nil
	}
	return r
}

// applyRecorder takes over a change and notes whom it concerns. c.mu is held.
func (c *Controller) applyRecorder(ev store.Event, kick map[string]bool) {
	if ev.Deleted {
		for k, r := range c.recorders {
			if r.path == ev.Key {
				delete(c.recorders, k)
				kick[k.nodeID] = true
			}
		}
		return
	}
	if r := c.decodeRecorder(ev.KV); r != nil {
		c.recorders[r.key()] = r
		kick[r.NodeID] = true
	}
}

// desiredRecorders are those of one node. c.mu is held.
func (c *Controller) desiredRecorders(nodeID string) []want.Recorder {
	var out []want.Recorder
	for k, r := range c.recorders {
		if k.nodeID == nodeID {
			out = append(out, r.Recorder)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Point < out[j].Point })
	return out
}

// recorderView shows a recorder with what its agent says of it; nil = there is none. c.mu is held.
func (c *Controller) recorderView(k recorderKey) *want.RecorderView {
	n := c.nodes[k.nodeID]
	r := c.recorders[k]
	var v *want.RecorderView
	if n != nil {
		for _, told := range n.facts.Recordings {
			// What the agent still says of a recorder that was taken away is not shown.
			if told.Point == k.point && (r != nil || told.Origin == want.FromConfiguration) {
				v = &told
			}
		}
	}
	if r != nil && (v == nil || v.Origin == want.FromAPI) {
		stale := v == nil || !v.Changed.Equal(r.Recorder.Changed)
		if v == nil {
			v = &want.RecorderView{}
		}
		v.Recorder, v.Origin = r.Recorder, want.FromAPI
		if stale {
			v.Status.State, v.Status.Reason = want.Scheduled, "node "+r.Recorder.Node+" has not taken it yet"
		}
	}
	if v == nil {
		return nil
	}
	if n != nil {
		v.Node = n.id.NodeName
	}
	if n == nil || !n.connected {
		v.Status.Reason = "node " + v.Node + " is not connected; it goes on with what it knows"
	}
	return v
}

// Recorders lists the recorders of all nodes, those of their configurations included.
func (c *Controller) Recorders(ctx context.Context, id auth.Identity) ([]want.RecorderView, error) {
	if !id.May(auth.SeeMetadata) {
		return nil, c.refuse(ctx, id, "recorder.list", "", auth.SeeMetadata)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	keys := make(map[recorderKey]bool)
	for k := range c.recorders {
		keys[k] = true
	}
	for nodeID, n := range c.nodes {
		for _, v := range n.facts.Recordings {
			keys[recorderKey{nodeID, v.Point}] = true
		}
	}
	var out []want.RecorderView
	project, narrow := c.restricted(id)
	for k := range keys {
		if v := c.recorderView(k); v != nil && (!narrow || c.seesPoint(&project, k.nodeID, &point.Point{Node: v.Node, Name: v.Point, Kind: point.Netdev})) {
			out = append(out, *v)
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Node != out[j].Node {
			return out[i].Node < out[j].Node
		}
		return out[i].Point < out[j].Point
	})
	return out, nil
}

// pointKey finds the point that a name means to the caller, and its node. The key is that of its recorder.
func (c *Controller) pointKey(id auth.Identity, name string) (recorderKey, point.Point, error) {
	p, err := c.setFor(id).Resolve(name)
	if err != nil {
		return recorderKey{}, p, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for nodeID, n := range c.nodes {
		if n.id.NodeName == p.Node {
			return recorderKey{nodeID, p.Name}, p, nil
		}
	}
	return recorderKey{}, p, fault.New(fault.NotFound, "the node of %s is not known", p.Name)
}

// Recorder shows the recorder of a point.
func (c *Controller) Recorder(ctx context.Context, id auth.Identity, name string) (want.RecorderView, error) {
	if !id.May(auth.SeeMetadata) {
		return want.RecorderView{}, c.refuse(ctx, id, "recorder.show", name, auth.SeeMetadata)
	}
	k, p, err := c.pointKey(id, name)
	if err != nil {
		return want.RecorderView{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.recorderView(k); v != nil {
		return *v, nil
	}
	return want.RecorderView{}, noRecorder(p.Name)
}

func noRecorder(name string) error {
	return &fault.Error{Kind: fault.NotFound, Msg: "nothing is recorded at " + strconv.Quote(name), Hint: "list the recorders to see what is"}
}

// SetRecorder has the newest packets of a point kept, as r says. created is false when the point had a recorder that was
// changed. The answer waits a little for the node, so that it can say what really happened.
func (c *Controller) SetRecorder(ctx context.Context, id auth.Identity, name string, r want.Recorder) (want.RecorderView, bool, error) {
	if !id.May(auth.Administer) {
		return want.RecorderView{}, false, c.refuse(ctx, id, "recorder.set", name, auth.Administer)
	}
	if err := c.refusedForRoom(); err != nil {
		return want.RecorderView{}, false, err
	}
	k, p, err := c.pointKey(id, name)
	if err != nil {
		return want.RecorderView{}, false, err
	}
	if r.Point != "" && r.Point != name && r.Point != p.Name || r.Node != "" && r.Node != p.Node {
		return want.RecorderView{}, false, fault.Field("point", "is another than that of the path")
	}
	if err := c.checkRecorder(k, p, r); err != nil {
		return want.RecorderView{}, false, err
	}
	r.Point, r.Node, r.Owner, r.Changed = p.Name, p.Node, id.Name, time.Now().UTC()
	if err := c.record(ctx, id, "recorder.set", p.Name, id.Project, map[string]string{
		"node": p.Node, "filter": r.Filter,
		"snap": strconv.Itoa(r.Snap), "bytes": strconv.FormatInt(r.Bytes, 10), "age": time.Duration(r.Age).String(),
		"compress": r.Compress, "fanout": strconv.Itoa(r.Fanout),
	}); err != nil {
		return want.RecorderView{}, false, err
	}
	value, err := json.Marshal(&storedRecorder{Recorder: r, NodeID: k.nodeID})
	if err != nil {
		return want.RecorderView{}, false, err
	}
	c.mu.Lock()
	_, had := c.recorders[k]
	c.mu.Unlock()
	rev, err := c.store.Txn(ctx, nil, []store.Op{store.Put(k.path(), value)})
	if err != nil {
		return want.RecorderView{}, false, storeFault(err)
	}
	if err := c.await(ctx, func() bool { return c.revision >= rev }); err != nil {
		return want.RecorderView{}, false, err
	}
	var v *want.RecorderView
	c.settle(ctx, func() bool {
		v = c.recorderView(k)
		return v == nil || v.Status.State != want.Scheduled
	})
	if v == nil {
		return want.RecorderView{}, false, noRecorder(p.Name) // somebody was quick to delete it
	}
	return *v, !had, nil
}

// checkRecorder refuses what could not be or may not be.
func (c *Controller) checkRecorder(k recorderKey, p point.Point, r want.Recorder) error {
	switch {
	case p.Kind != point.Netdev:
		return fault.New(fault.Unsupported, "%s is no network device: there are no packets to record", p.Name)
	case p.NoPcap != "":
		return fault.New(fault.Unsupported, "no packets can be recorded at %s: %s", p.Name, p.NoPcap)
	case r.Snap != 0 && (r.Snap < minSnap || r.Snap > maxSnap):
		return fault.Field("snap", "is %d octets; it can be %d to %d, or left out for whole packets", r.Snap, minSnap, maxSnap)
	case r.Bytes < minRecorder:
		return fault.Field("bytes", "is %d octets; say how much of the disk it may take, at least %d", r.Bytes, int64(minRecorder))
	case r.Age < 0:
		return fault.Field("age", "is negative")
	case r.Compress != "" && r.Compress != want.Zstd:
		return fault.Field("compress", "is %q; it can be %s, or left out for none", r.Compress, want.Zstd)
	case r.Fanout < 0 || r.Fanout > want.MaxFanout:
		return fault.Field("fanout", "is %d; it can be 1 to %d, or left out for one", r.Fanout, want.MaxFanout)
	}
	if r.Filter != "" {
		if _, err := parseFilter(r.Filter, false); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[k.nodeID]
	if n == nil || !n.connected {
		return &fault.Error{Kind: fault.Unavailable, Msg: "node " + p.Node + " is not connected", RetryAfter: 5 * time.Second}
	}
	if q := n.facts.QuotaBytes; q > 0 && r.Bytes > q {
		return fault.Field("bytes", "is %d octets, and node %s has %d for all captured data", r.Bytes, p.Node, q)
	}
	for _, v := range n.facts.Recordings {
		if v.Point == p.Name && v.Origin == want.FromConfiguration {
			return ofConfiguration(p)
		}
	}
	return nil
}

func ofConfiguration(p point.Point) error {
	return &fault.Error{
		Kind: fault.Conflict, Msg: "the recorder of " + p.Name + " is that of the configuration file of node " + p.Node,
		Hint: "change it there (recorders), or choose another point",
	}
}

// DeleteRecorder ends a recorder. What captures need of its data is kept until they expire; the rest is removed.
func (c *Controller) DeleteRecorder(ctx context.Context, id auth.Identity, name string) error {
	if !id.May(auth.Administer) {
		return c.refuse(ctx, id, "recorder.delete", name, auth.Administer)
	}
	k, p, err := c.pointKey(id, name)
	if err != nil {
		return err
	}
	c.mu.Lock()
	r, ok := c.recorders[k]
	v := c.recorderView(k)
	c.mu.Unlock()
	switch {
	case !ok && v != nil:
		return ofConfiguration(p)
	case !ok:
		return noRecorder(p.Name)
	}
	if err := c.record(ctx, id, "recorder.delete", p.Name, id.Project, map[string]string{"node": p.Node}); err != nil {
		return err
	}
	rev, err := c.store.Txn(ctx, []store.Compare{store.Unchanged(store.KV{Key: r.path, ModRevision: r.rev})}, []store.Op{store.Delete(k.path())})
	if errors.Is(err, store.ErrConflict) {
		return fault.New(fault.Conflict, "the recorder of %s was changed at the same time; look at it and try again", p.Name)
	}
	if err != nil {
		return storeFault(err)
	}
	return c.await(ctx, func() bool { return c.revision >= rev })
}
