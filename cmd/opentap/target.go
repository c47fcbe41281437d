package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"opentap/client"
	"opentap/want"
)

// target is where a download goes: a file that appears under its name when it is whole, or a stream.
type target struct {
	path   string // "-" for standard output
	format want.Format
	stream io.Writer // of standard output, pipes and devices
	file   *os.File  // path + ".part"
	opened *os.File  // the stream, when it is ours to close
	part   client.Part
	uid    string
	noted  time.Time
}

// partNote is what FILE.part.json holds.
type partNote struct {
	UID    string      `json:"uid"`
	Format want.Format `json:"format"`
	ETag   string      `json:"etag"`
	Offset int64       `json:"offset"`
	Size   int64       `json:"size"`
}

// openTarget makes sure that the data can be written before anything is captured. Nothing that is there is changed.
func (a *app) openTarget(path string, f want.Format) (*target, error) {
	t := &target{path: path, format: f}
	if path == "-" {
		if isTerminal(a.stdout) && (f == want.PcapNG || f == want.Pcap || f == want.Parquet || f == want.Arrow) {
			return nil, usagef("-w -: standard output is a terminal, and %s is not text", f)
		}
		t.stream = a.stdout
		return t, nil
	}
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir():
		return nil, usagef("-w %s: it is a directory", path)
	case err == nil && !st.Mode().IsRegular(): // a pipe or a device has no parts
		w, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		t.stream, t.opened = w, w
		return t, nil
	}
	t.file, err = os.OpenFile(path+".part", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make room for the data: %w", err)
	}
	return t, nil
}

func (t *target) name() string {
	if t.path == "-" {
		return "standard output"
	}
	return t.path
}

// again is the command that retrieves the capture to the same place.
func (t *target) again(id string) string {
	return fmt.Sprintf("opentap retrieve --format %s -w %s -- %s", t.format, shellWord(t.path), shellWord(id))
}

func (t *target) writer() io.WriterAt {
	if t.stream != nil {
		return &client.Sequential{W: t.stream}
	}
	return t.file
}

// resume looks whether what is there belongs to this capture and format; if not, it begins at 0.
func (t *target) resume(uid string) error {
	t.uid = uid
	if t.file == nil {
		return nil
	}
	st, err := t.file.Stat()
	if err != nil {
		return err
	}
	var n partNote
	b, err := os.ReadFile(t.path + ".part.json")
	if err == nil && json.Unmarshal(b, &n) == nil && n.UID == uid && n.Format == t.format && n.ETag != "" && n.Offset > 0 && n.Offset <= st.Size() {
		t.part = client.Part{Offset: n.Offset, Size: n.Size, ETag: n.ETag}
		return nil
	}
	return t.file.Truncate(0)
}

// note writes down from time to time how far the download came.
func (t *target) note(now time.Time) error {
	if t.file == nil || now.Sub(t.noted) < time.Second {
		return nil
	}
	t.noted = now
	return t.writeNote()
}

func (t *target) writeNote() error {
	b, err := json.Marshal(partNote{t.uid, t.format, t.part.ETag, t.part.Offset, t.part.Size})
	if err != nil {
		return err
	}
	name := t.path + ".part.json"
	if err := os.WriteFile(name+".new", append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("note how far the download came: %w", err)
	}
	return os.Rename(name+".new", name)
}

// keep leaves what came for a later run.
func (t *target) keep() {
	if t.file != nil && t.part.Offset > 0 && t.part.ETag != "" {
		_ = t.writeNote() // without it the next run begins anew
	}
}

// finish makes the file appear under its name, whole and on the disk.
func (t *target) finish() error {
	if t.file == nil {
		return nil
	}
	err := t.file.Truncate(t.part.Offset)
	if err == nil {
		err = t.file.Sync()
	}
	if err == nil {
		err = os.Rename(t.path+".part", t.path)
	}
	if err != nil {
		return fmt.Errorf("finish %s: %w", t.path, err)
	}
	if dir, err := os.Open(filepath.Dir(t.path)); err == nil {
		_ = dir.Sync() // some file systems cannot
		_ = dir.Close()
	}
	if err := os.Remove(t.path + ".part.json"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// close gives the files back, and removes a part that holds nothing.
func (t *target) close() {
	if t.opened != nil {
		_ = t.opened.Close()
	}
	if t.file == nil {
		return
	}
	st, err := os.Stat(t.path + ".part")
	if mine, merr := t.file.Stat(); err == nil && merr == nil && os.SameFile(st, mine) && st.Size() == 0 {
		_ = os.Remove(t.path + ".part")
	}
	_ = t.file.Close()
}
