package main

import "strings"

// roff is a manual page that is being written, in the man macros; see man(7) and groff_man_style(7).
type roff struct{ b strings.Builder }

func (r *roff) String() string { return r.b.String() }

func (r *roff) line(s string) {
	r.b.WriteString(s)
	r.b.WriteByte('\n')
}

func (r *roff) section(title string) { r.line(".SH " + escape(strings.ToUpper(title))) }

// item writes a tagged paragraph. tag is roff, text is Markdown.
func (r *roff) item(tag, text string) { r.line(".TP\n" + tag + "\n" + inline(text)) }

// verbatim writes lines as they are.
func (r *roff) verbatim(lines []string) {
	if len(lines) == 0 {
		return
	}
	r.line(".PP\n.RS 4\n.nf")
	for _, l := range lines {
		r.line(guard(escape(l)))
	}
	r.line(".fi\n.RE")
}

// synopsis writes how a command is called: its first code that is in no language.
func (r *roff) synopsis(body []block) {
	for _, b := range body {
		if b.kind != code || b.lang != "" {
			continue
		}
		for _, l := range b.lines {
			r.line(bold(l) + "\n.br")
		}
		return
	}
}

// blocks writes a text. Without its synopsis, which has been written, when that is said.
func (r *roff) blocks(body []block, skipSynopsis bool) {
	for _, b := range body {
		switch b.kind {
		case heading:
			r.line(".SS " + inline(b.lines[0]))
		case paragraph:
			r.line(".PP")
			for _, l := range b.lines {
				r.line(inline(l))
			}
		case code:
			if skipSynopsis && b.lang == "" {
				skipSynopsis = false
				continue
			}
			r.verbatim(b.lines)
		case list:
			for _, l := range b.lines {
				r.line(".IP \\(bu 2\n" + inline(l))
			}
		case table: // a definition reads better than columns on a narrow terminal
			for _, row := range b.rows {
				text := row[len(row)-1]
				if len(row) == 3 && row[1] != "" {
					text += " (default " + strings.TrimSpace(row[1]) + ")"
				}
				r.item(inline(row[0]), text)
			}
		}
	}
	r.line(".PP")
}

// escape makes text stand for itself.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
}

func bold(s string) string { return guard(`\fB` + escape(s) + `\fP`) }

// guard keeps a line from being taken for a request.
func guard(s string) string {
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		return `\&` + s
	}
	return s
}
