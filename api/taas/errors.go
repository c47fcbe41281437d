package taas

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"opentap/api/httpapi"
	"opentap/fault"
	"opentap/tap"
)

// problem is an error in Neutron's words, found by the door itself.
type problem struct {
	status       int
	class, words string
}

func (p *problem) Error() string { return p.class + ": " + p.words }

func badRequest(format string, args ...any) error {
	return &problem{http.StatusBadRequest, "HTTPBadRequest", fmt.Sprintf(format, args...)}
}

// neutronError is the body of an error: NeutronError, or another word for what is not implemented.
type neutronError struct {
	Type    string `json:"type"`
	Message string `json:"message"`
	Detail  string `json:"detail"`
}

// fail tells an error in Neutron's shape.
func fail(w http.ResponseWriter, r *http.Request, p httpapi.Problem) {
	w.Header().Set("X-Openstack-Request-Id", "req-"+p.RequestID)
	if p.Fault.Kind == fault.Unauthenticated {
		failIdentity(w, r, p)
		return
	}
	status, class, words := inNeutronsWords(p)
	key := "NeutronError"
	if status == http.StatusNotImplemented {
		key = "NotImplementedError"
	}
	_ = httpapi.WriteJSON(w, status, map[string]neutronError{key: {class, words, ""}})
}

// inNeutronsWords finds the exception that Neutron would have raised.
func inNeutronsWords(p httpapi.Problem) (status int, class, words string) {
	var own *problem
	if errors.As(p.Fault.Err, &own) {
		return own.status, own.class, own.words
	}
	var r *tap.Refusal
	if errors.As(p.Fault.Err, &r) {
		if status, class, words := ofRefusal(p, r); class != "" {
			return status, class, words
		}
	}
	switch p.Status {
	case http.StatusNotFound:
		return p.Status, "HTTPNotFound", "The resource could not be found."
	case http.StatusMethodNotAllowed:
		return p.Status, "HTTPMethodNotAllowed", "The method is not allowed for this resource."
	case http.StatusForbidden:
		return p.Status, "HTTPForbidden", httpapi.Text(p.Fault)
	case http.StatusConflict:
		return p.Status, "HTTPConflict", httpapi.Text(p.Fault)
	case http.StatusInternalServerError:
		return p.Status, "HTTPInternalServerError", "Request Failed: internal server error while processing your request."
	case http.StatusServiceUnavailable:
		return p.Status, "HTTPServiceUnavailable", httpapi.Text(p.Fault)
	case http.StatusNotImplemented:
		return p.Status, "NotImplementedError", httpapi.Text(p.Fault)
	}
	if p.Status == http.StatusBadRequest && p.Fault.Field != "" {
		return p.Status, "HTTPBadRequest", "Invalid input for " + p.Fault.Field + ". Reason: " + p.Fault.Msg + "."
	}
	return p.Status, "HTTPBadRequest", httpapi.Text(p.Fault)
}

