//go:build !linux

package doctor

import (
	"errors"

	"opentap/want"
)

func host(cfg Config) []want.Finding {
	if cfg.CaptureDir == "" {
		return nil
	}
	return []want.Finding{found("kernel", want.Bad, "run opentapd on Linux", "this system cannot capture")}
}

func freeOctets(string) (int64, error) { return 0, errors.New("not on this system") }
