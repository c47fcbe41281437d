package client_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"opentap/client"
)

// A list is whole however many pages it has, and ends where it was told to.
func TestListsAreWhole(t *testing.T) {
	const there = 12_000
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		from, _ := strconv.Atoi(r.URL.Query().Get("page_token")) // absent = 0
		limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
		if err != nil || r.URL.Path != "/v1/taps/flows" {
			t.Errorf("asked for %s", r.URL)
		}
		to := min(from+limit, there)
		fmt.Fprint(w, `{"flows":[`)
		for i := from; i < to; i++ {
			if i > from {
				fmt.Fprint(w, ",")
			}
			fmt.Fprintf(w, `{"name":"f%d"}`, i)
		}
		fmt.Fprint(w, "]")
		if to < there {
			fmt.Fprintf(w, `,"next":"%d"`, to)
		}
		fmt.Fprint(w, "}")
	}))
	defer srv.Close()
	c, err := client.New(client.Config{URL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, k := range []struct{ limit, want, asks int }{{0, there, 3}, {3, 3, 1}, {5000, 5000, 1}, {5001, 5001, 2}, {there + 1, there, 3}} {
		asked = 0
		list, err := c.Limited(k.limit).TapFlows(t.Context())
		if err != nil || len(list) != k.want || asked != k.asks {
			t.Fatalf("limit %d: %d of %d in %d requests of %d, %v", k.limit, len(list), k.want, asked, k.asks, err)
		}
		if last := list[len(list)-1].Name; last != fmt.Sprintf("f%d", k.want-1) {
			t.Errorf("limit %d: the last is %s", k.limit, last)
		}
	}
}