func ofRefusal(p httpapi.Problem, r *tap.Refusal) (status int, class, words string) {
	invalid := func(format string, args ...any) (int, string, string) {
		return http.StatusBadRequest, "HTTPBadRequest", "Invalid input for " + r.Field + ". Reason: " + fmt.Sprintf(format, args...) + "."
	}
	switch r.Cause {
	case tap.NoService:
		return http.StatusNotFound, "TapServiceNotFound", "Tap Service  " + r.ID + " does not exist"
	case tap.NoFlow:
		return http.StatusNotFound, "TapFlowNotFound", "Tap Flow  " + r.ID + " does not exist"
	case tap.NoMirror:
		return http.StatusNotFound, "TapMirrorNotFound", "Tap Mirror " + r.ID + " does not exist"
	case tap.NoPort:
		return http.StatusNotFound, "PortNotFound", "Port " + r.ID + " could not be found."
	case tap.NoNetwork:
		return http.StatusNotFound, "NetworkNotFound", "Network " + r.ID + " could not be found."
	case tap.PortOfOther:
		return http.StatusForbidden, "PortDoesNotBelongToTenant", "The specified port does not belong to the tenant"
	case tap.ServiceOfOther:
		return http.StatusForbidden, "TapServiceNotBelongToTenant", "Specified Tap Service does not belong to the tenant"
	case tap.ProjectOfOther:
		return http.StatusBadRequest, "HTTPBadRequest", "Specifying 'project_id' or 'tenant_id' other than the authenticated project in request requires admin privileges"
	case tap.NoTunnelLeft:
		return http.StatusConflict, "TapServiceLimitReached", "Reached the maximum quota for Tap Services"
	case tap.TunnelTaken:
		return http.StatusConflict, "TapMirrorTunnelConflict", fmt.Sprintf("Tap Mirror with tunnel_id %v already exists", r.Value)
	case tap.OverQuota:
		return http.StatusConflict, "OverQuota", "Quota exceeded for resources: ['" + r.Field + "']."
	case tap.PortInUse:
		return http.StatusConflict, "PortInUse", "Unable to complete operation on port " + r.ID + ": " + p.Fault.Msg + "."
	case tap.NotAllowed:
		if p.Status == http.StatusForbidden {
			return p.Status, "PolicyNotAuthorized", "(rule) is disallowed by policy: " + httpapi.Text(p.Fault)
		}
		return http.StatusBadRequest, "HTTPBadRequest", "Attribute '" + r.Field + "' not allowed in POST"
	case tap.Missing:
		return http.StatusBadRequest, "HTTPBadRequest", "Failed to parse request. Required attribute '" + r.Field + "' not specified"
	case tap.NotUUID:
		return invalid("'%v' is not a valid UUID", r.Value)
	case tap.NotOneOf:
		if r.Field == "mac_address" {
			return invalid("'%v' is not a valid MAC address", r.Value)
		}
		return invalid("'%v' is not in ['%s']", r.Value, strings.ReplaceAll(r.Detail, ", ", "', '"))
	case tap.BadName:
		return invalid("'%v' is not a valid string", r.Value)
	case tap.TooLong:
		return invalid("'%v' exceeds maximum length of %s", r.Value, r.Detail)
	case tap.BadVLANs:
		return invalid("'%v' is not a valid input", r.Value)
	case tap.BadAddress:
		return invalid("'%v' is not a valid IP address", r.Value)
	case tap.SameTunnel:
		return http.StatusConflict, "TapMirrorTunnelConflict", fmt.Sprintf("Tap Mirror with tunnel_id %v already exists", r.Value)
	case tap.BadTunnel:
		return invalid("'%v' is not a tunnel id: %s", r.Value, r.Detail)
	}
	return 0, "", ""
}

// failIdentity tells an error in Keystone's shape.
func failIdentity(w http.ResponseWriter, r *http.Request, p httpapi.Problem) {
	w.Header().Set("X-Openstack-Request-Id", "req-"+p.RequestID)
	if p.Fault.Kind == fault.Unauthenticated {
		w.Header().Set("WWW-Authenticate", `Keystone uri="`+endpoint(r)+`/identity"`)
	}
	words := httpapi.Text(p.Fault)
	var own *problem
	if errors.As(p.Fault.Err, &own) {
		words = own.words
	}
	_ = httpapi.WriteJSON(w, p.Status, map[string]any{"error": map[string]any{"code": p.Status, "title": http.StatusText(p.Status), "message": words}})
}

// told makes the door's own problem an error that the gate knows the status of.
func told(err error) error {
	var own *problem
	if errors.As(err, &own) {
		kind := fault.Invalid
		if own.status == http.StatusNotFound {
			kind = fault.NotFound
		}
		return &fault.Error{Kind: kind, Msg: own.words, Err: err}
	}
	return err
}
