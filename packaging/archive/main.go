// Command archive packs a folder as .tar.gz or .zip: the same octets from the same files, whoever packs them and when.
//
// Runs in: tools
package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "archive:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: archive OUT.tar.gz|OUT.zip FOLDER SECONDS-SINCE-THE-EPOCH")
	}
	seconds, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return fmt.Errorf("the time: %w", err)
	}
	return pack(args[0], args[1], time.Unix(seconds, 0).UTC())
}

// pack writes the archive out of the files below folder, which are in it below the folder's name, in order, of this time.
func pack(out, folder string, at time.Time) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var add func(name string, size int64, program bool) (io.Writer, error)
	var done []io.Closer
	switch {
	case strings.HasSuffix(out, ".tar.gz"):
		gz, err := gzip.NewWriterLevel(f, gzip.BestCompression)
		if err != nil {
			return err
		}
		w := tar.NewWriter(gz)
		done = []io.Closer{w, gz}
		add = func(name string, size int64, program bool) (io.Writer, error) {
			return w, w.WriteHeader(&tar.Header{Name: name, Size: size, Mode: int64(mode(program)), ModTime: at, Format: tar.FormatUSTAR})
		}
	case strings.HasSuffix(out, ".zip"):
		w := zip.NewWriter(f)
		done = []io.Closer{w}
		add = func(name string, _ int64, program bool) (io.Writer, error) {
			h := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: at}
			h.SetMode(mode(program))
			return w.CreateHeader(h)
		}
	default:
		return fmt.Errorf("%s is neither .tar.gz nor .zip", out)
	}
	top := filepath.Base(folder)
	err = filepath.WalkDir(folder, func(file string, d fs.DirEntry, err error) error { // in lexical order
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(folder, file)
		if err != nil {
			return err
		}
		w, err := add(path.Join(top, filepath.ToSlash(rel)), info.Size(), info.Mode()&0o100 != 0)
		if err != nil {
			return err
		}
		in, err := os.Open(file)
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(w, in)
		return err
	})
	for _, c := range done {
		err = errors.Join(err, c.Close())
	}
	return err
}

func mode(program bool) fs.FileMode {
	if program {
		return 0o755
	}
	return 0o644
}
