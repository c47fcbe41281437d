package main

import (
	"regexp"
	"strings"
)

// kind is what a block of Markdown is.
type kind int

const (
	paragraph kind = iota + 1
	heading
	code
	table
	list
)

// block is one block of the Markdown that our references use: paragraphs, headings, fenced code, tables and plain lists.
type block struct {
	kind  kind
	lang  string     // of code
	lines []string   // of a paragraph or code; of a heading, its one; of a list, an item each
	rows  [][]string // of a table, without its head
}

// blocks takes a text apart.
func blocks(md string) (out []block) {
	lines := strings.Split(md, "\n")
	for i := 0; i < len(lines); {
		l := lines[i]
		switch {
		case strings.TrimSpace(l) == "":
			i++
		case strings.HasPrefix(l, "```"):
			b := block{kind: code, lang: strings.TrimPrefix(l, "```")}
			for i++; i < len(lines) && !strings.HasPrefix(lines[i], "```"); i++ {
				b.lines = append(b.lines, lines[i])
			}
			i++
			out = append(out, b)
		case strings.HasPrefix(l, "#"):
			out = append(out, block{kind: heading, lines: []string{strings.TrimSpace(strings.TrimLeft(l, "#"))}})
			i++
		case strings.HasPrefix(l, "|"):
			b := block{kind: table}
			for n := 0; i < len(lines) && strings.HasPrefix(lines[i], "|"); i, n = i+1, n+1 {
				if n >= 2 { // behind the head and its rule
					b.rows = append(b.rows, cells(lines[i]))
				}
			}
			out = append(out, b)
		case strings.HasPrefix(l, "- "):
			b := block{kind: list}
			for i < len(lines) && lines[i] != "" && (strings.HasPrefix(lines[i], "- ") || strings.HasPrefix(lines[i], "  ")) {
				if item, ok := strings.CutPrefix(lines[i], "- "); ok {
					b.lines = append(b.lines, item)
				} else {
					b.lines[len(b.lines)-1] += " " + strings.TrimSpace(lines[i])
				}
				i++
			}
			out = append(out, b)
		default:
			b := block{kind: paragraph}
			for i < len(lines) && lines[i] != "" && !strings.HasPrefix(lines[i], "```") && !strings.HasPrefix(lines[i], "|") && !strings.HasPrefix(lines[i], "#") {
				b.lines = append(b.lines, lines[i])
				i++
			}
			out = append(out, b)
		}
	}
	return out
}

// cells splits a row of a table. A bar behind a backslash is text.
func cells(row string) (out []string) {
	row = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(row), "|"), "|")
	for _, c := range strings.Split(strings.ReplaceAll(row, `\|`, "\x00"), "|") {
		out = append(out, strings.ReplaceAll(strings.TrimSpace(c), "\x00", "|"))
	}
	return out
}

// What is marked within a line: code, bold, links.
var (
	marked = regexp.MustCompile("`([^`]+)`|\\*\\*([^*]+)\\*\\*|\\[([^\\]]+)\\]\\([^)]*\\)")
)

// inline turns marks within text to roff: code and bold are bold; of a link the text stays.
func inline(text string) string {
	var b strings.Builder
	for at := 0; ; {
		m := marked.FindStringSubmatchIndex(text[at:])
		if m == nil {
			b.WriteString(escape(text[at:]))
			break
		}
		b.WriteString(escape(text[at : at+m[0]]))
		switch {
		case m[2] >= 0:
			b.WriteString(bold(text[at+m[2] : at+m[3]]))
		case m[4] >= 0:
			b.WriteString(bold(text[at+m[4] : at+m[5]]))
		default:
			b.WriteString(inline(text[at+m[6] : at+m[7]]))
		}
		at += m[1]
	}
	return guard(b.String())
}
