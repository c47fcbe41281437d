package taas

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"reflect"
	"sort"
	"strings"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/tap"
)

// object is a resource as it is shown: attribute → JSON value.
type object = map[string]any

// attribute says where an attribute may be given, as neutron-lib's attribute maps do.
type attribute struct {
	post, put, required bool
	convert             func(v any) (any, error) // nil = a string; an error is the Reason
}

// kind is one sort of resources.
type kind struct {
	name, plural string
	taas         bool // also under /taas
	attributes   map[string]attribute
	loose        bool // attributes that are not known are kept and echoed: Neutron has many for ports that mean nothing here

	list   func(ctx context.Context, id auth.Identity) ([]object, error)
	get    func(ctx context.Context, id auth.Identity, key string) (object, error)
	create func(ctx context.Context, id auth.Identity, list []object) ([]object, error)
	update func(ctx context.Context, id auth.Identity, key string, o object) (object, error)
	remove func(ctx context.Context, id auth.Identity, key string) error
}

// body reads a request body as JSON with exact numbers.
func body(w http.ResponseWriter, r *http.Request) (object, error) {
	b, err := httpapi.ReadBody(w, r)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, badRequest("Body contains invalid data")
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, badRequest("Body contains invalid data")
	}
	o, ok := v.(object)
	if !ok {
		return nil, badRequest("Body contains invalid data")
	}
	return o, nil
}

// unwrap takes a resource out of its envelope.
func (k *kind) unwrap(envelope object) (object, error) {
	v, ok := envelope[k.name]
	if !ok || v == nil {
		return nil, badRequest("Unable to find '%s' in request body", k.name)
	}
	o, ok := v.(object)
	if !ok {
		return nil, badRequest("Object '%s' contains invalid data", k.name)
	}
	return o, nil
}

// check returns the attributes of a POST or PUT with their values converted.
func (k *kind) check(o object, post bool) (object, error) {
	if err := sameProject(o); err != nil {
		return nil, err
	}
	var unknown []string
	for name := range o {
		if _, ok := k.attributes[name]; !ok && !k.loose {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		sort.Strings(unknown)
		return nil, badRequest("Unrecognized attribute(s) '%s'", strings.Join(unknown, ", "))
	}
	for _, name := range sorted(k.attributes) {
		a := k.attributes[name]
		_, given := o[name]
		switch {
		case given && post && !a.post:
			return nil, badRequest("Attribute '%s' not allowed in POST", name)
		case given && !post && !a.put:
			return nil, badRequest("Cannot update read-only attribute %s", name)
		case !given && post && a.required:
			return nil, badRequest("Failed to parse request. Required attribute '%s' not specified", name)
		}
	}
	out := object{}
	for _, name := range sorted(o) {
		convert := k.attributes[name].convert
		if convert == nil {
			convert = asString
		}
		if _, ok := k.attributes[name]; !ok {
			out[name] = o[name]
			continue
		}
		v, err := convert(o[name])
		if err != nil {
			return nil, badRequest("Invalid input for %s. Reason: %s.", name, err)
		}
		out[name] = v
	}
	return out, nil
}

func sorted[T any](m map[string]T) []string {
	out := make([]string, 0, len(m))
	for name := range m {
		out = append(out, name)
	}
	sort.Strings(out)
	return out
}

// sameProject settles which of the two names of a project was used.
func sameProject(o object) error {
	t, hasT := o["tenant_id"]
	p, hasP := o["project_id"]
	switch {
	case hasT && hasP && !reflect.DeepEqual(t, p): // what is no string cannot be compared otherwise, and is refused soon
		return badRequest("'project_id' and 'tenant_id' do not match")
	case hasT:
		o["project_id"] = t
		delete(o, "tenant_id")
	}
	return nil
}

func asString(v any) (any, error) {
	if s, ok := v.(string); ok {
		return s, nil
	}
	return nil, fmt.Errorf("'%s' is not a valid string", python(v))
}

func asUUID(v any) (any, error) {
	if s, ok := v.(string); ok && tap.IsUUID(s) {
		return strings.ToLower(s), nil
	}
	return nil, fmt.Errorf("'%s' is not a valid UUID", python(v))
}

func oneOf(list ...string) func(any) (any, error) {
	return func(v any) (any, error) {
		for _, s := range list {
			if v == s {
				return s, nil
			}
		}
		return nil, fmt.Errorf("'%s' is not in ['%s']", python(v), strings.Join(list, "', '"))
	}
}

// python spells a value as Neutron's messages do.
func python(v any) string {
	switch x := v.(type) {
	case nil:
		return "None"
	case bool:
		if x {
			return "True"
		}
		return "False"
	case string:
		return x
	case json.Number:
		return x.String()
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "?"
	}
	return string(b)
}

// wholeNumber reads an integer, or a string of one; text says that it was a string.
func wholeNumber(v any) (n uint32, text, ok bool) {
	var s string
	switch x := v.(type) {
	case json.Number:
		s = x.String()
	case string:
		s, text = strings.TrimSpace(x), true
	default:
		return 0, false, false
	}
	if len(s) > 32 { // reading many digits takes long
		return 0, false, false
	}
	if i, good := new(big.Int).SetString(s, 10); good && i.IsUint64() && i.Uint64() <= 1<<32-1 {
		return uint32(i.Uint64()), text, true
	}
	return 0, false, false
}

// create serves POST on a collection, of one or in bulk.
func (s *server) create(k kind) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		envelope, err := body(w, r)
		if err != nil {
			return told(err)
		}
		id := httpapi.Identity(r.Context())
		items := []any{nil}
		many, bulk := envelope[k.plural]
		if bulk {
			var ok bool
			if items, ok = many.([]any); !ok || len(items) == 0 {
				return told(badRequest("Resources required"))
			}
		}
		list := make([]object, len(items))
		for i, item := range items {
			var o object
			var ok bool
			switch o, ok = item.(object); {
			case !bulk:
				o, err = k.unwrap(envelope)
			case !ok:
				err = badRequest("Body contains invalid data")
			default:
				if _, wrapped := o[k.name]; wrapped && len(o) == 1 {
					o, err = k.unwrap(o)
				}
			}
			if err == nil {
				list[i], err = k.check(o, true)
			}
			if err != nil {
				return told(err)
			}
			if list[i]["project_id"] == nil && id.Project == "" {
				return told(badRequest("Running without keystone AuthN requires that project_id is specified"))
			}
		}
		made, err := k.create(r.Context(), id, list)
		if err != nil {
			return told(err)
		}
		if bulk {
			return httpapi.WriteJSON(w, http.StatusCreated, object{k.plural: made})
		}
		return httpapi.WriteJSON(w, http.StatusCreated, object{k.name: made[0]})
	}
}

