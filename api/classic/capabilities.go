package classic

import (
	"html/template"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"opentap/api/httpapi"
	"opentap/point"
	"opentap/want"
)

// capabilities has the old server's keys first, with the old types (retention was text), and ours behind them, with the
// unit in the name.
type capabilities struct {
	CaptureTypes     []string `json:"capture_types"`
	Retention        string   `json:"retention"` // minutes
	NetworkPoints    []string `json:"network_observation_pts"`
	SensorPoints     []string `json:"sensor_observation_pts"`
	Name             string   `json:"name"`
	Version          string   `json:"version"`
	RetentionMinutes float64  `json:"retention_minutes"`
	// The limits are null when there is none.
	RetentionLimitMinutes     *float64            `json:"retention_limit_minutes"`
	CaptureLengthLimitSeconds *float64            `json:"capture_length_limit_seconds"`
	DefaultPoint              string              `json:"default_observation_pt"`
	Points                    map[string][]string `json:"observation_pts"` // per capture type
}

func (s *server) capabilities(w http.ResponseWriter, r *http.Request) error {
	c, err := s.gather(r)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, c)
}

func (s *server) gather(r *http.Request) (*capabilities, error) {
	ctx, who := r.Context(), httpapi.Identity(r.Context())
	have, err := s.ctl.Capabilities(ctx, who)
	if err != nil {
		return nil, err
	}
	points, err := s.ctl.Points(ctx, who)
	if err != nil {
		return nil, err
	}
	c := &capabilities{
		CaptureTypes: []string{}, NetworkPoints: []string{}, SensorPoints: []string{},
		Name: have.Name, Version: have.Version, DefaultPoint: have.DefaultPoint, Points: map[string][]string{},
		RetentionMinutes: time.Duration(have.RetentionDefault).Minutes(),
	}
	c.Retention = strconv.FormatInt(int64(time.Duration(have.RetentionDefault)/time.Minute), 10)
	if have.RetentionMax > 0 {
		m := time.Duration(have.RetentionMax).Minutes()
		c.RetentionLimitMinutes = &m
	}
	if have.MaxDuration > 0 {
		m := time.Duration(have.MaxDuration).Seconds()
		c.CaptureLengthLimitSeconds = &m
	}
	names := showNames(points)
	for i, p := range points {
		switch {
		case !p.Present:
		case p.Kind == point.Netdev:
			c.NetworkPoints = append(c.NetworkPoints, names[i])
		case p.Kind == point.Sensor:
			c.SensorPoints = append(c.SensorPoints, names[i])
		}
	}
	for _, k := range have.Kinds {
		c.CaptureTypes = append(c.CaptureTypes, string(k))
		list := []string{}
		for i, p := range points {
			if p.Present && gives(&p, k) {
				list = append(list, names[i])
			}
		}
		c.Points[string(k)] = list
	}
	return c, nil
}

// gives reports whether a point can give data of a kind.
func gives(p *point.Point, k want.Kind) bool {
	switch k {
	case want.Packets, want.Flows:
		return p.Kind == point.Netdev && p.NoPcap == ""
	case want.Counters:
		return p.Kind == point.Netdev
	case want.Sensor:
		return p.Kind == point.Sensor
	}
	return p.Kind == point.Sensor && p.Quantity == string(k)
}

// showNames gives each point the name a client should use: its alias where it has one, with its node where two points
// would be called the same.
func showNames(points []point.Point) []string {
	names := make([]string, len(points))
	count := map[string]int{}
	for i, p := range points {
		names[i] = p.Name
		if len(p.Aliases) > 0 {
			names[i] = p.Aliases[0]
		}
		if p.Present {
			count[names[i]]++
		}
	}
	for i, p := range points {
		if count[names[i]] > 1 {
			names[i] = p.Node + "/" + names[i]
		}
	}
	return names
}

var page = template.Must(template.New("home").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>OpenTap {{.Name}}</title></head><body>
<h1>OpenTap {{.Name}}</h1>
<p>This is OpenTap {{.Version}}. It shows what happens on a network: packets, flow records, counters, sensors.</p>
<ul>
<li>Programs use <a href="/openapi.json">the REST interface</a> under <code>/v1</code>.</li>
<li>People use the <code>opentap</code> command.</li>
<li>Clients of the first OpenTap use <a href="/capabilities">/capabilities</a>, <code>/capture/TYPE</code> and <code>/retrieve</code>.</li>
</ul>
<p>Capture types here: {{range $i, $t := .CaptureTypes}}{{if $i}}, {{end}}{{$t}}{{else}}none{{end}}.</p>
</body></html>
`))

// home is /capabilities, and a page for those who came with a browser.
func (s *server) home(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Vary", "Accept")
	if s.forBrowser(r) {
		return s.page(w, r)
	}
	c, err := s.gather(r)
	if err != nil {
		return err
	}
	if !wantsHTML(strings.Join(r.Header.Values("Accept"), ",")) {
		return httpapi.WriteJSON(w, http.StatusOK, c)
	}
	var b strings.Builder
	if err := page.Execute(&b, c); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write([]byte(b.String()))
	return nil
}

// forBrowser reports whether the page is what is asked for: it needs no identity, /capabilities does.
func (s *server) forBrowser(r *http.Request) bool {
	return s.page != nil && wantsHTML(strings.Join(r.Header.Values("Accept"), ","))
}

// wantsHTML reports whether the Accept header names HTML and likes it no less than JSON.
func wantsHTML(accept string) bool {
	html, json := 0.0, 0.0
	for part := range strings.SplitSeq(accept, ",") {
		mt, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		q := 1.0
		if s, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(s, 64); err != nil {
				continue
			}
		}
		switch mt {
		case "text/html", "application/xhtml+xml":
			html = max(html, q)
		case "application/json":
			json = q
		}
	}
	return html > 0 && html >= json
}
