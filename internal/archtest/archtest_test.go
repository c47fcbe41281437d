package archtest

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Standard   bool
}

var load = sync.OnceValues(func() (map[string]*pkg, error) {
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Dir,GoFiles,Imports,Standard", "./...")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	all := make(map[string]*pkg)
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		p := new(pkg)
		if err := d.Decode(p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all[p.ImportPath] = p
	}
})

const root = "../.."

func graph(t *testing.T) map[string]*pkg {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command")
	}
	g, err := load()
	if err != nil {
		t.Fatalf("list packages: %v", err)
	}
	return g
}

// rooms calls fn for each room there is.
func rooms(t *testing.T, fn func(name string, p *pkg)) {
	t.Helper()
	n := 0
	for _, p := range graph(t) {
		// What is under test is for end to end: it may import what it likes.
		if name, ok := strings.CutPrefix(p.ImportPath, module); ok && name != "test" && !strings.HasPrefix(name, "test/") && len(p.GoFiles) > 0 {
			fn(name, p)
			n++
		}
	}
	if n == 0 {
		t.Fatal("no rooms found")
	}
}

// matches reports whether path is pattern, or below it when it ends with "/...".
func matches(pattern, importPath string) bool {
	if p, ok := strings.CutSuffix(pattern, "/..."); ok {
		return importPath == p || strings.HasPrefix(importPath, p+"/")
	}
	return importPath == pattern
}

func TestEveryRoomIsOnTheMap(t *testing.T) {
	rooms(t, func(name string, _ *pkg) {
		if _, ok := Rooms[name]; !ok {
			t.Errorf("room %s is not on the map: add its line to Rooms in internal/archtest, with what it may import", name)
		}
		for part := range strings.SplitSeq(name, "/") {
			if slices.Contains(ForbiddenNames, part) {
				t.Errorf("room %s: %q is no noun of the field; name what it holds", name, part)
			}
		}
	})
}

func TestImportsOfRooms(t *testing.T) {
	rooms(t, func(name string, p *pkg) {
		room, ok := Rooms[name]
		if !ok {
			return // told by TestEveryRoomIsOnTheMap
		}
		for _, imp := range p.Imports {
			if imp == "golang.org/x/sys/unix" && !room.Unix {
				t.Errorf("%s imports %s: system calls are made only in rooms marked Unix", name, imp)
			}
			ours, ok := strings.CutPrefix(imp, module)
			if !ok || slices.Contains(Shared, ours) {
				continue
			}
			if !slices.ContainsFunc(room.MayImport, func(m string) bool { return matches(m, ours) }) {
				t.Errorf("%s imports %s, which the map does not allow: it may import %v", name, ours, append(room.MayImport, Shared...))
			}
		}
	})
}

// path of imports from one package to another, for people.
func way(g map[string]*pkg, from string, to func(string) bool) []string {
	type step struct {
		path string
		prev *step
	}
	seen := map[string]bool{from: true}
	for queue := []*step{{path: from}}; len(queue) > 0; queue = queue[1:] {
		s := queue[0]
		if s.path != from && to(s.path) {
			var names []string
			for ; s != nil; s = s.prev {
				names = append(names, s.path)
			}
			slices.Reverse(names)
			return names
		}
		if p := g[s.path]; p != nil {
			for _, imp := range p.Imports {
				if !seen[imp] {
					seen[imp] = true
					queue = append(queue, &step{imp, s})
				}
			}
		}
	}
	return nil
}

func TestLaws(t *testing.T) {
	g := graph(t)
	rooms(t, func(name string, p *pkg) {
		room := Rooms[name]
		for _, law := range Laws {
			if !law.From(name, room) {
				continue
			}
			for _, target := range law.Reach {
				if w := way(g, p.ImportPath, func(s string) bool {
					return s != p.ImportPath && matches(target, s) && !(name == "tap" && s == module+"tap")
				}); w != nil {
					t.Errorf("%s reaches %s, though %s:\n\t%s", name, w[len(w)-1], law.Reason, strings.Join(w, "\n\t→ "))
				}
			}
		}
		if room.Layer != Word {
			return
		}
		for _, imp := range p.Imports {
			ours, isOurs := strings.CutPrefix(imp, module)
			switch q := g[imp]; {
			case isOurs && Rooms[ours].Layer == Word, imp == "golang.org/x/net/bpf":
			case imp == "net/http" || imp == "os" || !isOurs && q != nil && !q.Standard:
				t.Errorf("word %s imports %s: words import the standard library without net/http and os, golang.org/x/net/bpf, and words", name, imp)
			}
		}
	})
}

// Words have no clock and start nothing: the same octets always mean the same.
func TestWordsArePure(t *testing.T) {
	clock := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
	rooms(t, func(name string, p *pkg) {
		if Rooms[name].Layer != Word {
			return
		}
		for _, file := range p.GoFiles {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, 0)
			if err != nil {
				t.Error(err)
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					t.Errorf("%s: word %s starts a goroutine", fset.Position(n.Pos()), name)
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, n.Sel.Name) {
						t.Errorf("%s: word %s looks at the clock: time.%s", fset.Position(n.Pos()), name, n.Sel.Name)
					}
				}
				return true
			})
		}
	})
}

func TestPackageComments(t *testing.T) {
	rooms(t, func(name string, p *pkg) {
		var docs []string
		for _, file := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Error(err)
				continue
			}
			if f.Doc != nil && !ast.IsGenerated(f) {
				docs = append(docs, f.Doc.Text())
			}
		}
		switch {
		case len(docs) != 1:
			t.Errorf("%s has %d package comments, want 1", name, len(docs))
		case !strings.HasPrefix(docs[0], "Package "+path.Base(name)+" ") && !strings.HasPrefix(docs[0], "Command "+path.Base(name)+" "):
			t.Errorf("the comment of %s begins %.40q", name, docs[0])
		default:
			runs := false
			for line := range strings.Lines(docs[0]) {
				if where, ok := strings.CutPrefix(strings.TrimSpace(line), "Runs in: "); ok {
					runs = true
					for w := range strings.SplitSeq(where, " | ") {
						if !slices.Contains([]string{"agent", "controller", "both", "tools"}, w) {
							t.Errorf("%s runs in %q; say agent, controller, both or tools, with \" | \" between", name, w)
						}
					}
				}
			}
			if !runs {
				t.Errorf("the comment of %s has no line \"Runs in: …\"", name)
			}
		}
	})
}

func TestDriversHaveManPages(t *testing.T) {
	rooms(t, func(name string, p *pkg) {
		if !Rooms[name].Driver {
			return
		}
		if _, err := os.Stat(filepath.Join(p.Dir, "README.md")); err != nil {
			t.Errorf("driver %s has no README.md: %v", name, err)
		}
	})
}

// The map names rooms that may be imported; a name that is not on it is a slip of the pen.
func TestMapIsSound(t *testing.T) {
	for name, room := range Rooms {
		for _, m := range room.MayImport {
			base, tree := strings.CutSuffix(m, "/...")
			found := false
			for other := range Rooms {
				found = found || other == base || tree && strings.HasPrefix(other, base+"/")
			}
			if !found {
				t.Errorf("%s may import %s, which is not on the map", name, m)
			}
		}
	}
}

// Generated files are what their inputs make.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	if testing.Short() {
		t.Skip("generating takes long, and this is -short")
	}
	for _, tool := range []string{"protoc", "clang", "llvm-strip", "bash", "tar", "diff"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	cmd := exec.Command("bash", "scripts/generate.sh", "--check")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("run make generate and commit what it changes: %v\n%s", err, out)
	}
}
