package taas

import (
	"net/http"
	"strings"
	"time"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
)

// The part of Keystone's v3 (docs.openstack.org/api-ref/identity/v3) by which the openstack client comes in. Nothing is issued:
// the token that it gives out is the one whose name and text were presented as user and password, or whose id and secret were
// presented as an application credential. It is as good as that token and ends with it.

// tokenShown is how long a client is told that a token is valid which ends only when it is revoked: it asks anew then.
const tokenShown = time.Hour

func identityVersionOf(r *http.Request) object {
	return object{
		"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
		"links":       []object{{"rel": "self", "href": endpoint(r) + "/identity/v3/"}},
		"media-types": []object{{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}},
	}
}

func (s *server) identityVersions(w http.ResponseWriter, r *http.Request) error {
	return httpapi.WriteJSON(w, http.StatusMultipleChoices, object{"versions": object{"values": []object{identityVersionOf(r)}}})
}

func (s *server) identityVersion(w http.ResponseWriter, r *http.Request) error {
	return httpapi.WriteJSON(w, http.StatusOK, object{"version": identityVersionOf(r)})
}

// member walks into nested objects; nil when there is nothing of that name.
func member(o object, names ...string) any {
	var v any = o
	for _, n := range names {
		m, ok := v.(object)
		if !ok {
			return nil
		}
		v = m[n]
	}
	return v
}

func memberText(o object, names ...string) string {
	s, _ := member(o, names...).(string)
	return s
}

// issueToken serves POST /auth/tokens.
func (s *server) issueToken(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("X-Openstack-Request-Id", "req-"+httpapi.RequestID(r.Context()))
	ask, err := body(w, r)
	if err != nil {
		return told(err)
	}
	methods, _ := member(ask, "auth", "identity", "methods").([]any)
	if len(methods) != 1 {
		return told(badRequest("one method is needed: password, application_credential or token"))
	}
	method, _ := methods[0].(string)
	var token, user string
	switch method {
	case "password":
		user = memberText(ask, "auth", "identity", "password", "user", "name")
		if user == "" {
			user = memberText(ask, "auth", "identity", "password", "user", "id")
		}
		token = memberText(ask, "auth", "identity", "password", "user", "password")
	case "application_credential":
		c, _ := member(ask, "auth", "identity", "application_credential").(object)
		if id := memberText(c, "id"); id != "" {
			token = credentialText(id, memberText(c, "secret"))
		} else {
			user, token = memberText(c, "name"), memberText(c, "secret")
		}
	case "token":
		token = memberText(ask, "auth", "identity", "token", "id")
	default:
		return told(badRequest("the method %q is not known here: use password, application_credential or token", method))
	}
	if token == "" {
		return fault.New(fault.Unauthenticated, "The request you have made requires authentication.")
	}
	id, err := s.keys.Authenticate(r.Context(), token, httpapi.Remote(r))
	if err == nil && user != "" && !strings.EqualFold(user, id.Name) {
		err = fault.New(fault.Unauthenticated, "The request you have made requires authentication.")
	}
	if err != nil {
		httpapi.Denied(r, err)
		return err
	}
	for _, key := range []string{"id", "name"} {
		if p := memberText(ask, "auth", "scope", "project", key); p != "" && p != id.Project {
			return fault.New(fault.Unauthenticated, "the token %q is of the project %q, not of %q", id.Name, id.Project, p)
		}
	}
	w.Header().Set("X-Subject-Token", token)
	w.Header().Set("Vary", "X-Auth-Token")
	return httpapi.WriteJSON(w, http.StatusCreated, object{"token": s.tokenBody(r, id, token, method)})
}

// credentialText puts a token together from its id and its secret; a whole token as secret is one too.
func credentialText(id, secret string) string {
	if strings.HasPrefix(secret, "ot_") {
		return secret
	}
	return "ot_" + strings.TrimPrefix(id, "ot_") + "_" + secret
}

var domain = object{"id": "default", "name": "Default"}

func (s *server) tokenBody(r *http.Request, id auth.Identity, token, method string) object {
	now := time.Now().UTC()
	ends := s.keys.Expiry(token)
	if ends.IsZero() || ends.After(now.Add(tokenShown)) {
		ends = now.Add(tokenShown)
	}
	const stamp = "2006-01-02T15:04:05.000000Z"
	return object{
		"methods": []string{method}, "issued_at": now.Format(stamp), "expires_at": ends.UTC().Format(stamp), "audit_ids": []string{httpapi.RequestID(r.Context())}, "is_domain": false,
		"user":    object{"id": id.Name, "name": id.Name, "domain": domain, "password_expires_at": nil},
		"project": object{"id": id.Project, "name": id.Project, "domain": domain}, "roles": rolesOf(id), "catalog": catalog(r),
	}
}

// rolesOf spells rights as OpenStack's default roles.
func rolesOf(id auth.Identity) []object {
	out := []object{}
	for _, x := range []struct {
		name  string
		right auth.Right
	}{{"reader", auth.SeeMetadata}, {"member", auth.Start}, {"admin", auth.Administer}} {
		if id.May(x.right) {
			out = append(out, object{"id": x.name, "name": x.name})
		}
	}
	return out
}

func catalog(r *http.Request) []object {
	entry := func(kind, name, url string) object {
		var points []object
		for _, face := range []string{"public", "internal", "admin"} {
			points = append(points, object{"id": kind + "-" + face, "interface": face, "region": "RegionOne", "region_id": "RegionOne", "url": url})
		}
		return object{"id": kind, "type": kind, "name": name, "endpoints": points}
	}
	e := endpoint(r)
	return []object{entry("network", "neutron", e), entry("identity", "keystone", e+"/identity/v3")}
}

// showToken serves GET /auth/tokens, by which a service looks at a client's token. One looks at one's own here.
func (s *server) showToken(w http.ResponseWriter, r *http.Request) error {
	token := httpapi.Credential(r.Context())
	if x := r.Header.Get("X-Subject-Token"); x != "" && x != token {
		return fault.New(fault.Forbidden, "only one's own token is shown")
	}
	w.Header().Set("X-Subject-Token", token)
	return httpapi.WriteJSON(w, http.StatusOK, object{"token": s.tokenBody(r, httpapi.Identity(r.Context()), token, "token")})
}

func (s *server) showCatalog(w http.ResponseWriter, r *http.Request) error {
	return httpapi.WriteJSON(w, http.StatusOK, object{"catalog": catalog(r), "links": object{"self": endpoint(r) + r.URL.Path}})
}

func showProject(r *http.Request, name string) object {
	return object{
		"id": name, "name": name, "domain_id": "default", "parent_id": "default", "enabled": true, "is_domain": false, "description": "", "tags": []any{},
		"links": object{"self": endpoint(r) + "/identity/v3/projects/" + name},
	}
}

func (s *server) projects(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r)
	if err != nil {
		return told(err)
	}
	names, err := s.ctl.Projects(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	list := []object{}
	for _, n := range names {
		if asked := q.Get("name"); asked == "" || asked == n {
			list = append(list, showProject(r, n))
		}
	}
	return httpapi.WriteJSON(w, http.StatusOK, object{"projects": list, "links": object{"self": endpoint(r) + r.URL.Path, "previous": nil, "next": nil}})
}

func (s *server) project(w http.ResponseWriter, r *http.Request) error {
	names, err := s.ctl.Projects(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	for _, n := range names {
		if n == key(r) {
			return httpapi.WriteJSON(w, http.StatusOK, object{"project": showProject(r, n)})
		}
	}
	return told(&problem{http.StatusNotFound, "Not Found", "Could not find project: " + key(r) + "."})
}
