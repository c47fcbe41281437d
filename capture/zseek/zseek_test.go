package zseek

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func never() error { return nil }

// text makes octets that compress by half or so.
func text(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.IntN(16))
		if i%1000 > 900 {
			b[i] = 0
		}
	}
	return b
}

func pack(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	n, err := Compress(&out, bytes.NewReader(b), never)
	if err != nil || n != int64(out.Len()) {
		t.Fatal(n, out.Len(), err)
	}
	return out.Bytes()
}

func open(t testing.TB, z []byte) *Reader {
	t.Helper()
	r, err := NewReader(bytes.NewReader(z), int64(len(z)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestReadsAnywhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for _, n := range []int{0, 1, FrameOctets - 1, FrameOctets, FrameOctets + 1, 5*FrameOctets + 77} {
		want := text(n)
		z := pack(t, want)
		r := open(t, z)
		if r.Size() != int64(n) {
			t.Fatalf("size %d of %d", r.Size(), n)
		}
		whole := make([]byte, n)
		if k, err := r.ReadAt(whole, 0); k != n || err != nil || !bytes.Equal(whole, want) {
			t.Fatalf("whole of %d: %d, %v", n, k, err)
		}
		for range 300 {
			from, length := rng.IntN(n+1), rng.IntN(3*FrameOctets)
			p := make([]byte, length)
			k, err := r.ReadAt(p, int64(from))
			if k != min(length, n-from) || !bytes.Equal(p[:k], want[from:from+k]) {
				t.Fatalf("%d octets at %d of %d: got %d, %v", length, from, n, k, err)
			}
			if (k < length) != (err == io.EOF) {
				t.Fatalf("%d of %d octets: %v", k, length, err)
			}
			if at, octets := r.Extent(int64(from), int64(length)); k > 0 && (octets == 0 || at+octets > int64(len(z))) {
				t.Fatalf("extent %d, %d of a file of %d", at, octets, len(z))
			}
		}
	}
}

// TestZstdReadsIt: the tool makes the original of it.
func TestZstdReadsIt(t *testing.T) {
	bin, err := exec.LookPath("zstd")
	if err != nil {
		t.Skip("zstd is not installed")
	}
	want := text(3*FrameOctets + 9)
	path := filepath.Join(t.TempDir(), "x.zst")
	if err := os.WriteFile(path, pack(t, want), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command(bin, "-dc", path).Output()
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d octets of %d, %v", len(got), len(want), err)
	}
}

func TestCompressIsEnded(t *testing.T) {
	stop := errors.New("enough")
	n := 0
	_, err := Compress(io.Discard, bytes.NewReader(text(9*FrameOctets)), func() error {
		if n++; n > 3 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 4 {
		t.Fatal(n, err)
	}
}

// FuzzReader: no file makes it panic, or read more than was asked for.
func FuzzReader(f *testing.F) {
	z := pack(f, text(2*FrameOctets+5))
	f.Add(z, int64(3), 100)
	f.Add(z[:len(z)-3], int64(0), 1)
	f.Add(pack(f, nil), int64(0), 1)
	f.Fuzz(func(t *testing.T, z []byte, off int64, n int) {
		r, err := NewReader(bytes.NewReader(z), int64(len(z)))
		if err != nil {
			return
		}
		defer r.Close()
		if n < 0 || n > 1<<20 {
			return
		}
		k, err := r.ReadAt(make([]byte, n), off)
		if k > n || k < n && err == nil {
			t.Fatalf("%d of %d octets, %v", k, n, err)
		}
		r.Extent(off, int64(n))
	})
}

// TestDamage: a file that was changed or cut says so, or reads as before.
func TestDamage(t *testing.T) {
	want := text(2*FrameOctets + 5)
	z := pack(t, want)
	rng := rand.New(rand.NewPCG(4, 4))
	found := 0
	for range 200 {
		bad := bytes.Clone(z)
		bad[len(bad)-1-rng.IntN(min(40, len(bad)))] ^= byte(1 + rng.IntN(255)) // in the table
		r, err := NewReader(bytes.NewReader(bad), int64(len(bad)))
		if err != nil {
			found++
			continue
		}
		got := make([]byte, len(want))
		if n, err := r.ReadAt(got, 0); err != nil || n < len(want) {
			found++
		}
		r.Close()
	}
	if found < 190 {
		t.Errorf("%d of 200 changes of the table were found", found)
	}
	for _, n := range []int{0, 5, len(z) / 2, len(z) - 1} {
		if _, err := NewReader(bytes.NewReader(z[:n]), int64(n)); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d: %v", n, err)
		}
	}
	bad := bytes.Clone(z)
	for i := range 50 {
		bad[i] = 0xff
	}
	if _, err := open(t, bad).ReadAt(make([]byte, 10), 0); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged frame: %v", err)
	}
}
