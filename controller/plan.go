package controller

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"opentap/auth"
	"opentap/fault"
	"opentap/filter"
	"opentap/point"
	"opentap/want"
)

// SensorKinds are the capture kinds that name a quantity of sensors, as the first OpenTap had them.
var SensorKinds = []string{"temperature", "motion", "vibration"}

// Bounds of a request.
const (
	maxIDBytes  = 200
	maxPoints   = 64
	maxFilter   = 16 << 10
	minSnap     = 34 // Ethernet and IPv4 headers
	maxSnap     = 256 << 10
	minPeriod   = 10 * time.Millisecond
	maxPeriod   = 24 * time.Hour
	slack       = 2 * time.Second      // clocks differ: a start this little in the past is now
	farthest    = 366 * 24 * time.Hour // a window does not begin later than this from now
	defPeriod   = time.Second
	maxRetained = 100 * 366 * 24 * time.Hour
)

// plan turns a request into what is stored: names resolved, defaults filled in, everything checked that can be.
func (c *Controller) plan(id auth.Identity, r want.Request, now time.Time) (*stored, error) {
	s := &stored{Request: r}
	k := &s.Capture
	k.UID, k.Project, k.Owner, k.Created = newUID(), id.Project, id.Name, now
	if err := planKind(k, r); err != nil {
		return nil, err
	}
	if err := planID(k, r); err != nil {
		return nil, err
	}
	if err := c.planPoints(id, s, r); err != nil {
		return nil, err
	}
	if err := c.planWindow(s, r, now); err != nil {
		return nil, err
	}
	if err := planPackets(k, r); err != nil {
		return nil, err
	}
	if err := planStored(k); err != nil {
		return nil, err
	}
	if err := planPeriod(k, r); err != nil {
		return nil, err
	}
	return s, c.planRetention(k, r)
}

func planKind(k *want.Capture, r want.Request) error {
	switch {
	case r.Kind == want.Packets || r.Kind == want.Flows || r.Kind == want.Counters || r.Kind == want.Sensor:
		k.Kind = r.Kind
	case slices.Contains(SensorKinds, string(r.Kind)):
		k.Kind, k.Quantity = want.Sensor, string(r.Kind)
	default:
		return &fault.Error{
			Kind: fault.Invalid, Field: "kind", Msg: "unknown kind " + strconv.Quote(string(r.Kind)),
			Hint: "use pcap, netflow, ethernet, sensor, " + join(SensorKinds),
		}
	}
	return nil
}

func planID(k *want.Capture, r want.Request) error {
	if k.ID = r.ID; k.ID == "" {
		k.ID = newID(r.Kind)
	}
	if len(k.ID) > maxIDBytes {
		return fault.Field("id", "is %d octets long, at most %d are kept", len(k.ID), maxIDBytes)
	}
	if !utf8.ValidString(k.ID) {
		return fault.Field("id", "is not UTF-8")
	}
	for _, ch := range k.ID {
		if !unicode.IsPrint(ch) {
			return fault.Field("id", "has a character that cannot be shown: %U", ch)
		}
	}
	return nil
}

