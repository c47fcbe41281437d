package v1

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"slices"
	"strings"
	"time"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/tap"
	"opentap/want"
)

// maxPage is how many things a page can have.
const maxPage = 10_000

// page is the part of a list that a request asks for: what comes after a thing, and how much of it. The zero page is all.
type page struct {
	limit int    // 0 = as many as there are
	after string // the key of the last thing of the page before
}

// page reads the parameters limit and page_token of a list. A token spells the key of the last thing that was shown: what comes and goes
// between two pages shifts nothing, and a thing that has gone is no hole.
func (a *asked) page(plural string) page {
	p := page{limit: a.int("limit", 0, maxPage)}
	if a.err == nil && p.limit == 0 && a.q.Get("limit") != "" {
		a.err = fault.Field("limit", "is 0; it can be from 1 to %d", maxPage)
	}
	if token := a.q.Get("page_token"); token != "" && a.err == nil {
		b, err := base64.RawURLEncoding.DecodeString(token)
		of, key, ok := strings.Cut(string(b), "\x00")
		if err != nil || !ok || of != plural {
			a.err = fault.Field("page_token", "is none that this list gave as next")
			return p
		}
		p.after = key
	}
	return p
}

// cut puts things into the order of their keys, which are not empty, and returns those of the page, and the token of the next one; "" = there is none.
func cut[V any](p page, plural string, key func(*V) string, all []V) (shown []V, next string) {
	type keyed struct {
		key string
		at  int
	}
	order := make([]keyed, 0, len(all))
	for i := range all {
		if k := key(&all[i]); k > p.after {
			order = append(order, keyed{k, i})
		}
	}
	slices.SortStableFunc(order, func(a, b keyed) int { return cmp.Compare(a.key, b.key) })
	if p.limit > 0 && len(order) > p.limit {
		order = order[:p.limit]
		next = base64.RawURLEncoding.EncodeToString([]byte(plural + "\x00" + order[p.limit-1].key))
	}
	shown = make([]V, len(order))
	for i, o := range order {
		shown[i] = all[o.at]
	}
	return shown, next
}

// writePage answers with a page of a list: an object with the things, and next where there are more.
func writePage[V any](w http.ResponseWriter, p page, plural string, key func(*V) string, all []V) error {
	shown, next := cut(p, plural, key, all)
	body := map[string]any{plural: shown}
	if next != "" {
		body["next"] = next
	}
	return httpapi.WriteJSON(w, http.StatusOK, body)
}

// list serves things of one sort, in the order of their keys.
func list[V any](plural string, key func(*V) string, all func(context.Context, auth.Identity) ([]V, error)) serve {
	return func(w http.ResponseWriter, r *http.Request) error {
		a := ask(r, "limit", "page_token")
		p := a.page(plural)
		if a.err != nil {
			return a.err
		}
		list, err := all(r.Context(), httpapi.Identity(r.Context()))
		if err != nil {
			return err
		}
		return writePage(w, p, plural, key, list)
	}
}

// The keys by which lists are ordered. Each thing has one of its own; parts of a key are apart by an octet that no name has.

func pointKey(p *point.Point) string          { return join(p.Node, string(p.Kind), p.Name) }
func nodeKey(n *want.Node) string             { return join(n.Name, n.ID) }
func captureKey(v *want.View) string          { return newest(v.Created) + v.UID }
func tokenKey(t *want.Token) string           { return join(t.Name, t.ID) }
func joinTokenKey(t *want.JoinToken) string   { return newest(t.Created) + t.ID }
func recorderKey(v *want.RecorderView) string { return join(v.Node, v.Point) }
func projectKey(p *want.Project) string       { return p.Name }
func ruleKey(r *want.Rule) string             { return join(r.Name, r.Project) }
func webhookKey(h *want.WebhookStatus) string { return h.Name }
func detectionKey(d *want.Detection) string   { return newest(d.Began) + d.ID }
func driftKey(d *want.FabricDrift) string     { return oldest(d.Time) + join(d.Switch, d.Kind, d.Text) }
func serviceKey(v *tap.ServiceView) string    { return oldest(v.Created) + v.ID }
func flowKey(v *tap.FlowView) string          { return oldest(v.Created) + v.ID }
func mirrorKey(v *tap.MirrorView) string      { return oldest(v.Created) + v.ID }
func portKey(v *tap.PortView) string          { return join(v.Node, v.Name, v.ID) }

func join(parts ...string) string { return strings.Join(parts, "\x00") }

// oldest spells a time so that the texts of earlier ones come first.
func oldest(t time.Time) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(t.Unix())^1<<63)
	return string(binary.BigEndian.AppendUint32(b, uint32(t.Nanosecond())))
}

// newest spells a time so that the texts of later ones come first.
func newest(t time.Time) string {
	b := []byte(oldest(t))
	for i := range b {
		b[i] = ^b[i]
	}
	return string(b)
}
