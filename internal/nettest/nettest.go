// Package nettest gives tests network namespaces, cables, frames and load of their own.
//
// Runs in: tools
//
// Nothing it makes has a name outside the test: namespaces are held by file descriptors and vanish, with the
// interfaces in them, when the test ends. Everything needs root; without it tests are skipped with the missing
// capability named.
package nettest
