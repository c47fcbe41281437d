package taas

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"opentap/api/httpapi"
)

// maxPage bounds what one answer lists when the client asks for pages.
const maxPage = 10_000

func query(r *http.Request) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("The query string is not well-formed")
	}
	if v, ok := q["tenant_id"]; ok { // a synonym
		q["project_id"] = append(q["project_id"], v...)
	}
	return q, nil
}

// list serves GET on a collection: filters, then order, then a page, then fields.
func (s *server) list(k kind) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		q, err := query(r)
		if err != nil {
			return told(err)
		}
		all, err := k.list(r.Context(), httpapi.Identity(r.Context()))
		if err != nil {
			return told(err)
		}
		all = filtered(all, q)
		if err := sortBy(k, all, q); err != nil {
			return told(err)
		}
		page, links, err := pageOf(k, all, r, q)
		if err != nil {
			return told(err)
		}
		out := make([]object, len(page))
		for i, o := range page {
			out[i] = onlyFields(o, q["fields"])
		}
		answer := object{k.plural: out}
		if len(links) > 0 {
			answer[k.plural+"_links"] = links
		}
		return httpapi.WriteJSON(w, http.StatusOK, answer)
	}
}

// filtered keeps what fits: one of the values of an attribute, and all attributes. What is no attribute is no filter.
func filtered(all []object, q url.Values) []object {
	return slices.DeleteFunc(all, func(o object) bool {
		for name, values := range q {
			v, ok := o[name]
			if !ok || name == "tenant_id" || name == "fields" {
				continue
			}
			asked, fits := false, false
			for _, want := range values {
				if want == "" {
					continue
				}
				asked = true
				fits = fits || equal(v, want) || name == "name" && called(o, want)
			}
			if asked && !fits {
				return true
			}
		}
		return false
	})
}

// called reports whether a port has a further name: on several hosts there may be an eth1, so that a port is also
// found by its node's name and its own. It is then shown by the name that was asked for, since clients compare.
func called(o object, name string) bool {
	also, _ := o[alsoCalled].([]string)
	if slices.Contains(also, name) {
		o["name"] = name
		return true
	}
	return false
}

// alsoCalled is an attribute that is not shown.
const alsoCalled = "\x00also"

func equal(v any, want string) bool {
	switch x := v.(type) {
	case string:
		return x == want
	case nil:
		return strings.EqualFold(want, "none") || want == "null"
	case bool:
		b, err := strconv.ParseBool(strings.ToLower(want))
		return err == nil && b == x
	}
	b, err := json.Marshal(v)
	return err == nil && string(b) == want
}

// sortBy orders by sort_key and sort_dir, which come in pairs. Without them the order is that of creation.
func sortBy(k kind, all []object, q url.Values) error {
	keys, dirs := q["sort_key"], q["sort_dir"]
	if len(keys) != len(dirs) {
		return badRequest("The number of sort_keys and sort_dirs must be same")
	}
	var bad []string
	for _, name := range keys {
		if a, ok := k.attributes[name]; !ok && name != "tenant_id" || a.convert != nil && name == "directions" {
			bad = append(bad, name)
		}
	}
	if len(bad) > 0 {
		return badRequest("['%s'] is invalid attribute for sort_keys", strings.Join(bad, "', '"))
	}
	for _, d := range dirs {
		if d != "asc" && d != "desc" {
			return badRequest("['%s'] is invalid value for sort_dirs, valid value is 'asc' and 'desc'", d)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	slices.SortStableFunc(all, func(a, b object) int {
		for i, name := range keys {
			x, _ := a[name].(string)
			y, _ := b[name].(string)
			if c := cmp.Compare(x, y); c != 0 {
				if dirs[i] == "desc" {
					return -c
				}
				return c
			}
		}
		return 0
	})
	return nil
}

// pageOf cuts out the page that limit, marker and page_reverse ask for, with links to the ones beside it.
func pageOf(k kind, all []object, r *http.Request, q url.Values) ([]object, []object, error) {
	limit := 0
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return nil, nil, &problem{http.StatusBadRequest, "BadRequest", "Bad limit request: Limit must be an integer 0 or greater and not '" + text + "'."}
		}
		limit = min(n, maxPage)
	}
	if limit == 0 {
		return all, nil, nil
	}
	reverse := slices.Contains([]string{"true", "1", "yes"}, strings.ToLower(q.Get("page_reverse")))
	from, to := 0, len(all)
	if marker := q.Get("marker"); marker != "" {
		at := slices.IndexFunc(all, func(o object) bool { return o["id"] == marker })
		switch {
		case at < 0:
			from, to = 0, 0
		case reverse:
			to = at
		default:
			from = at + 1
		}
	}
	if reverse {
		from = max(from, to-limit)
	} else {
		to = min(to, from+limit)
	}
	page := all[from:to]
	var links []object
	add := func(rel string, at int, reversed bool) {
		n := url.Values{}
		for name, values := range q {
			if name != "marker" && name != "page_reverse" && (name != "project_id" || r.URL.Query().Has("project_id")) {
				n[name] = values
			}
		}
		if len(page) > 0 {
			id, _ := page[at]["id"].(string)
			n.Set("marker", id)
		}
		if reversed {
			n.Set("page_reverse", "True")
		}
		links = append(links, object{"rel": rel, "href": endpoint(r) + r.URL.Path + "?" + n.Encode()})
	}
	if len(page) == limit || reverse {
		add("next", len(page)-1, false)
	}
	if !reverse || len(page) == limit {
		add("previous", 0, true)
	}
	return page, links, nil
}

// onlyFields returns the attributes that were asked for, or all.
func onlyFields(o object, fields []string) object {
	out := object{}
	for name, v := range o {
		if name != alsoCalled && (len(fields) == 0 || slices.Contains(fields, name) || slices.Equal(fields, []string{""})) {
			out[name] = v
		}
	}
	return out
}
