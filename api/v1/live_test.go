package v1

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"opentap/api/doortest"
	"opentap/fault"
	"opentap/want"
)

func TestLive(t *testing.T) {
	b := newBench(t)
	a := b.do("GET", "/v1/live?point=eth0&point=virgo%2Feth1&filter=tcp&strict=true&snap=96&past=30s&duration=10s", "")
	if a.StatusCode != 200 || a.Header.Get("Content-Type") != "application/x-pcapng" || !bytes.Equal([]byte(a.body), doortest.LivePackets(10, 0)) {
		t.Errorf("%d %v, %d octets", a.StatusCode, a.Header, len(a.body))
	}
	got := b.ctl.LiveCalls()[0]
	if len(got.Points) != 2 || got.Filter != "tcp" || !got.Strict || got.Snap != 96 || got.Past != want.Duration(30*time.Second) || got.Duration != want.Duration(10*time.Second) {
		t.Errorf("%+v", got)
	}
	for path, status := range map[string]int{
		"?packets=3": 200, "?point=eth9": 404, "?filter=bogus": 400, "?snap=-1": 400, "?snap=x": 400, "?past=5": 400, "?past=-1s": 400,
		"?strict=perhaps": 400, "?pionts=eth0": 400, "?snap=60&snap=70": 400, "?packets=-1": 400, "?%zz": 400,
	} {
		if path == "?snap=x" || path == "?strict=perhaps" || strings.Contains(path, "-1") || path == "?%zz" || path == "?snap=60&snap=70" || path == "?pionts=eth0" {
			r, err := http.NewRequest("GET", b.srv.URL+"/v1/live"+path, nil) // the document refuses these too
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer admin")
			resp, err := http.DefaultClient.Do(r)
			if err != nil || resp.StatusCode != status {
				t.Errorf("%s: %v %v", path, resp, err)
			}
			resp.Body.Close()
			continue
		}
		if a := b.do("GET", "/v1/live"+path, ""); a.StatusCode != status {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	if a := b.do("GET", "/v1/live", "", "Authorization", "Bearer viewer"); a.StatusCode != 403 {
		t.Errorf("viewer: %d", a.StatusCode)
	}
	n := len(b.ctl.LiveCalls())
	if r, err := http.NewRequest("HEAD", b.srv.URL+"/v1/live", nil); err != nil {
		t.Fatal(err)
	} else {
		r.Header.Set("Authorization", "Bearer admin")
		resp, err := http.DefaultClient.Do(r)
		if err != nil || resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET" || len(b.ctl.LiveCalls()) != n {
			t.Errorf("HEAD: %v %v, %d begun", resp, err, len(b.ctl.LiveCalls())-n)
		}
	}
}

func TestLiveIsSentAtOnceAndEndsWithTheReader(t *testing.T) {
	b := newBench(t)
	ended := make(chan error, 1)
	next := make(chan struct{})
	b.ctl.Live = func(ctx context.Context, w io.Writer) error {
		for i := 0; ; i++ {
			if _, err := w.Write([]byte{'0' + byte(i)}); err != nil {
				return err
			}
			select {
			case <-next:
			case <-ctx.Done():
				ended <- ctx.Err()
				return ctx.Err()
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", b.srv.URL+"/v1/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer admin")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	one := make([]byte, 1)
	for i := range 3 {
		if _, err := io.ReadFull(resp.Body, one); err != nil || one[0] != '0'+byte(i) {
			t.Fatal(i, one, err)
		}
		next <- struct{}{}
	}
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it goes on without a reader")
	}
}

func TestLiveThatBreaksIsNoCleanEnd(t *testing.T) {
	b := newBench(t)
	for _, begun := range []bool{false, true} {
		b.ctl.Change(func() {
			b.ctl.Live = func(_ context.Context, w io.Writer) error {
				if begun {
					if _, err := w.Write([]byte("x")); err != nil {
						return err
					}
				}
				return fault.New(fault.Unavailable, "the node went away")
			}
		})
		r, err := http.NewRequest("GET", b.srv.URL+"/v1/live", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer admin")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if begun != (err != nil) || begun != (resp.StatusCode == 200) {
			t.Errorf("begun %v: %d, %v", begun, resp.StatusCode, err)
		}
	}
}
