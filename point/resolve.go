package point

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"opentap/fault"
)

// MaxName bounds a name that is resolved, in octets. Longer ones are refused unread.
const MaxName = 512

// maxHints is how many names an error offers.
const maxHints = 5

// Alias is a name that the configuration gives to a point.
type Alias struct {
	Name   string // what people write
	Target string // a point's name, or node/name
}

// Set resolves names over a fixed set of points. Names are opaque text: they are compared octet by octet, and have no path
// meaning. The zero Set has no points. A Set is never changed and safe for concurrent use.
type Set struct {
	points []Point
	exact  map[string][]int // by name
	alias  map[string][]int // by alias
	full   map[string][]int // by node/name
	nick   map[string][]int // by node/alias
	def    string           // the configured default; "" = none
}

// NewSet makes a Set of points, with the configuration's aliases and default ("" = none; a name as Resolve takes it).
// The slices are copied. Aliases of the configuration go before those that the points have already; one whose target is
// not there is kept for when it is: it then resolves to NotFound.
func NewSet(points []Point, aliases []Alias, def string) *Set {
	s := &Set{
		points: slices.Clone(points),
		exact:  make(map[string][]int), alias: make(map[string][]int), full: make(map[string][]int), nick: make(map[string][]int),
		def: def,
	}
	for i := range s.points {
		p := &s.points[i]
		var given []string
		for _, a := range aliases {
			if a.Name != "" && (a.Target == p.Name || (p.Node != "" && a.Target == p.Node+"/"+p.Name)) {
				given = append(given, a.Name)
			}
		}
		all := make([]string, 0, len(given)+len(p.Aliases))
		for _, a := range append(given, p.Aliases...) {
			if a != "" && !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
		p.Aliases = all[:len(all):len(all)]
		s.exact[p.Name] = append(s.exact[p.Name], i)
		for _, a := range p.Aliases {
			s.alias[a] = append(s.alias[a], i)
		}
		if p.Node == "" {
			continue
		}
		s.full[p.Node+"/"+p.Name] = append(s.full[p.Node+"/"+p.Name], i)
		for _, a := range p.Aliases {
			s.nick[p.Node+"/"+a] = append(s.nick[p.Node+"/"+a], i)
		}
	}
	if i, ok := s.defaultIndex(); ok {
		for k := range s.points {
			s.points[k].Default = k == i
		}
	}
	return s
}

// Points returns the points with all their aliases and Default set on the one that is it. The slice is the caller's.
func (s *Set) Points() []Point {
	points := slices.Clone(s.points)
	for i := range points {
		points[i].Aliases = slices.Clone(points[i].Aliases)
	}
	return points
}

// Resolve finds the point that name means: exactly a point's name, else an alias, else node/name, else node/alias; the
// names are case-sensitive. "" and "0" mean the default: the configured one, else the point marked Default (by package netdev:
// the device of the default route), else the first device that is up and not the loopback.
//
// Errors are *fault.Error: Invalid with the candidates when several points have the name, NotFound with the nearest names
// as its hint when none has, Invalid when the name is no text or longer than MaxName.
func (s *Set) Resolve(name string) (Point, error) {
	if name == "" || name == "0" {
		return s.Default()
	}
	if len(name) > MaxName {
		return Point{}, fault.Field("points", "a name of %d octets is too long, %d is the most", len(name), MaxName)
	}
	if !utf8.ValidString(name) {
		return Point{}, fault.Field("points", "the name %q is not UTF-8 text", name)
	}
	i, ok, err := s.find(name)
	if err != nil {
		return Point{}, err
	}
	if !ok {
		e := fault.New(fault.NotFound, "no observation point %q", name)
		e.Field, e.Hint = "points", s.hint(name)
		return Point{}, e
	}
	return s.get(i), nil
}

// Default returns the default point. The error is a *fault.Error of kind NotFound when there is none.
func (s *Set) Default() (Point, error) {
	if i, ok := s.defaultIndex(); ok {
		return s.get(i), nil
	}
	e := fault.New(fault.NotFound, "no observation point is named, and there is no default")
	e.Field, e.Hint = "points", s.hint("")
	if s.def != "" {
		e.Msg = "the configured default observation point " + quote(s.def) + " is not there"
	}
	return Point{}, e
}

// defaultIndex finds the default. A configured default that is not there is not replaced by another: captures would
// silently come from elsewhere.
func (s *Set) defaultIndex() (int, bool) {
	if s.def != "" {
		i, ok, err := s.find(s.def)
		return i, ok && err == nil
	}
	for _, good := range []func(*Point) bool{
		func(p *Point) bool { return p.Default },
		func(p *Point) bool { return p.Kind == Netdev && p.Present && p.Up && p.Name != "lo" },
	} {
		if i := slices.IndexFunc(s.points, func(p Point) bool { return good(&p) }); i >= 0 {
			return i, true
		}
	}
	return 0, false
}

// find looks name up where names are looked up first to last; the first place that has it decides.
func (s *Set) find(name string) (int, bool, error) {
	for _, m := range []map[string][]int{s.exact, s.alias, s.full, s.nick} {
		switch found := m[name]; len(found) {
		case 0:
		case 1:
			return found[0], true, nil
		default:
			e := fault.Field("points", "the name %q is ambiguous", name)
			names := make([]string, 0, maxHints)
			for _, i := range found[:min(len(found), maxHints)] {
				names = append(names, quote(s.qualified(i)))
			}
			e.Hint = "say which: " + strings.Join(names, ", ")
			if more := len(found) - len(names); more > 0 {
				e.Hint += " …"
			}
			return 0, false, e
		}
	}
	return 0, false, nil
}

// qualified returns the name that means point i alone.
func (s *Set) qualified(i int) string {
	if p := &s.points[i]; p.Node != "" && len(s.exact[p.Name]) > 1 {
		return p.Node + "/" + p.Name
	}
	return s.points[i].Name
}

func (s *Set) get(i int) Point {
	p := s.points[i]
	p.Aliases = slices.Clone(p.Aliases)
	return p
}

// hint offers the names nearest to name; of "" the first ones.
func (s *Set) hint(name string) string {
	type near struct {
		name string
		dist int
	}
	var all []near
	seen := make(map[string]bool)
	for i := range s.points {
		for _, n := range append([]string{s.qualified(i)}, s.points[i].Aliases...) {
			if !seen[n] {
				seen[n] = true
				all = append(all, near{n, distance(name, n)})
			}
		}
	}
	if len(all) == 0 {
		return "there are no observation points"
	}
	slices.SortStableFunc(all, func(a, b near) int { return cmp.Compare(a.dist, b.dist) })
	names := make([]string, 0, maxHints)
	for _, n := range all[:min(len(all), maxHints)] {
		names = append(names, quote(n.name))
	}
	if len(all) > maxHints {
		names = append(names, "…")
	}
	return "there are " + strings.Join(names, ", ")
}

// quote shows a name, whatever is in it, on one line.
func quote(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || r == ',' || r == 0x7f || r == utf8.RuneError }) {
		return strings.ToValidUTF8(`"`+strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f || r == '"' {
				return '\uFFFD'
			}
			return r
		}, s)+`"`, "\uFFFD")
	}
	return s
}

// distance is the number of octets to insert, delete or replace to make b of a (Levenshtein), without case; of the first
// 64 octets, which bounds the work.
func distance(a, b string) int {
	a, b = strings.ToLower(a[:min(len(a), 64)]), strings.ToLower(b[:min(len(b), 64)])
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}
