package main

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"opentap/agent"
	"opentap/audit"
	"opentap/doctor"
	"opentap/want"
)

// doctorOf looks at this host as this configuration uses it. ag is nil where there is no agent; shown, where people have no
// certificate to see.
func doctorOf(cfg config, node string, ag *agent.Agent, shown certificate) doctor.Doctor {
	return doctor.Shared(func(ctx context.Context) (want.Examination, error) {
		var facts want.Node
		known := func(string) bool { return false }
		captures := ""
		if ag != nil {
			_, facts = ag.Inventory()
			known = ag.Owns
			captures = cfg.captureDir()
		}
		x := want.Examination{Node: node, Time: time.Now().UTC(), Settings: settingsOf(cfg)}
		x.Findings = doctor.Look(ctx, doctor.Config{
			DataDir: cfg.DataDir, CaptureDir: captures, Quota: int64(cfg.Retention.Quota),
			MinFree: int64(cfg.Retention.MinFree), Used: facts.DiskUsed, RingBytes: int64(cfg.Ring.Blocks) * int64(cfg.Ring.BlockSize), Known: known,
		})
		if ag != nil {
			x.Findings = append(x.Findings, governorFinding(cfg.budgets(), facts.GovernorStage, facts.Problems), readerFinding(facts.Recordings, cfg.dedicated(), runtime.NumCPU()))
			x.Findings = append(x.Findings, tapFinding(ag.LeftTaps()))
			version, there, err := ag.OpenVSwitch(ctx)
			x.Findings = append(x.Findings, switchFinding(version, there || cfg.Taps.OVSDB != "", err))
		}
		if cfg.Role != "agent" {
			x.Findings = append(x.Findings, chain(auditDir(cfg)))
		}
		if shown != nil {
			x.Findings = append(x.Findings, certificateFinding(shown.Expires(), time.Now()))
		}
		for _, p := range facts.Problems {
			if governorSays(p) {
				continue
			}
			x.Findings = append(x.Findings, want.Finding{Check: "agent", Severity: want.Warn, Text: p, Fix: "see the log of opentapd around the time when this began"})
		}
		return x, ctx.Err()
	})
}

// switchFinding tells whether ports of this host's Open vSwitch can be tapped; expected, whether there should be one.
func switchFinding(version string, expected bool, err error) want.Finding {
	const check = "open_vswitch"
	switch {
	case err == nil:
		return want.Finding{Check: check, Severity: want.Fine, Text: "ports of Open vSwitch " + version + " can be tapped"}
	case !expected:
		return want.Finding{Check: check, Severity: want.Fine, Text: "there is no Open vSwitch on this host"}
	}
	return want.Finding{
		Check: check, Severity: want.Warn, Text: "ports of Open vSwitch cannot be tapped: " + err.Error(),
		Fix: "start Open vSwitch, or say in taps.ovsdb where the socket of its database is; opentapd must be able to write to it and to the control socket of ovs-vswitchd beside it",
	}
}

// tapFinding tells what taps of agents that do not run have left on this host.
func tapFinding(dirs, devices []string, err error) want.Finding {
	const check = "taps"
	switch {
	case err != nil:
		return want.Finding{Check: check, Severity: want.Warn, Text: err.Error(), Fix: "start opentapd with the rights that taps need, by the packaged service, and ask again"}
	case len(dirs)+len(devices) == 0:
		return want.Finding{Check: check, Severity: want.Fine, Text: "no tap was left by an agent that does not run"}
	}
	var what, fix []string
	if n := len(dirs); n > 0 {
		what = append(what, fmt.Sprintf("%d directories of taps (%s)", n, some(dirs)))
		fix = append(fix, "rm -r "+some(dirs))
	}
	if n := len(devices); n > 0 {
		what = append(what, fmt.Sprintf("%d devices (%s)", n, some(devices)))
		fix = append(fix, "ip link del each of "+some(devices))
	}
	return want.Finding{
		Check: check, Severity: want.Warn, Text: "of agents that do not run there are " + strings.Join(what, " and ") + "; such taps go on copying",
		Fix: "start that agent again with its data directory, and it takes them over; or, if it is gone for good: " + strings.Join(fix, "; "),
	}
}

