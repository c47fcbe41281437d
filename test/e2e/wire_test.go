//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"opentap/internal/await"
)

// What the /v1 door says, spelt here once more: a change of a name breaks clients, so it shall break a test.

type account struct {
	Seen         uint64            `json:"seen"`
	Captured     uint64            `json:"captured"`
	Filtered     uint64            `json:"filtered"`
	SampledOut   uint64            `json:"sampled_out"`
	RateLimited  uint64            `json:"rate_limited"`
	Dropped      map[string]uint64 `json:"dropped"`
	DroppedTotal uint64            `json:"dropped_total"`
	Octets       uint64            `json:"octets"`
	StoredOctets uint64            `json:"stored_octets"`
	Uncounted    bool              `json:"filter_uncounted"`
}

// adds reports the identity: every packet seen is in exactly one entry.
func (a *account) adds() bool {
	var dropped uint64
	for _, n := range a.Dropped {
		dropped += n
	}
	return dropped == a.DroppedTotal && a.Seen == a.Captured+a.Filtered+a.SampledOut+a.RateLimited+dropped
}

type gap struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Reason string    `json:"reason"`
}

type view struct {
	ID       string `json:"id"`
	UID      string `json:"uid"`
	Kind     string `json:"kind"`
	Note     string `json:"note"`
	Recorded bool   `json:"recorded"`
	Query    struct {
		Points []string  `json:"points"`
		From   time.Time `json:"from"`
		To     time.Time `json:"to"`
	} `json:"query"`
	Status struct {
		State   string    `json:"state"`
		Reason  string    `json:"reason"`
		Started time.Time `json:"started"`
		Ended   time.Time `json:"ended"`
		Ledger  account   `json:"ledger"`
		Records uint64    `json:"records"`
		Bytes   uint64    `json:"bytes"`
		Gaps    []gap     `json:"gaps"`
	} `json:"status"`
	Expires time.Time `json:"expires"`
}

func (v *view) final() bool {
	return v.Status.State == "done" || v.Status.State == "stopped" || v.Status.State == "failed"
}

type pointView struct {
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`
	Aliases []string `json:"aliases"`
	Default bool     `json:"default"`
	Present bool     `json:"present"`
	Up      bool     `json:"up"`
}

type problem struct {
	Error struct {
		Kind      string `json:"kind"`
		Message   string `json:"message"`
		Field     string `json:"field"`
		Hint      string `json:"hint"`
		Position  int    `json:"position"`
		RequestID string `json:"request_id"`
	} `json:"error"`
}

// answer is a whole HTTP response.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
	err    error // no answer came
}

func (a *answer) decode(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.Body, v); err != nil {
		t.Fatalf("status %d, body is not the JSON expected: %v\n%s", a.Status, err, a.Body)
	}
}

func (a *answer) problem(t testing.TB) problem {
	t.Helper()
	var p problem
	a.decode(t, &p)
	if p.Error.Kind == "" || p.Error.Message == "" || p.Error.RequestID == "" {
		t.Fatalf("an error without kind, message or request id: %s", a.Body)
	}
	return p
}

// try asks once. header is name, value, name, value …; the token is sent unless Authorization is given, "" = none.
func (d *daemon) try(method, path string, body any, header ...string) *answer {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(b)
	default:
		j, err := json.Marshal(b)
		if err != nil {
			return &answer{err: err}
		}
		r = bytes.NewReader(j)
	}
	req, err := http.NewRequest(method, d.url()+path, r)
	if err != nil {
		return &answer{err: err}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+d.token)
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := d.web.Do(req)
	if err != nil {
		return &answer{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return &answer{Status: resp.StatusCode, Header: resp.Header, Body: b, err: err}
}

// ask asks and expects a status.
func (d *daemon) ask(status int, method, path string, body any, header ...string) *answer {
	d.t.Helper()
	a := d.try(method, path, body, header...)
	if a.err != nil {
		d.t.Fatalf("%s %s: %v\n%s", method, path, a.err, d.tail())
	}
	if a.Status != status {
		b := a.Body
		if len(b) > 2000 {
			b = b[:2000]
		}
		d.t.Fatalf("%s %s: status %d, want %d: %s", method, path, a.Status, status, b)
	}
	return a
}

type m = map[string]any

// create starts a capture.
func (d *daemon) create(q m) view {
	d.t.Helper()
	var v view
	d.ask(201, "POST", "/v1/captures", q).decode(d.t, &v)
	return v
}

func (d *daemon) show(id string) view {
	d.t.Helper()
	var v view
	d.ask(200, "GET", capturePath(id), nil).decode(d.t, &v)
	return v
}

func capturePath(id string) string { return "/v1/captures/" + url.PathEscape(id) }

// awaitState polls until the capture is in one of the states.
func (d *daemon) awaitState(id string, states ...string) (v view) {
	d.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(await.Patience); ; <-tick.C {
		v = d.show(id)
		for _, s := range states {
			if v.Status.State == s {
				return v
			}
		}
		if v.final() || time.Now().After(deadline) {
			d.t.Fatalf("%s is %s (%s), want %v", id, v.Status.State, v.Status.Reason, states)
		}
	}
}

// awaitCaptured polls until the ledger says so many.
func (d *daemon) awaitCaptured(id string, n uint64) view {
	d.t.Helper()
	var v view
	await.Until(d.t, "capture "+id+" has taken all", func() bool { v = d.show(id); return v.Status.Ledger.Captured >= n })
	return v
}

// finish stops a capture and waits for its end.
func (d *daemon) finish(id string) view {
	d.t.Helper()
	d.ask(200, "POST", capturePath(id)+"/stop", nil)
	return d.awaitState(id, "stopped", "done")
}

func (d *daemon) data(id, format string, header ...string) *answer {
	d.t.Helper()
	return d.ask(200, "GET", capturePath(id)+"/data?format="+format, nil, header...)
}
