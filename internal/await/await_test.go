package await

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fatal keeps what a test would have ended with.
type fatal struct {
	testing.TB
	text string
}

func (f *fatal) Fatalf(format string, args ...any) {
	f.text = fmt.Sprintf(format, args...)
	panic(f)
}

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		Until(t, "half a minute has passed", func() bool { return time.Since(began) >= 30*time.Second })
		if took := time.Since(began); took > 31*time.Second {
			t.Errorf("noticed after %v", took)
		}
		f := &fatal{TB: t}
		defer func() {
			if recover() != f || !strings.Contains(f.text, "still not: the sky falls") {
				t.Errorf("ended with %q", f.text)
			}
		}()
		Until(f, "the sky falls", func() bool { return false })
	})
}
