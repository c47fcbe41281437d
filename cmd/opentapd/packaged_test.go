package main

import (
	"os"
	"reflect"
	"regexp"
	"testing"
)

// The file that the packages install is good as it is, where it means the defaults, and with its examples taken in.
func TestThePackagedConfiguration(t *testing.T) {
	b, err := os.ReadFile("../../packaging/opentap.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "\n", "# a remark\n", "---\n  # a remark", string(b)} {
		c := defaultConfig()
		if err := parseConfig([]byte(text), &c); err != nil || !reflect.DeepEqual(c, defaultConfig()) {
			t.Errorf("%q is not what holds without a file: %v", text, err)
		}
	}
	c := defaultConfig()
	if err := parseConfig(regexp.MustCompile(`(?m)^#(\S| {2})`).ReplaceAll(b, []byte("$1")), &c); err != nil {
		t.Fatal(err)
	}
	if err := c.check(); err != nil || len(c.Recorders) != 1 || c.Retention.Quota != 10<<30 {
		t.Errorf("with its examples: %v, %+v", err, c)
	}
}
