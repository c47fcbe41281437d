package flow

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugeLen is the length of a huge page on most machines. With others, asking does nothing.
const hugeLen = 2 << 20

// hugePages asks the kernel for huge pages around the n octets at p, which nobody has touched yet: each packet reads at a
// place of its own in a large table, and to find a page of 4 KiB may take the processor longer than to read. What lies
// beside it may get into huge pages, too. Nothing depends on the answer. madvise(2), MADV_HUGEPAGE.
func hugePages(p unsafe.Pointer, n uintptr) {
	from := uintptr(p) &^ (hugeLen - 1)
	to := (uintptr(p) + n + hugeLen - 1) &^ (hugeLen - 1)
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_HUGEPAGE)
}
