package classic

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"opentap/api/doortest"
	"opentap/api/httpapi"
	"opentap/want"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// anonymous lets everybody in, as an administrator may for old clients.
var anonymous = doortest.Tokens{"": doortest.Everything, "viewer": doortest.Users()["viewer"]}

func newServer(t testing.TB, users doortest.Tokens) (*doortest.Controller, string) {
	ctl := doortest.New()
	gate, err := httpapi.NewGate(httpapi.Config{Auth: users})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = gate.Server(gate.Handler(New(ctl, nil)))
	srv.Start()
	t.Cleanup(func() {
		srv.Close()
		http.DefaultClient.CloseIdleConnections()
		if n := ctl.Held(); n != 0 {
			t.Errorf("%d retrievals were not closed", n)
		}
	})
	return ctl, srv.URL
}

func fetch(t testing.TB, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestCapabilities(t *testing.T) {
	ctl, url := newServer(t, anonymous)
	ctl.List = append(ctl.List, ctl.List[1])
	ctl.List[3].Node = "leo"
	for _, path := range []string{"/capabilities", "/"} {
		resp, body := fetch(t, "GET", url+path, "", "Accept", "*/*")
		if resp.StatusCode != 200 || len(resp.Header.Values("Content-Type")) != 1 || resp.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("%s: %d %q", path, resp.StatusCode, resp.Header.Values("Content-Type"))
		}
		want := `{"capture_types":["pcap","netflow","ethernet","sensor","temperature"],"retention":"60",` +
			`"network_observation_pts":["uplink","virgo/eth1","leo/eth1"],"sensor_observation_pts":["coretemp/Core 0"],` +
			`"name":"virgo","version":"1.2.3","retention_minutes":60,"retention_limit_minutes":null,"capture_length_limit_seconds":86400,` +
			`"default_observation_pt":"eth0","observation_pts":{"ethernet":["uplink","virgo/eth1","leo/eth1"],"netflow":["uplink","virgo/eth1","leo/eth1"],` +
			`"pcap":["uplink","virgo/eth1","leo/eth1"],"sensor":["coretemp/Core 0"],"temperature":["coretemp/Core 0"]}}`
		if strings.TrimSpace(body) != want {
			t.Errorf("%s:\n got %s\nwant %s", path, body, want)
		}
	}
	resp, body := fetch(t, "GET", url+"/", "", "Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "Sec-Fetch-Site", "cross-site")
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") || !strings.Contains(body, "OpenTap virgo") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if resp, _ := fetch(t, "GET", url+"/capabilities", "", "Accept", "text/html"); resp.Header.Get("Content-Type") != "application/json" {
		t.Error(resp.Header.Get("Content-Type"))
	}
}

