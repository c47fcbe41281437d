package classic

import (
	"encoding/json"
	"math/big"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"opentap/api/httpapi"
	"opentap/fault"
	"opentap/want"
)

// captured is the answer to a capture that was accepted.
type captured struct {
	Status    string      `json:"status"` // "success"
	Msg       string      `json:"msg"`
	ID        string      `json:"id"`
	StartTime json.Number `json:"startTime"` // Unix seconds
	StopTime  json.Number `json:"stopTime"`
	Duration  json.Number `json:"duration"` // seconds
}

func (s *server) capture(w http.ResponseWriter, r *http.Request) error {
	p, err := parameters(w, r, "start", "stop", "observationpt", "id", "period")
	if err != nil {
		return err
	}
	q, err := request(r.PathValue("type"), p)
	if err != nil {
		return err
	}
	v, _, err := s.ctl.CreateCapture(r.Context(), httpapi.Identity(r.Context()), q)
	if err != nil {
		return err
	}
	from, to := v.Query.From, v.Query.To
	if to.IsZero() {
		to = q.To
	}
	return httpapi.WriteJSON(w, http.StatusOK, captured{
		Status: "success", Msg: v.Note, ID: v.ID,
		StartTime: echo(p["start"], q.From, from), StopTime: echo(p["stop"], q.To, to),
		Duration: seconds(to.Sub(from).Nanoseconds()),
	})
}

// request reads the old arguments. What they mean beyond their spelling is the controller's to decide.
func request(kind string, p map[string]string) (want.Request, error) {
	var q want.Request
	var err error
	q.Kind = want.Kind(strings.ToLower(kind))
	if q.From, err = unixTime("start", p["start"]); err != nil {
		return q, err
	}
	if q.To, err = unixTime("stop", p["stop"]); err != nil {
		return q, err
	}
	if !q.From.Before(q.To) {
		return q, fault.Field("start", "start time must be earlier than stop time")
	}
	if pt := p["observationpt"]; pt != "" && pt != "0" {
		q.Points = []string{pt}
	}
	q.ID = p["id"]
	q.MovePast = true
	if q.Kind != want.Packets && q.Kind != want.Flows { // the old server read it for counters and sensors alone
		q.Period = want.Duration(time.Second)
		if s := p["period"]; s != "" {
			ms, err := strconv.ParseUint(s, 10, 32)
			if err != nil || ms == 0 {
				return q, fault.Field("period", "must be a whole number of milliseconds, 1 or more")
			}
			q.Period = want.Duration(time.Duration(ms) * time.Millisecond)
		}
	}
	return q, nil
}

// parameters reads the query string, and of a POST the form as well. Names are taken in any case, since the documents and
// the clients of the old server spell them differently; names it did not know were ignored, and are. Keys of the result
// are lower case.
func parameters(w http.ResponseWriter, r *http.Request, known ...string) (map[string]string, error) {
	all, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the query string is not well-formed")
	}
	lists := []url.Values{all}
	if mt, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); r.Method == http.MethodPost && mt == "application/x-www-form-urlencoded" {
		body, err := httpapi.ReadBody(w, r)
		if err != nil {
			return nil, err
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, fault.New(fault.Invalid, "the form is not well-formed")
		}
		lists = append(lists, form)
	}
	p := make(map[string]string, len(known))
	for _, list := range lists {
		for name, values := range list {
			for _, k := range known {
				if !strings.EqualFold(name, k) {
					continue
				}
				for _, v := range values {
					if old, ok := p[k]; ok && old != v {
						return nil, fault.Field(k, "given twice, with different values")
					}
					p[k] = v
				}
			}
		}
	}
	return p, nil
}

// unixTime reads Unix seconds with an optional fraction, exactly to the nanosecond.
func unixTime(name, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, fault.Field(name, "missing: Unix seconds (UTC) are wanted")
	}
	whole, frac, dotted := strings.Cut(s, ".")
	if !isDigits(whole) || dotted && !isDigits(frac) || len(s) > 40 {
		return time.Time{}, fault.Field(name, "must be Unix seconds (UTC), such as 1700000010")
	}
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || sec > 253402300799 { // 9999-12-31
		return time.Time{}, fault.Field(name, "lies beyond the year 9999; are these milliseconds?")
	}
	frac = (frac + "000000000")[:9]
	ns, _ := strconv.ParseInt(frac, 10, 64)
	return time.Unix(sec, ns).UTC(), nil
}

func isDigits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// echo gives a time back as the client wrote it when it is the time it asked for, and as seconds otherwise.
func echo(sent string, asked, got time.Time) json.Number {
	if sent = strings.TrimLeft(sent, "0"); asked.Equal(got) && sent != "" && sent[0] != '.' {
		return json.Number(sent)
	}
	b := new(big.Int).Mul(big.NewInt(got.Unix()), big.NewInt(1e9))
	b.Add(b, big.NewInt(int64(got.Nanosecond())))
	return decimal(b)
}

func seconds(ns int64) json.Number { return decimal(big.NewInt(ns)) }

// decimal writes nanoseconds as seconds without a needless fraction.
func decimal(ns *big.Int) json.Number {
	whole, frac := new(big.Int).QuoRem(ns, big.NewInt(1e9), new(big.Int))
	s := whole.String()
	if f := frac.Abs(frac).Int64(); f != 0 {
		digits := strconv.FormatInt(1e9+f, 10)[1:]
		s += "." + strings.TrimRight(digits, "0")
	}
	return json.Number(s)
}