// planPoints resolves the names. All points of a capture are on one node.
func (c *Controller) planPoints(id auth.Identity, s *stored, r want.Request) error {
	names := r.Points
	if len(names) == 0 {
		names = []string{""}
	}
	if len(names) > maxPoints {
		return fault.Field("points", "names %d points, a capture has at most %d", len(names), maxPoints)
	}
	k := &s.Capture
	set := c.setFor(id)
	sensor := k.Kind == want.Sensor
	for _, name := range names {
		var p point.Point
		var err error
		if sensor && (name == "" || name == "0") {
			p, err = firstSensor(set.Points(), k.Quantity)
		} else {
			p, err = set.Resolve(name)
		}
		if err != nil {
			var f *fault.Error
			if errors.As(err, &f) && f.Field == "" {
				f.Field = "points"
			}
			return err
		}
		if err := usable(k, p); err != nil {
			return err
		}
		if exporter := p.Kind == point.Exporter; len(k.Query.Points) > 0 && exporter != k.Stored {
			return fault.Field("points", "%s and %s: a capture takes exporters or devices, not both", k.Query.Points[0], p.Name)
		} else {
			k.Stored = exporter
		}
		if s.Node != "" && s.Node != p.Node {
			return fault.Field("points", "%s is on node %s and %s on node %s; a capture takes points of one node", k.Query.Points[0], s.Node, p.Name, p.Node)
		}
		s.Node = p.Node
		if slices.Contains(k.Query.Points, p.Name) {
			return fault.Field("points", "%q names %s, which is there already", name, p.Name)
		}
		k.Query.Points = append(k.Query.Points, p.Name)
	}
	if len(k.Query.Points) > 1 && k.Kind != want.Packets && k.Kind != want.Flows {
		return fault.Field("points", "a capture of kind %s takes one point", k.Kind)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for nodeID, n := range c.nodes {
		if n.id.NodeName == s.Node {
			s.NodeID = nodeID
			if !n.connected {
				return &fault.Error{Kind: fault.Unavailable, Msg: "node " + s.Node + " is not connected", RetryAfter: 5 * time.Second}
			}
			if why := n.facts.Missing[string(k.Kind)]; why != "" {
				return fault.New(fault.Unsupported, "%s cannot be captured on node %s: %s", k.Kind, s.Node, why)
			}
		}
	}
	return nil
}

func firstSensor(points []point.Point, quantity string) (point.Point, error) {
	what := "sensor"
	if quantity != "" {
		what = quantity + " sensor"
	}
	for _, p := range points {
		if p.Kind == point.Sensor && p.Present && (quantity == "" || p.Quantity == quantity) {
			return p, nil
		}
	}
	return point.Point{}, &fault.Error{
		Kind: fault.Unsupported, Msg: "no node has a " + what,
		Hint: "ask for the capabilities to see what can be captured here",
	}
}

func usable(k *want.Capture, p point.Point) error {
	if (k.Kind == want.Sensor) != (p.Kind == point.Sensor) || p.Kind == point.Exporter && k.Kind != want.Flows {
		return fault.Field("points", "%s is a %s, which gives no %s data", p.Name, p.Kind, k.Kind)
	}
	if k.Quantity != "" && p.Quantity != k.Quantity {
		return fault.Field("points", "%s measures %s, not %s", p.Name, p.Quantity, k.Quantity)
	}
	if !p.Present {
		return &fault.Error{Kind: fault.Unavailable, Field: "points", Msg: p.Name + " is not there now", RetryAfter: 5 * time.Second}
	}
	if (k.Kind == want.Packets || k.Kind == want.Flows) && p.NoPcap != "" && p.Kind != point.Exporter {
		return fault.New(fault.Unsupported, "no packets can be captured at %s: %s", p.Name, p.NoPcap)
	}
	return nil
}

// planWindow decides From and To.
func (c *Controller) planWindow(s *stored, r want.Request, now time.Time) error {
	k := &s.Capture
	from, to := r.From.UTC(), r.To.UTC()
	if r.Duration < 0 {
		return fault.Field("duration", "is negative")
	}
	if r.Duration > 0 && !to.IsZero() {
		return fault.Field("duration", "is given together with to; give one of them")
	}
	if from.IsZero() {
		from = now
	}
	if r.Duration > 0 {
		to = from.Add(time.Duration(r.Duration))
	}
	if !to.IsZero() && !to.After(from) {
		return fault.Field("to", "the end %s is not after the start %s", to.Format(time.RFC3339), from.Format(time.RFC3339))
	}
	if from.After(now.Add(farthest)) {
		return fault.Field("from", "begins more than a year from now")
	}
	if from.Before(time.Unix(0, 0)) {
		return fault.Field("from", "is before 1970, and so is no packet")
	}
	if to.After(now.Add(maxRetained)) {
		return fault.Field("to", "is more than a hundred years from now; leave it out to capture until it is stopped")
	}
	if from.Before(now) {
		since := c.recordedSince(s)
		switch {
		case k.Stored:
			k.Note = "answered from the flow records that were kept of " + join(k.Query.Points)
		case since.IsZero() && k.Kind == want.Flows && c.storesFlows(s):
			k.Stored = true
			k.Note = "answered from the flow records that were kept of " + join(k.Query.Points)
		case !since.IsZero():
			k.Recorded = true
			k.Note = "answered from the recording of " + join(k.Query.Points)
			if from.Before(since) {
				k.Note += fmt.Sprintf(", which goes back to %s only", since.Format(time.RFC3339))
			}
			if terms := c.recorderTerms(s); terms != "" {
				k.Note = appendNote(k.Note, terms)
			}
		case !to.IsZero() && !to.After(now):
			return &fault.Error{
				Kind: fault.Invalid, Field: "to", Msg: "the end " + to.Format(time.RFC3339) + " is in the past, and nothing was recorded there",
				Hint: "the past can be had at points that have a recorder",
			}
		case from.After(now.Add(-slack)):
			from = now
		case r.MovePast:
			k.Note = "start time " + from.Format(time.RFC3339) + " is in the past and was not recorded; moved to now"
			from = now
		default:
			return &fault.Error{
				Kind: fault.Invalid, Field: "from", Msg: "the start " + from.Format(time.RFC3339) + " is in the past, and nothing was recorded there",
				Hint: "start now, or configure a recorder for the point",
			}
		}
	}
	if limit := time.Duration(c.limits(k.Project).MaxDuration); limit > 0 {
		if to.IsZero() {
			to = from.Add(limit)
			k.Note = appendNote(k.Note, "ends after "+limit.String()+", the longest capture allowed here")
		} else if to.Sub(from) > limit {
			return fault.Field("duration", "is %s, the longest capture allowed here is %s", to.Sub(from), limit)
		}
	}
	k.Query.From, k.Query.To = from, to
	return nil
}

func appendNote(note, more string) string {
	if note == "" {
		return more
	}
	return note + "; " + more
}

// recordedSince returns since when all of the capture's points have been recorded, for kinds made from packets; zero =
// not at all.
func (c *Controller) recordedSince(s *stored) time.Time {
	if s.Capture.Kind != want.Packets && s.Capture.Kind != want.Flows {
		return time.Time{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[s.NodeID]
	if n == nil {
		return time.Time{}
	}
	var latest time.Time
	for _, name := range s.Capture.Query.Points {
		since, ok := n.facts.Recorders[name]
		if !ok {
			return time.Time{}
		}
		if since.After(latest) {
			latest = since
		}
	}
	return latest
}

// recorderTerms says what the recorders of the capture's points leave out now; "" = nothing. What they left out at the time
// is told by the agent, which has it.
func (c *Controller) recorderTerms(s *stored) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, name := range s.Capture.Query.Points {
		v := c.recorderView(recorderKey{s.NodeID, name})
		if v == nil {
			continue
		}
		if v.Filter != "" {
			all = append(all, fmt.Sprintf("%s keeps only %q", name, v.Filter))
		}
		if v.Snap != 0 {
			all = append(all, fmt.Sprintf("%s keeps %d octets of each packet", name, v.Snap))
		}
		for _, g := range v.Status.Gaps {
			if g.To.IsZero() {
				all = append(all, "nothing is seen now: "+g.Reason)
			}
		}
	}
	return strings.Join(all, "; ")
}

// planPackets takes over what concerns packets, and refuses it where there are none.
func planPackets(k *want.Capture, r want.Request) error {
	q := &k.Query
	q.Filter, q.Strict, q.Limits, q.Snap = r.Filter, r.Strict, r.Limits, r.Snap
	if k.Kind != want.Packets && k.Kind != want.Flows {
		for field, given := range map[string]bool{"filter": q.Filter != "", "strict": q.Strict, "limits": q.Limits != (filter.Limits{}), "snap": q.Snap != 0} {
			if given {
				return fault.Field(field, "means nothing for a capture of kind %s", k.Kind)
			}
		}
		return nil
	}
	if q.Snap != 0 && k.Kind == want.Flows {
		return fault.Field("snap", "means nothing for flow records: they count what was on the wire")
	}
	if q.Snap != 0 && (q.Snap < minSnap || q.Snap > maxSnap) {
		return fault.Field("snap", "is %d octets; it can be %d to %d, or left out for whole packets", q.Snap, minSnap, maxSnap)
	}
	if q.Filter == "" {
		return nil
	}
	_, err := parseFilter(q.Filter, q.Strict)
	return err
}

func planPeriod(k *want.Capture, r want.Request) error {
	if k.Kind != want.Counters && k.Kind != want.Sensor {
		if r.Period != 0 {
			return fault.Field("period", "means nothing for a capture of kind %s", k.Kind)
		}
		return nil
	}
	k.Period = r.Period
	if k.Period == 0 {
		k.Period = want.Duration(defPeriod)
	}
	if d := time.Duration(k.Period); d < minPeriod || d > maxPeriod {
		return fault.Field("period", "is %s; it can be %s to %s", d, minPeriod, maxPeriod)
	}
	return nil
}

func (c *Controller) planRetention(k *want.Capture, r want.Request) error {
	k.Retain = r.Retain
	if k.Retain < 0 {
		return fault.Field("retain", "is negative")
	}
	most := time.Duration(c.limits(k.Project).MaxRetain)
	if k.Retain == 0 {
		k.Retain = want.Duration(c.cfg.Retention)
		if most > 0 {
			k.Retain = min(k.Retain, want.Duration(most))
		}
	}
	if most > 0 && time.Duration(k.Retain) > most {
		return fault.Field("retain", "is %s, the longest retention allowed here is %s", time.Duration(k.Retain), most)
	}
	if time.Duration(k.Retain) > maxRetained {
		return fault.Field("retain", "is more than a hundred years")
	}
	return nil
}
