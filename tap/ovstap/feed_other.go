//go:build !linux

package ovstap

import (
	"fmt"
	"runtime"

	"opentap/tap"
)

func layFeed(string, string, int) error {
	return fmt.Errorf("%w: feeds need Linux, and this is %s", tap.ErrUnsupported, runtime.GOOS)
}

func liftFeed(string) error { return nil }

func feedLaid(string) bool { return false }

func feedsLaid(string) ([]string, error) { return nil, nil }
