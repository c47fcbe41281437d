// Package sysfs reads what drivers tell of sensors below /sys.
//
// Runs in: agent | tools
package sysfs

import (
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unicode"
)

// maxFile bounds what is read of a file. Octets: a sysfs attribute is at most a page; a number or a word is far less.
const maxFile = 256

// MaxWord bounds a name or label. Octets.
const MaxWord = 64

// ReadText reads a small sysfs attribute whole. It makes the system calls itself: package os would hand the file to the
// poller, which sysfs accepts, and wait for ever where a driver answers EAGAIN ("not now").
func ReadText(dir, name string) (text string, err error) {
	path := filepath.Join(dir, name)
	fd, err := open(path)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = syscall.Close(fd) }()
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return "", fmt.Errorf("%s is not a plain file", name)
	}
	var buf [maxFile + 1]byte
	n := 0
	for n < len(buf) {
		m, err := syscall.Read(fd, buf[n:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return "", &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if m <= 0 {
			break
		}
		n += m
	}
	if n > maxFile {
		return "", fmt.Errorf("%s has more than %d octets", name, maxFile)
	}
	return strings.TrimSpace(string(buf[:n])), nil
}

// open opens for reading and never waits: a pipe planted in the tree must not hold the reader.
func open(path string) (fd int, err error) {
	for {
		fd, err = syscall.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
		if err != syscall.EINTR {
			return fd, err
		}
	}
}

// ReadInt reads a whole number.
func ReadInt(dir, name string) (int64, error) {
	text, err := ReadText(dir, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s says %.40q, which is not a number", name, text)
	}
	return n, nil
}

// ReadFloat reads a number, which may have a fraction.
func ReadFloat(dir, name string) (float64, error) {
	text, err := ReadText(dir, name)
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("%s says %.40q, which is not a number", name, text)
	}
	return v, nil
}

// ReadWord reads a name or a label.
func ReadWord(dir, name string) (string, error) {
	text, err := ReadText(dir, name)
	if err != nil {
		return "", err
	}
	if text = Word(text); text == "" {
		return "", fmt.Errorf("%s is empty", name)
	}
	return text, nil
}

// Word makes text fit for a name: printable, valid UTF-8, bounded, without the slash that divides names.
func Word(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '/':
			return '_'
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	for len(text) > MaxWord {
		runes := []rune(text)
		text = string(runes[:len(runes)-1])
	}
	return strings.TrimSpace(text)
}