// some names the first few.
func some(names []string) string {
	const few = 5
	if len(names) > few {
		return strings.Join(names[:few], " ") + " …"
	}
	return strings.Join(names, " ")
}

// chain checks the audit log as --verify-audit does, beside its writer.
func chain(dir string) want.Finding {
	r, err := audit.Verify(dir)
	if err != nil {
		return want.Finding{
			Check: "audit", Severity: want.Bad, Text: err.Error(),
			Fix: "keep a copy of the directory and find out who changed it; what follows the place named proves nothing",
		}
	}
	if r.Head.Seq == 0 {
		return want.Finding{Check: "audit", Severity: want.Fine, Text: "the audit log has no entries yet"}
	}
	return want.Finding{Check: "audit", Severity: want.Fine, Text: fmt.Sprintf("the audit log is whole: entries %d to %d, head %s", r.First, r.Head.Seq, r.Head)}
}

// certificateEarly is when an end that comes near is told: later than a self-made certificate is renewed.
const certificateEarly = 14 * 24 * time.Hour

func certificateFinding(ends, now time.Time) want.Finding {
	f := want.Finding{Check: "certificate", Severity: want.Fine, Text: "the server's certificate is valid until " + ends.UTC().Format(time.RFC3339)}
	switch {
	case now.After(ends):
		f.Severity, f.Text = want.Bad, "the server's certificate ended on "+ends.UTC().Format(time.RFC3339)
	case now.After(ends.Add(-certificateEarly)):
		f.Severity = want.Warn
	default:
		return f
	}
	f.Fix = "renew the files of tls.cert and tls.key; a self-made certificate renews itself, and the log says why it could not"
	return f
}

// settingsOf lists the configuration's values, sorted as the struct is.
func settingsOf(cfg config) []want.Setting {
	var out []want.Setting
	eachValue(reflect.ValueOf(cfg), "", func(key, value string) {
		origin := cfg.origins[key]
		if origin == "" {
			origin = "default"
		}
		out = append(out, want.Setting{Key: key, Value: value, Origin: origin})
	})
	return out
}

// originsOf says for each key where its value is from: a file when it is other than the default, unless a flag was given.
func originsOf(read config, flags map[string]bool) map[string]string {
	defaults := make(map[string]string)
	eachValue(reflect.ValueOf(defaultConfig()), "", func(key, value string) { defaults[key] = value })
	out := make(map[string]string, len(defaults))
	eachValue(reflect.ValueOf(read), "", func(key, value string) {
		switch {
		case flags[key]:
			out[key] = "flag"
		case value != defaults[key]:
			out[key] = "file"
		default:
			out[key] = "default"
		}
	})
	return out
}

// eachValue spells the values as YAML, by key. Those of a key that names a secret, and not a file of it, are left out.
func eachValue(v reflect.Value, prefix string, fn func(key, value string)) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		key := prefix + f.Tag.Get("yaml")
		if f.Type.Kind() == reflect.Struct {
			eachValue(v.Field(i), key+".", fn)
			continue
		}
		b, err := yaml.MarshalWithOptions(v.Field(i).Interface(), yaml.Flow(true))
		value := strings.TrimSpace(string(b))
		if plain, uerr := strconv.Unquote(value); uerr == nil {
			value = plain
		}
		switch {
		case err != nil:
			value = "cannot be shown: " + err.Error()
		case value != "" && (strings.HasSuffix(key, "password") || strings.HasSuffix(key, "secret") || strings.HasSuffix(key, "token")):
			value = "(not shown)"
		}
		fn(key, value)
	}
}