func TestCapture(t *testing.T) {
	const start, stop = "1800000010", "1800000070"
	for _, c := range []struct {
		name, method, path, form string
		status                   int
		body                     string
		asked                    want.Request
	}{
		{
			"netflow", "GET", "/capture/netflow?start=1800000010&stop=1800000070&observationPt=uplink&id=netflow_net_1800000010_1800000070", "", 200,
			`{"status":"success","msg":"","id":"netflow_net_1800000010_1800000070","startTime":1800000010,"stopTime":1800000070,"duration":60}`,
			want.Request{ID: "netflow_net_1800000010_1800000070", Kind: want.Flows, Points: []string{"uplink"}},
		},
		{
			"names in any case", "GET", "/capture/Ethernet?START=1800000010&Stop=1800000070&observationpt=0&Period=250&ID=", "", 200,
			`{"status":"success","msg":"","id":"cap-1","startTime":1800000010,"stopTime":1800000070,"duration":60}`,
			want.Request{Kind: want.Counters, Period: want.Duration(250 * time.Millisecond)},
		},
		{
			"sensor has a period", "GET", "/capture/temperature?start=1800000010&stop=1800000070", "", 200, `"duration":60`,
			want.Request{Kind: "temperature", Period: want.Duration(time.Second)},
		},
		{"post with a form", "POST", "/capture/pcap", "start=1800000010&stop=1800000070&id=p", 200, `"id":"p"`, want.Request{ID: "p", Kind: want.Packets}},
		{"fractions", "GET", "/capture/pcap?start=1800000010.25&stop=1800000070.750", "", 200, `"startTime":1800000010.25,"stopTime":1800000070.750,"duration":60.5}`, want.Request{Kind: want.Packets}},
		{
			"past is moved", "GET", "/capture/pcap?start=1700000000&stop=1800000070", "", 200,
			`"msg":"start time was in the past; moved to now","id":"cap-1","startTime":1767323045,"stopTime":1800000070,"duration":32677025}`,
			want.Request{Kind: want.Packets},
		},
		{
			"an id that looks like a path", "GET", "/capture/pcap?start=1800000010&stop=1800000070&id=..%2F..%2Fetc%2Fpasswd", "", 200, `"id":"../../etc/passwd"`,
			want.Request{ID: "../../etc/passwd", Kind: want.Packets},
		},
		{"no start", "GET", "/capture/pcap?stop=1800000070", "", 400, `{"status":"error","msg":"start: missing`, want.Request{}},
		{"no stop", "GET", "/capture/pcap?start=1800000070", "", 400, `"msg":"stop: missing`, want.Request{}},
		{"backwards", "GET", "/capture/pcap?start=1800000070&stop=1800000010", "", 400, `earlier than stop`, want.Request{}},
		{"nan", "GET", "/capture/pcap?start=NaN&stop=1800000010", "", 400, `Unix seconds`, want.Request{}},
		{"milliseconds", "GET", "/capture/pcap?start=1800000010000&stop=1800000070000", "", 400, `milliseconds?`, want.Request{}},
		{"bad period", "GET", "/capture/sensor?start=1800000010&stop=1800000070&period=0", "", 400, `period`, want.Request{}},
		{"contradiction", "GET", "/capture/pcap?start=1800000010&START=1800000011&stop=1800000070", "", 400, `twice`, want.Request{}},
		{"unknown point", "GET", "/capture/pcap?start=1800000010&stop=1800000070&observationPt=eth9", "", 400, `eth9`, want.Request{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctl, url := newServer(t, anonymous)
			resp, body := fetch(t, c.method, url+c.path, c.form, "Content-Type", "application/x-www-form-urlencoded")
			if resp.StatusCode != c.status || resp.Header.Get("Content-Type") != "application/json" || !strings.Contains(body, c.body) {
				t.Fatalf("%d %s %s\nwant %d %s", resp.StatusCode, resp.Header.Get("Content-Type"), body, c.status, c.body)
			}
			if !json.Valid([]byte(body)) {
				t.Errorf("not JSON: %s", body)
			}
			if c.status != 200 {
				return
			}
			got := ctl.Requests()[0]
			if got.ID != c.asked.ID || got.Kind != c.asked.Kind || strings.Join(got.Points, ",") != strings.Join(c.asked.Points, ",") || got.Period != c.asked.Period || !got.MovePast {
				t.Errorf("controller got %+v", got)
			}
		})
	}
	t.Run("same again, then taken", func(t *testing.T) {
		_, url := newServer(t, anonymous)
		for _, c := range []struct {
			stop   string
			status int
		}{{stop, 200}, {stop, 200}, {"1800000071", 409}} {
			resp, body := fetch(t, "GET", url+"/capture/pcap?id=x&start="+start+"&stop="+c.stop, "")
			if resp.StatusCode != c.status {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		}
	})
}

func TestRetrieve(t *testing.T) {
	ctl, url := newServer(t, anonymous)
	ctl.Payload = []byte("ts,te\n1,2\n")
	fetch(t, "GET", url+"/capture/netflow?id=a/b&start=1800000010&stop=1800000070", "")
	fetch(t, "GET", url+"/capture/pcap?id=p&start=1800000010&stop=1800000070", "")
	fetch(t, "GET", url+"/capture/pcap?id=later&start=1800000010&stop=1800000070", "")
	ctl.Set("later", func(v *want.View) { v.Status.State = want.Scheduled })
	for _, c := range []struct {
		query, contentType, body string
		status                   int
	}{
		{"?id=a/b", "text/csv", "ts,te\n1,2\n", 200},
		{"?ID=a%2Fb", "text/csv", "ts,te\n1,2\n", 200},
		{"?id=p", "application/vnd.tcpdump.pcap", "ts,te\n1,2\n", 200},
		{"?id=none", "application/json", `{"status":"error","msg":"data file not found; may not be ready yet."}` + "\n", 404},
		{"?id=later", "application/json", `{"status":"error","msg":"data file not found; may not be ready yet."}` + "\n", 409},
		{"", "application/json", `{"status":"error","msg":"id: missing: say which capture's data is wanted"}` + "\n", 400},
	} {
		resp, body := fetch(t, "GET", url+"/retrieve"+c.query, "")
		if resp.StatusCode != c.status || resp.Header.Get("Content-Type") != c.contentType || body != c.body {
			t.Errorf("%s: %d %s %q", c.query, resp.StatusCode, resp.Header.Get("Content-Type"), body)
		}
	}
}

func TestWhoMayCome(t *testing.T) {
	_, open := newServer(t, anonymous)
	_, shut := newServer(t, doortest.Users())
	capture := "/capture/pcap?start=1800000010&stop=1800000070"
	for _, c := range []struct {
		name, url string
		header    []string
		status    int
	}{
		{"nobody is let in by default", shut + capture, nil, 401},
		{"a token in the url is no token", shut + capture + "&token=admin", nil, 401},
		{"a token in the header is", shut + capture, []string{"X-Auth-Token", "admin"}, 200},
		{"a viewer may not start", open + capture, []string{"X-Auth-Token", "viewer"}, 403},
		{"a foreign page", open + capture, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"a sibling page", open + capture, []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"a foreign form in an old browser", open + capture, []string{"Origin", "https://evil.example"}, 403},
		{"a sandboxed page", open + capture, []string{"Origin", "null"}, 403},
		{"a rebound name", open + capture, []string{"Host", "evil.example"}, 421},
		{"a rebound address", open + capture, []string{"Host", "192.0.2.1"}, 421},
		{"our own name", open + capture, []string{"Host", "localhost:2020"}, 200},
		{"a name with a token cannot be rebound", shut + capture, []string{"Host", "tap.example", "X-Auth-Token", "admin"}, 200},
		{"no path", open + "/nowhere", nil, 404},
	} {
		resp, body := fetch(t, "GET", c.url, "", c.header...)
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d %s", c.name, resp.StatusCode, body)
		}
		if c.status != 200 && (!strings.HasPrefix(body, `{"status":"error","msg":"`) || resp.Header.Get("Content-Type") != "application/json") {
			t.Errorf("%s: %s", c.name, body)
		}
	}
	resp, _ := fetch(t, "DELETE", open+"/capabilities", "")
	if resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
		t.Error(resp.StatusCode, resp.Header)
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("netflow", "start=1700000010&stop=1700000070&observationPt=0&id=netflow_net_1700000010_1700000070")
	f.Add("sensor", "START=1.5&stop=253402300799.999999999&period=1000")
	f.Add("pcap", "start=%00&stop=9e9")
	f.Fuzz(func(t *testing.T, kind, query string) {
		r := &http.Request{Method: "GET", URL: &url.URL{RawQuery: query}}
		p, err := parameters(nil, r, "start", "stop", "observationpt", "id", "period")
		if err != nil {
			return
		}
		q, err := request(kind, p)
		if err != nil {
			return
		}
		for _, n := range []json.Number{echo(p["start"], q.From, q.From), echo(p["stop"], q.To, q.To), echo("", q.From, q.From), seconds(q.To.Sub(q.From).Nanoseconds())} {
			if !json.Valid([]byte(n)) {
				t.Fatalf("%q gave the number %q", query, n)
			}
		}
		if again, err := unixTime("start", string(echo("", q.From, q.From))); err != nil || !again.Equal(q.From) {
			t.Fatalf("%q: %v came back as %v, %v", query, q.From, again, err)
		}
	})
}
