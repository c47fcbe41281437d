package sshapi

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"opentap/want"
)

// Limits of a command.
const (
	maxCommand = 64 << 10 // octets
	maxWords   = 4096
)

// Split takes a command apart as a POSIX shell would (Shell Command Language, section 2.2): blanks separate words; a
// backslash, single and double quotes take the meaning from what they hold. Nothing is expanded and no character is an
// operator: filters are full of parentheses and ampersands.
func Split(line string) ([]string, error) {
	if len(line) > maxCommand {
		return nil, fmt.Errorf("the command is longer than %d octets", maxCommand)
	}
	var words []string
	var word []byte
	in := false // a word, perhaps an empty one
	quote := byte(0)
	opened := 0
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == 0:
			return nil, errors.New("the command has a NUL in it")
		case quote == '\'' && c != '\'', quote == '"' && c != '"' && c != '\\':
			word = append(word, c)
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\':
			if i++; i == len(line) {
				return nil, errors.New("the command ends with a backslash")
			}
			switch n := line[i]; {
			case n == 0:
				return nil, errors.New("the command has a NUL in it")
			case n == '\n': // a line that goes on
				continue
			case quote == '"' && n != '"' && n != '\\' && n != '$' && n != '`':
				word = append(word, '\\', n)
			default:
				word = append(word, n)
			}
			in = true
		case c == '\'' || c == '"':
			quote, opened, in = c, i, true
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			if in {
				words = append(words, string(word))
				word, in = word[:0], false
			}
		default:
			word, in = append(word, c), true
		}
		if len(words) > maxWords {
			return nil, fmt.Errorf("the command has more than %d words", maxWords)
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the quote %c at character %d is not closed", quote, opened+1)
	}
	if in {
		words = append(words, string(word))
	}
	return words, nil
}

// Quote writes a word so that Split, and a shell, read it as it is.
func Quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@,+=", r))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// usageError is a mistake in the command.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// option is one option of a verb.
type option struct {
	long  string
	short byte   // 0 = none
	arg   string // what its value is called; "" = it has none
	help  string
	set   func(value string) error
}

// options are those of one verb.
type options struct{ list []option }

func (o *options) add(long string, short byte, arg, help string, set func(string) error) {
	o.list = append(o.list, option{long, short, arg, help, set})
}

func (o *options) flag(p *bool, long string, short byte, help string) {
	o.add(long, short, "", help, func(string) error { *p = true; return nil })
}

func (o *options) text(p *string, long string, short byte, arg, help string) {
	o.add(long, short, arg, help, func(v string) error { *p = v; return nil })
}

func (o *options) texts(p *[]string, long string, short byte, arg, help string) {
	o.add(long, short, arg, help, func(v string) error { *p = append(*p, strings.Split(v, ",")...); return nil })
}

func (o *options) duration(p *want.Duration, long string, short byte, help string) {
	o.add(long, short, "TIME", help, func(v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 {
			return fmt.Errorf("%q is not a duration such as 500ms, 10s or 2h", v)
		}
		*p = want.Duration(d)
		return nil
	})
}

func (o *options) number(p *uint64, long string, help string) {
	o.add(long, 0, "N", help, func(v string) error {
		n, err := strconv.ParseUint(v, 10, 63)
		if err != nil {
			return fmt.Errorf("%q is not a number", v)
		}
		*p = n
		return nil
	})
}

// parse takes the options from the words. They may stand anywhere; after "--" there are none. What is left is returned.
func (o *options) parse(words []string) (rest []string, err error) {
	for len(words) > 0 {
		w := words[0]
		words = words[1:]
		var opt *option
		var value, shown string
		given := false
		switch {
		case w == "--":
			return append(rest, words...), nil
		case len(w) < 2 || w[0] != '-':
			rest = append(rest, w)
			continue
		case w[1] == '-':
			var name string
			name, value, given = strings.Cut(w[2:], "=")
			shown = "--" + name
			opt = o.find(func(c *option) bool { return c.long == name })
		default:
			shown = w[:2]
			opt = o.find(func(c *option) bool { return c.short == w[1] })
			switch {
			case opt == nil || len(w) == 2:
			case opt.arg == "": // several in one: -qf
				words = append([]string{"-" + w[2:]}, words...)
			default:
				value, given = strings.TrimPrefix(w[2:], "="), true
			}
		}
		switch {
		case opt == nil:
			return nil, usagef("there is no option %s; -- goes before words that begin with - and are none", shown)
		case opt.arg == "" && given:
			return nil, usagef("%s takes no value", shown)
		case opt.arg != "" && !given:
			if len(words) == 0 {
				return nil, usagef("%s needs a value: %s", shown, opt.arg)
			}
			value, words = words[0], words[1:]
		}
		if err := opt.set(value); err != nil {
			return nil, usagef("%s: %w", shown, err)
		}
	}
	return rest, nil
}

func (o *options) find(fits func(*option) bool) *option {
	for i := range o.list {
		if fits(&o.list[i]) {
			return &o.list[i]
		}
	}
	return nil
}

// usage describes the options, a line each.
func (o *options) usage() string {
	var b strings.Builder
	for _, p := range o.list {
		left := "      --" + p.long
		if p.short != 0 {
			left = fmt.Sprintf("  -%c, --%s", p.short, p.long)
		}
		if p.arg != "" {
			left += " " + p.arg
		}
		fmt.Fprintf(&b, "%-28s  %s\n", left, p.help)
	}
	return b.String()
}
