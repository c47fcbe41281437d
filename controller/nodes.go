package controller

import (
	"context"
	"strconv"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/store"
	"opentap/want"
)

// Membership admits hosts to the fleet; fleet.Registry does.
type Membership interface {
	Epoch() want.Epoch
	AcceptStore(ctx context.Context, by auth.Identity, others []string) (want.Epoch, error)
	Members() []want.Member
	Changed() <-chan struct{}
	CreateJoinToken(ctx context.Context, by auth.Identity, r want.JoinTokenRequest) (want.JoinToken, error)
	JoinTokens(ctx context.Context) ([]want.JoinToken, error)
	DeleteJoinToken(ctx context.Context, id string) error
	Revoke(ctx context.Context, name string) (want.Member, error)
	Forget(ctx context.Context, name string) (want.Member, error)
}

// SetMembership gives the way to the fleet's members; it must be called before Run.
func (c *Controller) SetMembership(m Membership) { c.members = m }

func (c *Controller) membership() (Membership, error) {
	if c.members == nil {
		return nil, fault.New(fault.Unsupported, "this controller keeps no fleet")
	}
	return c.members, nil
}

// administer checks the right and the room for something that changes the fleet, and writes the audit entry.
func (c *Controller) administer(ctx context.Context, id auth.Identity, action, object string, details map[string]string) (Membership, error) {
	if !id.May(auth.Administer) {
		return nil, c.refuse(ctx, id, action, object, auth.Administer)
	}
	m, err := c.membership()
	if err != nil {
		return nil, err
	}
	return m, c.record(ctx, id, action, object, id.Project, details)
}

// CreateJoinToken makes a token that lets one host join. Its text is in the answer and nowhere else.
func (c *Controller) CreateJoinToken(ctx context.Context, id auth.Identity, r want.JoinTokenRequest) (want.JoinToken, error) {
	m, err := c.administer(ctx, id, "join_token.create", r.Node, map[string]string{"life": time.Duration(r.Life).String()})
	if err != nil {
		return want.JoinToken{}, err
	}
	return m.CreateJoinToken(ctx, id, r)
}

// JoinTokens lists the join tokens, used ones included.
func (c *Controller) JoinTokens(ctx context.Context, id auth.Identity) ([]want.JoinToken, error) {
	if !id.May(auth.Administer) {
		return nil, c.refuse(ctx, id, "join_token.list", "", auth.Administer)
	}
	m, err := c.membership()
	if err != nil {
		return nil, err
	}
	return m.JoinTokens(ctx)
}

// DeleteJoinToken forgets a join token: nobody joins by it any more.
func (c *Controller) DeleteJoinToken(ctx context.Context, id auth.Identity, tokenID string) error {
	m, err := c.administer(ctx, id, "join_token.delete", tokenID, nil)
	if err != nil {
		return err
	}
	return m.DeleteJoinToken(ctx, tokenID)
}

// Node shows one host.
func (c *Controller) Node(ctx context.Context, id auth.Identity, name string) (want.Node, error) {
	list, err := c.Nodes(ctx, id)
	if err != nil {
		return want.Node{}, err
	}
	for _, n := range list {
		if n.Name == name || n.ID == name {
			return n, nil
		}
	}
	return want.Node{}, &fault.Error{Kind: fault.NotFound, Msg: "no node " + strconv.Quote(name), Hint: "list the nodes to see their names"}
}

// RevokeNode shuts a host out of the fleet. Its captures stay known; it goes on by itself with what it was told, for all that
// anybody can do from here, and nothing that it has can be read any more.
func (c *Controller) RevokeNode(ctx context.Context, id auth.Identity, name string) (want.Node, error) {
	m, err := c.administer(ctx, id, "node.revoke", name, nil)
	if err != nil {
		return want.Node{}, err
	}
	n, err := m.Revoke(ctx, name)
	if err != nil {
		return want.Node{}, err
	}
	c.settle(ctx, func() bool { k := c.nodes[n.ID]; return k == nil || !k.connected })
	return c.Node(ctx, id, n.ID)
}

// ForgetNode removes a host from the fleet, with its captures and recorders: their data is on that host, and nobody asks it
// any more.
func (c *Controller) ForgetNode(ctx context.Context, id auth.Identity, name string) error {
	m, err := c.administer(ctx, id, "node.forget", name, nil)
	if err != nil {
		return err
	}
	n, err := m.Forget(ctx, name)
	if err != nil {
		return err
	}
	return c.orphans(ctx, n.ID, id)
}

