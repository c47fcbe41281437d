package v1

import (
	"net/http"
	"net/url"
	"strconv"

	"opentap/api/httpapi"
	"opentap/fault"
	"opentap/want"
)

// live streams packets as they come. A connection that ends without the last chunk has been cut off.
func (s *server) live(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r)
	if err != nil {
		return err
	}
	l, err := liveRequest(q)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead { // before anything is written down as begun
		return httpapi.ServeLive(w, r, nil)
	}
	rt, err := s.ctl.OpenLive(r.Context(), httpapi.Identity(r.Context()), l)
	if err != nil {
		return err
	}
	defer rt.Close()
	return httpapi.ServeLive(w, r, rt)
}

// liveRequest reads the query of a live stream.
func liveRequest(q url.Values) (l want.LiveRequest, err error) {
	for name, values := range q {
		if name == "point" {
			l.Points = values
			continue
		}
		if len(values) > 1 {
			return l, fault.Field(name, "given twice")
		}
		v := values[0]
		switch name {
		case "filter":
			l.Filter = v
		case "strict":
			l.Strict, err = strconv.ParseBool(v)
		case "snap":
			l.Snap, err = strconv.Atoi(v)
		case "packets":
			l.Packets, err = strconv.ParseUint(v, 10, 64)
		case "past":
			err = l.Past.UnmarshalText([]byte(v))
		case "duration":
			err = l.Duration.UnmarshalText([]byte(v))
		default:
			return l, &fault.Error{
				Kind: fault.Invalid, Field: name, Msg: "no such query parameter",
				Hint: "this path takes point, filter, strict, snap, past, duration, packets",
			}
		}
		switch {
		case err != nil && (name == "past" || name == "duration"):
			return l, fault.Field(name, "%v", err)
		case err != nil:
			return l, fault.Field(name, "%q is not understood", v)
		case l.Snap < 0 || l.Past < 0 || l.Duration < 0:
			return l, fault.Field(name, "must not be negative")
		}
	}
	return l, nil
}
