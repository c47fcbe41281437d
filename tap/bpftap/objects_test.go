package bpftap

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestObjectsAreCurrent: the committed objects were made from the sources beside them. Another compiler makes other octets
// of the same sources, so generate.sh records what was made from what; where the compiler is the one that was used, making them again gives the same.
func TestObjectsAreCurrent(t *testing.T) {
	b, err := os.ReadFile("objects.sha256")
	if err != nil {
		t.Fatal(err)
	}
	compiler, sums, _ := strings.Cut(string(b), "\n")
	recorded := make(map[string]string)
	for line := range strings.Lines(sums) {
		f := strings.Fields(line)
		if len(f) != 2 {
			t.Fatalf("objects.sha256 holds %q", line)
		}
		recorded[f[1]] = f[0]
	}
	var files []string
	for _, pattern := range []string{"bpf/*.c", "bpf/*.h", "object_*.o"} {
		m, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, m...)
	}
	if len(files) < 8 || len(files) != len(recorded) {
		t.Errorf("%d files, %d recorded", len(files), len(recorded))
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256(b)); recorded[f] != sum {
			t.Errorf("%s has changed since the objects were made: run make generate", f)
		}
	}

	for _, tool := range []string{"clang", "llvm-strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Logf("the record is right; %s is not installed to make the objects again", tool)
			return
		}
	}
	v, err := exec.Command("clang", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if mine, _, _ := strings.Cut(string(v), "\n"); "# "+mine != compiler {
		t.Logf("the record is right; the compiler here is another: %s", mine)
		return
	}
	copied := t.TempDir()
	for _, name := range []string{"tap", "mux", "sink"} {
		obj := filepath.Join(copied, name+".o")
		args := []string{"-O2", "-g", "-Wall", "-Werror", "-mcpu=v3", "-target", "bpfel", "-c", "bpf/" + name + ".c", "-o", obj}
		if out, err := exec.Command("clang", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		// The debug information has the path of the directory, the code has not.
		if got, want := text(t, obj), text(t, "object_"+name+"_bpfel.o"); !slices.Equal(got, want) {
			t.Errorf("clang makes another program of bpf/%s.c than the one committed: run make generate", name)
		}
	}
}

// text lists an object's instructions.
func text(t *testing.T, path string) []string {
	t.Helper()
	out, err := exec.Command("llvm-objdump", "-d", "--no-show-raw-insn", path).Output()
	if err != nil {
		t.Skipf("needs llvm-objdump: %v", err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "file format") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}
