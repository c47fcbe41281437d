//go:build !linux

package flow

import "unsafe"

// hugePages is for Linux alone: other systems give huge pages unasked, or not at all.
func hugePages(unsafe.Pointer, uintptr) {}
