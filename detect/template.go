package detect

import (
	"regexp"
	"slices"
	"strings"

	"opentap/fault"
)

var (
	brace = regexp.MustCompile(`\{[^{}]*\}|[{}]`)
	// plain is all that a value of a key can be made of.
	plain = regexp.MustCompile(`^[0-9A-Za-z.:_-]+$`)
)

// examples are values of keys, to try templates with.
var examples = map[string]string{
	"src": "192.0.2.1", "dst": "192.0.2.2", "agent": "192.0.2.3", "proto": "tcp", "smac": "02:00:00:00:00:01", "dmac": "02:00:00:00:00:02",
	"dpid": "0000000000000001", "device": "eth0", "name": "eth0", "way": "in",
}

// Fill puts the values of keys in the place of their names in braces. A name that is no key is an error, and so is a value that
// is not of the plain letters which addresses, numbers, protocols and devices are spelt with: nothing else gets into a text that is
// then understood as something.
func Fill(template string, names, values []string) (string, error) {
	var err error
	out := brace.ReplaceAllStringFunc(template, func(m string) string {
		name := strings.Trim(m, "{}")
		i := slices.Index(names, name)
		switch {
		case i < 0 || i >= len(values) || len(m) < 3:
			err = fault.Field("then", "%q: %s is no key of the rule; its keys are %s", template, m, strings.Join(names, ", "))
			return m
		case !plain.MatchString(values[i]):
			err = fault.Field("then", "the value %q of %s cannot be put into a template", values[i], name)
			return m
		}
		return values[i]
	})
	if err != nil {
		return "", err
	}
	return out, nil
}

// Example fills a template with values such as the keys may have.
func Example(template string, names []string) (string, error) {
	values := make([]string, len(names))
	for i, n := range names {
		if values[i] = examples[n]; values[i] == "" {
			values[i] = "1"
		}
	}
	return Fill(template, names, values)
}
