package agent

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// FreeOctets is what an ordinary user may still write in the file system of dir.
func FreeOctets(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
