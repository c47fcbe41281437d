package taas

import (
	"net/http"
	"strings"

	"opentap/api/httpapi"
)

// extension is what Neutron says of one.
type extension struct {
	Alias       string   `json:"alias"`
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Updated     string   `json:"updated"`
	Links       []string `json:"links"`
}

var extensions = []extension{
	{"taas", "Neutron Tap as a Service", "Neutron Tap as a Service Extension.", "2015-01-14T10:00:00-00:00", []string{}},
	{"taas-vlan-filter", "VLAN filtering for Neutron Tap as a Service", "Filters the VLANs that a tap flow mirrors.", "2018-01-14T10:00:00-00:00", []string{}},
	{"tap-mirror", "Tap as a Service GRE or ERSPAN mirror", "Mirrors a port to an address by GRE or ERSPAN.", "2023-05-05T11:45:00-00:00", []string{}},
	{"tap-mirror-both-direction", "Tap as a Service mirror with BOTH direction support", "Mirrors both directions in one tunnel.", "2025-12-15T11:45:00-00:00", []string{}},
	{"sorting", "Sorting support", "Provides sorting support.", "2013-02-03T10:00:00-00:00", []string{}},
	{"pagination", "Pagination support", "Provides pagination support.", "2013-02-03T10:00:00-00:00", []string{}},
	{"project-id", "project_id field enabled", "Allows that project_id field is used in API requests.", "2016-09-09T09:09:09-09:09", []string{}},
	{"binding", "Port Binding", "Expose port bindings of a virtual port to external application.", "2014-02-03T10:00:00-00:00", []string{}},
}

func (s *server) extensions(w http.ResponseWriter, _ *http.Request) error {
	return httpapi.WriteJSON(w, http.StatusOK, object{"extensions": extensions})
}

func (s *server) extension(w http.ResponseWriter, r *http.Request) error {
	for _, e := range extensions {
		if e.Alias == key(r) {
			return httpapi.WriteJSON(w, http.StatusOK, object{"extension": e})
		}
	}
	return told(&problem{404, "HTTPNotFound", "Extension with alias " + key(r) + " does not exist"})
}

// resources is what Neutron says under /v2.0/.
func (s *server) resources(w http.ResponseWriter, r *http.Request) error {
	var list []object
	for _, k := range s.kinds() {
		path := "/v2.0/"
		if k.taas {
			path += "taas/"
		}
		list = append(list, object{"name": k.name, "collection": k.plural, "links": []object{{"rel": "self", "href": endpoint(r) + path + k.plural}}})
	}
	return httpapi.WriteJSON(w, http.StatusOK, object{"resources": list})
}

func versionOf(r *http.Request) object {
	return object{"id": "v2.0", "status": "CURRENT", "links": []object{{"rel": "self", "href": endpoint(r) + "/v2.0/"}}}
}

// version is what clients ask for that were told /v2.0.
func (s *server) version(w http.ResponseWriter, r *http.Request) error {
	return httpapi.WriteJSON(w, http.StatusOK, object{"version": versionOf(r)})
}

// fromOpenStack reports whether an OpenStack client asks: they all say by which library they speak.
func fromOpenStack(r *http.Request) bool {
	agent := strings.ToLower(r.Header.Get("User-Agent"))
	for _, word := range []string{"keystoneauth", "openstack", "neutronclient", "gophercloud", "tempest"} {
		if strings.Contains(agent, word) {
			return true
		}
	}
	return false
}

// WithVersions has the root of a door tell OpenStack's clients which versions of Neutron's interface there are, without
// asking who they are; it stays what it is for everybody else.
func WithVersions(d httpapi.Door) httpapi.Door {
	for i := range d.Routes {
		rt := &d.Routes[i]
		if rt.Path != "/{$}" || rt.Method != http.MethodGet {
			continue
		}
		serve, openFor := rt.Serve, rt.OpenFor
		rt.OpenFor = func(r *http.Request) bool { return fromOpenStack(r) || openFor != nil && openFor(r) }
		rt.Serve = func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Add("Vary", "User-Agent")
			if !fromOpenStack(r) {
				return serve(w, r)
			}
			return httpapi.WriteJSON(w, http.StatusOK, object{"versions": []object{versionOf(r)}})
		}
	}
	return d
}
