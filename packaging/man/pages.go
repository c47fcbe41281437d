package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// edition is what a page's foot says.
type edition struct{ version, date string }

func (e edition) page(name string, section int, manual, summary string) *roff {
	var r roff
	// t: it has tables, which man then sends through tbl.
	fmt.Fprintf(&r.b, "'\\\" t\n.TH %s %d \"%s\" \"OpenTap %s\" \"%s\"\n", strings.ToUpper(strings.ReplaceAll(name, "-", `\-`)), section, e.date, e.version, manual)
	r.line(".nh\n.ad l")
	r.section("Name")
	r.line(escape(name) + ` \- ` + escape(summary))
	return &r
}

// commandPages makes opentap.1 of the first section of cli.md, and a page of each command below it; subcommands are in the page of
// theirs.
func commandPages(md string, e edition) (map[string]string, error) {
	_, rest, ok := strings.Cut("\n"+md, "\n## ")
	if !ok {
		return nil, errors.New("there is no command in it")
	}
	type command struct {
		words []string
		body  []block
	}
	groups := make(map[string][]command)
	for _, s := range strings.Split(rest, "\n## ") {
		title, body, _ := strings.Cut(s, "\n")
		words := strings.Fields(title)
		if len(words) == 0 || words[0] != "opentap" {
			return nil, fmt.Errorf("%q is no command of opentap", title)
		}
		name := strings.Join(words[:min(2, len(words))], "-")
		groups[name] = append(groups[name], command{words, blocks(body)})
	}
	if len(groups["opentap"]) != 1 || len(groups) < 2 {
		return nil, errors.New("the commands are not as this program knows them")
	}
	names := slices.Sorted(maps.Keys(groups))
	pages := make(map[string]string)
	for _, name := range names {
		main := groups[name][0]
		r := e.page(name, 1, "OpenTap", summary(main.words, main.body))
		r.section("Synopsis")
		for _, c := range groups[name] {
			r.synopsis(c.body)
		}
		for i, c := range groups[name] {
			if i == 0 {
				r.section("Description")
			} else {
				r.section(strings.Join(c.words, " "))
			}
			r.blocks(c.body, true)
		}
		if name == "opentap" {
			r.section("Commands")
			for _, n := range names[1:] {
				r.item(bold(n)+"(1)", summary(groups[n][0].words, groups[n][0].body))
			}
			r.section("See also")
			r.line(bold("opentapd") + "(8), " + bold("opentap.yaml") + "(5)")
		} else {
			r.section("See also")
			r.line(bold("opentap") + "(1), which has the options that all commands take, " + bold("opentapd") + "(8)")
		}
		pages[name+".1"] = r.String()
	}
	return pages, nil
}

// summary is the first sentence of a command's text, without its name at the front.
func summary(words []string, body []block) string {
	for _, b := range body {
		if b.kind != paragraph {
			continue
		}
		text := strings.Join(b.lines, " ")
		if s, _, ok := strings.Cut(text, ". "); ok {
			text = s
		}
		if s, _, ok := strings.Cut(text, ": "); ok && len(text) > 80 {
			text = s
		}
		return strings.TrimSuffix(strings.TrimPrefix(text, words[len(words)-1]+" "), ".")
	}
	return "see opentap(1)"
}

// configPage makes opentap.yaml.5.
func configPage(md string, e edition) string {
	r := e.page("opentap.yaml", 5, "OpenTap", "configuration of opentapd")
	r.section("Description")
	_, body, _ := strings.Cut(md, "\n")
	r.blocks(blocks(body), false)
	r.section("Files")
	r.item(bold("/etc/opentap/opentap.yaml"), "what the services of the packages read")
	r.section("See also")
	r.line(bold("opentapd") + "(8), " + bold("opentap") + "(1)")
	return r.String()
}

// daemonPage makes opentapd.8 of what opentapd --help says: a line of summary; Usage, Examples and Options, each with a colon;
// paragraphs between.
func daemonPage(help string, e edition) (string, error) {
	first, rest, ok := strings.Cut(help, "\n")
	name, summary, dashed := strings.Cut(first, " — ")
	if !ok || !dashed || name != "opentapd" {
		return "", fmt.Errorf("it begins with %.60q", first)
	}
	r := e.page("opentapd", 8, "OpenTap", strings.TrimSuffix(summary, "."))
	described := false
	var verbatim []string
	flush := func() {
		r.verbatim(verbatim)
		verbatim = nil
	}
	lines := strings.Split(strings.TrimRight(rest, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		l := lines[i]
		switch {
		case strings.HasPrefix(l, "  -") || strings.HasPrefix(l, "      --"): // an option; its meaning stands behind, or in lines below
			flush()
			option, meaning, _ := strings.Cut(strings.TrimSpace(l), "\t")
			for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "    \t") {
				i++
				meaning += " " + strings.TrimSpace(lines[i])
			}
			if strings.HasPrefix(option, "-") && !strings.HasPrefix(option, "--") && len(strings.Fields(option)[0]) > 2 {
				option = "-" + option
			}
			r.item(bold(option), strings.TrimSpace(meaning))
		case strings.HasPrefix(l, "  "):
			verbatim = append(verbatim, l[2:])
		case strings.HasSuffix(l, ":") && !strings.Contains(l, " "):
			flush()
			r.section(strings.TrimSuffix(strings.Replace(l, "Usage", "Synopsis", 1), ":"))
			described = false
		case l == "":
			flush()
		default:
			flush()
			if !described {
				r.section("Description")
				described = true
			}
			r.line(".PP\n" + inline(l))
			for i+1 < len(lines) && lines[i+1] != "" && lines[i+1][0] != ' ' {
				i++
				r.line(inline(lines[i]))
			}
		}
	}
	flush()
	r.section("Services")
	r.item(bold("opentap.service"), "controller, agent and doors in one process, for one host")
	r.item(bold("opentap-controller.service"), "the controller alone, without any right to see packets")
	r.item(bold("opentap-agent.service"), "the agent alone, for a controller on another host")
	r.line(".PP\nOne of them runs at a time on a host. They run as the user opentap, with the capabilities that each needs, and can write " +
		"to /var/lib/opentap alone. For a data_dir or capture_dir elsewhere, make the directory, give it to opentap, and let the service " +
		"write there:")
	r.verbatim([]string{
		"install -d -m 0700 -o opentap -g opentap /srv/captures", "systemctl edit opentap.service", "",
		"[Service]", "ReadWritePaths=/srv/captures",
	})
	r.section("Files")
	r.item(bold("/etc/opentap/opentap.yaml"), "configuration")
	r.item(bold("/etc/opentap/opentap.conf"), "configuration of the first OpenTap, read when there is no opentap.yaml")
	r.item(bold("/var/lib/opentap"), "state, audit log and captured data")
	r.item(bold("/var/lib/opentap/admin.token"), "the administrator's token, made at the first start")
	r.section("See also")
	r.line(bold("opentap.yaml") + "(5), " + bold("opentap") + "(1), " + bold("capabilities") + "(7)")
	return r.String(), nil
}