// key returns the id in the path. A name is not found, whatever there is of that name: clients rely on it.
func key(r *http.Request) string { return r.PathValue("id") }

func (s *server) show(k kind) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		q, err := query(r)
		if err != nil {
			return told(err)
		}
		o, err := k.get(r.Context(), httpapi.Identity(r.Context()), key(r))
		if err != nil {
			return told(err)
		}
		return httpapi.WriteJSON(w, http.StatusOK, object{k.name: onlyFields(o, q["fields"])})
	}
}

func (s *server) update(k kind) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		envelope, err := body(w, r)
		if err != nil {
			return told(err)
		}
		o, err := k.unwrap(envelope)
		if err == nil {
			o, err = k.check(o, false)
		}
		if err != nil {
			return told(err)
		}
		id := httpapi.Identity(r.Context())
		if o, err = k.update(r.Context(), id, key(r), o); err != nil {
			return told(s.hidden(r.Context(), id, k, key(r), err))
		}
		return httpapi.WriteJSON(w, http.StatusOK, object{k.name: o})
	}
}

func (s *server) remove(k kind) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if b, err := httpapi.ReadBody(w, r); err != nil {
			return err
		} else if len(b) > 0 {
			return told(badRequest("Request body is not supported in DELETE."))
		}
		id := httpapi.Identity(r.Context())
		if err := k.remove(r.Context(), id, key(r)); err != nil {
			return told(s.hidden(r.Context(), id, k, key(r), err))
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}

// hidden keeps from who may not change a thing whether there is one, unless he may see it.
func (s *server) hidden(ctx context.Context, id auth.Identity, k kind, key string, err error) error {
	if fault.Is(err, fault.Forbidden) {
		if _, seen := k.get(ctx, id, key); seen != nil {
			return &problem{http.StatusNotFound, "HTTPNotFound", "The resource could not be found."}
		}
	}
	return err
}
