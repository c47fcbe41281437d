package main

import (
	"bytes"
	"strings"
	"testing"

	"opentap/api/doortest"
)

// TestCompletionTables: each entry names a command or an option that there is.
func TestCompletionTables(t *testing.T) {
	root := (&app{}).root()
	for path := range askedArgs {
		cmd, rest, err := root.Find(strings.Fields(path))
		if err != nil || len(rest) > 0 || cmd.ValidArgsFunction == nil {
			t.Errorf("%s: %v %v", path, rest, err)
		}
	}
	for path := range fixedFlags {
		at, name, narrow := strings.Cut(path, "/")
		if !narrow {
			continue
		}
		cmd, _, err := root.Find(strings.Fields(at)[1:])
		if err != nil || cmd.Flags().Lookup(name) == nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestCompletion asks as a shell does.
func TestCompletion(t *testing.T) {
	_, srv := newServer(doortest.Users())
	defer srv.Close()
	t.Setenv("OPENTAP_URL", srv.URL)
	t.Setenv("OPENTAP_TOKEN", "admin")
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, tt := range []struct {
		line, want string
	}{
		{"live ", "eth0\t"},
		{"capture pcap --point ", "eth0\t"},
		{"tap mirror create --type ", "erspan2\n"},
		{"meter -o ", "parquet\n"},
		{"points -o ", "json\n"},
		{"flows top --by src,", "src,dport\n"},
	} {
		var out, errs bytes.Buffer
		if code := run(append([]string{"__complete"}, strings.Split(tt.line, " ")...), nil, &out, &errs); code != 0 || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%s: exit %d, %q", tt.line, code, out.String())
		}
	}
	t.Setenv("OPENTAP_TOKEN", "nobody's")
	var out bytes.Buffer
	if run([]string{"__complete", "live", ""}, nil, &out, &out); strings.Contains(out.String(), "eth0") || strings.Contains(out.String(), "opentap:") {
		t.Errorf("without rights: %q", out.String())
	}
}

func TestPlainWord(t *testing.T) {
	for s, want := range map[string]bool{"eth0": true, "host1/eth0.100": true, "fe80::1": true, "": false, "-o": false, "a b": false, "$(reboot)": false, "x;y": false, "\x1b[31m": false, "ü": false} {
		if plainWord(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}
