package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"opentap/client"
	"opentap/fault"
	"opentap/want"
)

func TestTheDoctorLooksAtTheRunningHost(t *testing.T) {
	p := launch(t, "0.0.0.0:0", func(c *config) {
		c.Taps.OVSDB = filepath.Join(t.TempDir(), "nothing")
		c.origins = originsOf(*c, map[string]bool{"listen": true})
	})
	ctx := context.Background()
	tr := client.Trust{CA: filepath.Join(p.dir, "tls", "ca.pem")}
	admin := p.client(t, "https", p.token, tr)
	if err := os.WriteFile(filepath.Join(p.dir, "captures", "stranger"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	x, err := admin.Doctor(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	severity := make(map[string]want.Severity)
	for _, f := range x.Findings {
		severity[f.Check] = f.Severity
		if f.Text == "" || (f.Fix == "") != (f.Severity == want.Fine) {
			t.Errorf("%+v", f)
		}
	}
	if severity["audit"] != want.Fine || severity["governor"] != want.Fine || severity["readers"] != want.Fine || severity["certificate"] != want.Fine || severity["leftovers"] != want.Warn || severity["disk_data"] == "" || severity["open_vswitch"] != want.Warn || x.Node != "here" {
		t.Errorf("%+v", x)
	}
	origin := make(map[string]string)
	for _, s := range x.Settings {
		origin[s.Key+"="+s.Value] = s.Origin
	}
	if origin["listen=0.0.0.0:0"] != "flag" || origin["log.level=debug"] != "file" || origin["flow.idle_timeout=15s"] != "default" {
		t.Errorf("%v", x.Settings)
	}
	tok, err := admin.CreateToken(ctx, want.TokenRequest{Name: "owner", Role: "owner"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.client(t, "https", tok.Token, tr).Doctor(ctx, ""); !fault.Is(err, fault.Forbidden) {
		t.Errorf("an owner: %v", err)
	}
}

func TestACertificateThatEndsIsFound(t *testing.T) {
	now := time.Now()
	for days, want := range map[int]want.Severity{60: want.Fine, 10: want.Warn, -1: want.Bad} {
		if f := certificateFinding(now.Add(time.Duration(days)*24*time.Hour), now); f.Severity != want {
			t.Errorf("%d days: %+v", days, f)
		}
	}
}