// orphans removes what was wanted of a node that is no more.
func (c *Controller) orphans(ctx context.Context, nodeID string, by auth.Identity) error {
	c.mu.Lock()
	var captures []*entry
	for _, e := range c.byNode[nodeID] {
		captures = append(captures, e)
	}
	var recorders []string
	for k, r := range c.recorders {
		if k.nodeID == nodeID {
			recorders = append(recorders, r.path)
		}
	}
	delete(c.nodes, nodeID)
	c.tellNodes()
	c.tell()
	c.mu.Unlock()
	if err := c.forgetPlaces(ctx, nodeID); err != nil {
		return err
	}
	for _, e := range captures {
		if _, err := c.remove(ctx, by, e, "capture.delete"); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	for _, path := range recorders {
		if _, err := c.store.Txn(ctx, nil, []store.Op{store.Delete(path)}); err != nil {
			return storeFault(err)
		}
	}
	return nil
}

// AcceptStore says that what the store holds now is wanted, though agents have taken later revisions: it was put back from a
// copy.
func (c *Controller) AcceptStore(ctx context.Context, id auth.Identity) (want.Epoch, error) {
	m, err := c.administer(ctx, id, "store.accept", "", nil)
	if err != nil {
		return want.Epoch{}, err
	}
	mine := m.Epoch()
	known := map[string]bool{mine.ID: true}
	var others []string
	c.mu.Lock()
	for _, n := range c.nodes { // the copy may be older than the epochs that agents have come to
		if e := n.facts.Epoch; e != "" && !known[e] {
			known[e] = true
			others = append(others, e)
		}
	}
	c.mu.Unlock()
	return m.AcceptStore(ctx, id, others)
}

// followMembers has agents told anew when the store's epoch changes, until ctx ends.
func (c *Controller) followMembers(ctx context.Context) {
	if c.members == nil {
		return
	}
	epoch := c.members.Epoch().ID
	for {
		changed := c.members.Changed()
		if now := c.members.Epoch().ID; now != epoch {
			epoch = now
			c.kickAll()
		}
		for _, id := range c.dropStrangers() {
			if err := c.forgetPlaces(ctx, id); err != nil && ctx.Err() == nil {
				c.log.Warn("cannot forget the devices of a host that was replaced; it is tried again", "node_id", id, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		select { // thousands may be joining
		case <-ctx.Done():
			return
		case <-time.After(membersPause):
		}
	}
}

// membersPause is how long changes of the fleet's members are gathered.
const membersPause = 100 * time.Millisecond

// dropStrangers forgets nodes that were members and are no more, and returns those in whose place another host is: one that
// was made anew and has the name.
func (c *Controller) dropStrangers() (replaced []string) {
	members := make(map[string]bool)
	names := make(map[string]string)
	for _, m := range c.members.Members() {
		members[m.ID] = true
		names[m.Name] = m.ID
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, n := range c.nodes {
		if members[id] {
			n.member = true
		} else if n.member && !n.connected {
			delete(c.nodes, id)
			c.tellNodes()
		}
	}
	c.tell()
	for id, n := range c.taps.nodes {
		if now := names[n.Node]; now != "" && now != id && !members[id] {
			replaced = append(replaced, id)
		}
	}
	return replaced
}

// forgetPlaces forgets what devices a node had that is no more: none of its ports is there.
func (c *Controller) forgetPlaces(ctx context.Context, nodeID string) error {
	_, err := c.store.Txn(ctx, nil, []store.Op{store.Delete(placePrefix + nodeID)})
	return storeFault(err)
}

// enrolled shows what the fleet knows of the nodes, those included that were not seen since this controller started.
func (c *Controller) enrolled(list []want.Node) []want.Node {
	if c.members == nil {
		return list
	}
	at := make(map[string]int, len(list))
	for i := range list {
		at[list[i].ID] = i
	}
	for _, m := range c.members.Members() {
		i, ok := at[m.ID]
		if !ok {
			i = len(list)
			list = append(list, want.Node{Name: m.Name, ID: m.ID, Problems: []string{"its agent has not been seen since this controller started"}})
		}
		n := &list[i]
		n.Enrolled, n.CertificateEnds, n.Revoked = m.Enrolled, m.Ends, m.Revoked
		if !m.Revoked.IsZero() {
			n.Problems = append([]string{"its membership was revoked on " + m.Revoked.Format(time.RFC3339)}, n.Problems...)
		}
	}
	return list
}

func (c *Controller) kickAll() {
	c.mu.Lock()
	all := make([]string, 0, len(c.nodes))
	for id := range c.nodes {
		all = append(all, id)
	}
	c.mu.Unlock()
	for _, id := range all {
		c.hub.Kick(id)
	}
}
