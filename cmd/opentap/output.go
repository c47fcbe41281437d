package main

import "opentap/report"

// table writes rows in the form that was asked for. raw is what -o json writes.
func (a *app) table(header []string, rows [][]string, raw any) error {
	return report.Table(a.stdout, report.Form(a.output), header, rows, raw)
}

// fields writes one thing, a line a property.
func (a *app) fields(list [][2]string, raw any) error {
	return report.Fields(a.stdout, report.Form(a.output), list, raw)
}

// json writes v, with whatever a terminal might act on as \u codes.
func (a *app) json(v any) error { return report.Indented(a.stdout, v) }

// clean makes text from elsewhere safe for a terminal.
func clean(s string) string { return report.Clean(s) }

// octets writes a count of octets for people.
func octets[T ~int64 | ~uint64 | ~int](n T) string { return report.Octets(n) }
