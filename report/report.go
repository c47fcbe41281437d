// Package report writes what people read at a terminal, and the same for their programs: tables, CSV, JSON, accounts.
//
// Runs in: controller | tools
package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Form is how something is written.
type Form string

// Forms.
const (
	Text Form = "table" // columns for people
	CSV  Form = "csv"
	JSON Form = "json"
)

// Table writes rows. raw is what is written as JSON. The rows' cells are made safe in place.
func Table(w io.Writer, form Form, header []string, rows [][]string, raw any) error {
	switch form {
	case JSON:
		return Indented(w, raw)
	case CSV:
		out := csv.NewWriter(w)
		names := make([]string, len(header))
		for i, h := range header {
			names[i] = strings.ReplaceAll(strings.ToLower(h), " ", "_")
		}
		_ = out.Write(names) // Flush keeps the error
		for _, r := range rows {
			for i := range r {
				r[i] = Clean(r[i])
			}
			_ = out.Write(r)
		}
		out.Flush()
		return out.Error()
	}
	width := make([]int, len(header)) // characters
	all := append([][]string{header}, rows...)
	for _, r := range all {
		for i := range r {
			if r[i] = Clean(r[i]); r[i] == "" {
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
	_, err := io.WriteString(w, b.String())
	return err
}

// Fields writes one thing, a line a property; for people those without a value are left out. raw is what is written as JSON.
func Fields(w io.Writer, form Form, list [][2]string, raw any) error {
	switch form {
	case JSON:
		return Indented(w, raw)
	case CSV:
		rows := make([][]string, len(list))
		for i, f := range list {
			rows[i] = []string{f[0], f[1]}
		}
		return Table(w, CSV, []string{"property", "value"}, rows, raw)
	}
	width := 0
	for _, f := range list {
		width = max(width, utf8.RuneCountInString(f[0]))
	}
	var b strings.Builder
	for _, f := range list {
		if f[1] != "" {
			fmt.Fprintf(&b, "%-*s  %s\n", width, f[0], Clean(f[1]))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Indented writes v as JSON, with whatever a terminal might act on as \u codes.
func Indented(w io.Writer, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	var out strings.Builder
	for _, r := range b.String() {
		if r != '\n' && unsafe(r) {
			fmt.Fprintf(&out, `\u%04x`, r)
			continue
		}
		out.WriteRune(r)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// Clean makes text from elsewhere safe for a terminal: control characters, which could move the cursor or hide text, and
// characters that change the writing direction, are shown as codes.
func Clean(s string) string {
	if !strings.ContainsFunc(s, unsafe) {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	var b strings.Builder
	for _, r := range s {
		if unsafe(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func unsafe(r rune) bool {
	return r < ' ' || r >= 0x7f && r <= 0x9f || r == 0x061c || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff
}
