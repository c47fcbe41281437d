package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// table writes rows in the form that was asked for. raw is what -o json writes.
func (a *app) table(header []string, rows [][]string, raw any) error {
	switch a.output {
	case "json":
		return a.json(raw)
	case "csv":
		w := csv.NewWriter(a.stdout)
		_ = w.Write(lower(header))
		for _, r := range rows {
			for i := range r {
				r[i] = clean(r[i])
			}
			_ = w.Write(r)
		}
		w.Flush()
		return w.Error()
	}
	width := make([]int, len(header))
	all := append([][]string{header}, rows...)
	for _, r := range all {
		for i := range r {
			if r[i] = clean(r[i]); r[i] == "" {
				r[i] = "-"
			}
			width[i] = max(width[i], utf8.RuneCountInString(r[i]))
		}
	}
	var b strings.Builder
	for _, r := range all {
		for i, cell := range r {
			b.WriteString(cell)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
	_, err := fmt.Fprint(a.stdout, b.String())
	return err
}

// fields writes one thing, a line a property.
func (a *app) fields(list [][2]string, raw any) error {
	switch a.output {
	case "json":
		return a.json(raw)
	case "csv":
		rows := make([][]string, len(list))
		for i, f := range list {
			rows[i] = []string{f[0], f[1]}
		}
		return a.table([]string{"property", "value"}, rows, raw)
	}
	width := 0
	for _, f := range list {
		width = max(width, len(f[0]))
	}
	for _, f := range list {
		if f[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(a.stdout, "%-*s  %s\n", width, f[0], clean(f[1])); err != nil {
			return err
		}
	}
	return nil
}

// json writes v, with whatever a terminal might act on as \u codes.
func (a *app) json(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	var out strings.Builder
	for _, r := range b.String() {
		if r != '\n' && unsafeRune(r) {
			fmt.Fprintf(&out, `\u%04x`, r)
			continue
		}
		out.WriteRune(r)
	}
	_, err := fmt.Fprint(a.stdout, out.String())
	return err
}

func lower(s []string) []string {
	out := make([]string, len(s))
	for i := range s {
		out[i] = strings.ReplaceAll(strings.ToLower(s[i]), " ", "_")
	}
	return out
}
