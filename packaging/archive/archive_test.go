package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestPack(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "top")
	for name, mode := range map[string]os.FileMode{"b": 0o700, "a": 0o600, "sub/c": 0o640} {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Unix(1_700_000_000, 0).UTC()
	want := []string{"top/a -rw-r--r-- a", "top/b -rwxr-xr-x b", "top/sub/c -rw-r--r-- sub/c"}
	made := func(name string) []byte {
		out := filepath.Join(dir, name)
		if err := pack(out, folder, at); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	gz := made("x.tar.gz")
	zr := made("x.zip")
	later := at.Add(time.Hour) // of the files, which must not count
	if err := os.Chtimes(filepath.Join(folder, "a"), later, later); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(gz, made("y.tar.gz")) || !bytes.Equal(zr, made("y.zip")) {
		t.Error("the same files make another archive")
	}

	var got []string
	g, err := gzip.NewReader(bytes.NewReader(gz))
	if err != nil {
		t.Fatal(err)
	}
	for tr := tar.NewReader(g); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(tr)
		got = append(got, h.Name+" "+h.FileInfo().Mode().String()+" "+string(b))
		if !h.ModTime.Equal(at) {
			t.Errorf("%s is of %v", h.Name, h.ModTime)
		}
	}
	check(t, got, want)
	got = nil
	z, err := zip.NewReader(bytes.NewReader(zr), int64(len(zr)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r)
		got = append(got, f.Name+" "+f.Mode().String()+" "+string(b))
	}
	check(t, got, want)
	if err := pack(filepath.Join(dir, "x.rar"), folder, at); err == nil {
		t.Error("it packs what it does not know")
	}
}

func check(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("it holds %q, want %q", got, want)
	}
}
