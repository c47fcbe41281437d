package v1

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"opentap/want"
)

// Walking through pages shows each thing once and in order, whatever comes and goes meanwhile.
func TestPagesAreTheWhole(t *testing.T) {
	text := func(s *string) string { return *s }
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var all []string
		for i := range r.IntN(50) {
			all = append(all, fmt.Sprintf("%03d", i*2+1))
		}
		stay := slices.Clone(all)
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		limit, after := 1+r.IntN(10), ""
		var got []string
		for {
			p := page{limit: limit, after: after}
			shown, next := cut(p, "things", text, all)
			if len(shown) > limit || next != "" && len(shown) != limit {
				t.Fatalf("a page of %d has %d, next %q", limit, len(shown), next)
			}
			got = append(got, shown...)
			if next == "" {
				break
			}
			if len(shown) > 1 { // the last one goes, and one comes before it
				last := shown[len(shown)-1]
				all = slices.DeleteFunc(all, func(s string) bool { return s == last })
				all = append(all, "000")
			}
			after = asking(t, "page_token="+next).after
		}
		if !slices.Equal(got, stay) {
			t.Fatalf("pages of %d: %v, want %v", limit, got, stay)
		}
	}
}

func asking(t *testing.T, query string) page {
	t.Helper()
	a := ask(httptest.NewRequest("GET", "/?"+query, nil), "limit", "page_token")
	p := a.page("things")
	if a.err != nil {
		t.Fatal(a.err)
	}
	return p
}

func TestTimesAreInOrder(t *testing.T) {
	times := []time.Time{{}, time.Unix(-5, 7), time.Unix(0, 0), time.Unix(0, 1), time.Unix(1, 0), time.Unix(1<<31, 999_999_999), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}
	for i := range len(times) - 1 {
		if oldest(times[i]) >= oldest(times[i+1]) || newest(times[i]) <= newest(times[i+1]) {
			t.Errorf("%v and %v are in the wrong order", times[i], times[i+1])
		}
	}
}

// Each list of the document is served in pages.
func TestListsHavePages(t *testing.T) {
	b := newBench(t)
	b.ctl.Polls = -1
	for i := range 5 {
		b.do("POST", "/v1/captures", fmt.Sprintf(`{"id":"c%d","kind":"pcap","duration":"5s"}`, i))
	}
	lists := 0
	for path, item := range b.doc.Paths.Map() {
		if item.Get == nil || !slices.ContainsFunc(item.Get.Parameters, func(p *openapi3.ParameterRef) bool { return p.Value.Name == "page_token" }) {
			continue
		}
		lists++
		for _, q := range []string{"limit=0", "limit=-1", "limit=10001", "limit=x", "page_token=x", "page_token=cG9pbnQ", "limit=1&limit=2"} {
			if a := b.do("GET", path+"?"+q, ""); a.StatusCode != 400 {
				t.Errorf("%s?%s: %d", path, q, a.StatusCode)
			}
		}
		whole := b.names(path)
		var walked []string
		for token := ""; ; {
			names, next := b.pageOf(path + "?limit=2" + token)
			walked = append(walked, names...)
			if next == "" {
				break
			}
			token = "&page_token=" + next
		}
		if !slices.Equal(walked, whole) {
			t.Errorf("%s: the pages are %v, the whole is %v", path, walked, whole)
		}
	}
	if lists != 15 {
		t.Errorf("%d lists have pages", lists)
	}
	if _, next := b.pageOf("/v1/captures?limit=2"); next == "" {
		t.Error("five captures are on a page of two")
	} else if a := b.do("GET", "/v1/points?page_token="+next, ""); a.StatusCode != 400 {
		t.Errorf("the token of another list: %d", a.StatusCode)
	}
	var all struct {
		Captures []want.View `json:"captures"`
	}
	body := b.do("GET", "/v1/captures", "").body
	if err := json.Unmarshal([]byte(body), &all); err != nil || len(all.Captures) != 5 || strings.Contains(body, `"next"`) {
		t.Errorf("without a limit: %v, %s", err, body)
	}
}

func (b *bench) names(path string) []string {
	names, next := b.pageOf(path)
	if next != "" {
		b.t.Errorf("%s is not whole: %s", path, next)
	}
	return names
}

// pageOf returns the things of a page, each as it was written, and the next token.
func (b *bench) pageOf(path string) (things []string, next string) {
	b.t.Helper()
	a := b.do("GET", path, "")
	if a.StatusCode != 200 {
		b.t.Fatalf("%s: %d %s", path, a.StatusCode, a.body)
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal([]byte(a.body), &parts); err != nil {
		b.t.Fatal(err)
	}
	for key, raw := range parts {
		if key == "next" {
			if err := json.Unmarshal(raw, &next); err != nil {
				b.t.Fatal(err)
			}
			continue
		}
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			b.t.Fatalf("%s: %v", path, err)
		}
		for _, x := range list {
			things = append(things, string(x))
		}
	}
	return things, next
}
