package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// extcapNote is what install notes for Wireshark, which is often started without the environment of a shell.
type extcapNote struct {
	URL       string `json:"url,omitempty"`
	TokenFile string `json:"token_file,omitempty"`
	CA        string `json:"ca,omitempty"`
	Insecure  bool   `json:"insecure,omitempty"`
}

func extcapNotePath() (string, error) {
	dir, err := os.UserConfigDir()
	return filepath.Join(dir, "opentap", "extcap.json"), err
}

// readExtcapNote returns the note; the zero note when there is none.
func readExtcapNote() (n extcapNote) {
	if path, err := extcapNotePath(); err == nil {
		if b, err := os.ReadFile(path); err == nil && json.Unmarshal(b, &n) != nil {
			return extcapNote{}
		}
	}
	return n
}

func (a *app) extcapInstallCmd() *cobra.Command {
	var dir, folders string
	var n extcapNote
	cmd := &cobra.Command{
		Use: "install", Short: "Put a link where Wireshark finds it", Args: cobra.NoArgs,
		Long: `install links this program into your extcap folders: ~/.local/lib/wireshark/extcap, where newer Wiresharks look, and
~/.config/wireshark/extcap, where older ones do (on Windows it is copied to %APPDATA%\Wireshark\extcap). With --url,
--token-file, --ca or --insecure it notes them for Wireshark, which often knows nothing of a shell's environment.`,
		Example: "  opentap extcap install\n  opentap extcap install --url https://tap.example:2020 --token-file ~/.opentap-token\n" +
			"  tshark -G folders | opentap extcap install --folders -\n  sudo opentap extcap install --dir /usr/lib/x86_64-linux-gnu/wireshark/extcap",
		RunE: a.do(func(context.Context, []string) error {
			dirs, err := a.extcapDirs(dir, folders)
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err == nil {
				self, err = filepath.EvalSymlinks(self)
			}
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			for _, d := range dirs {
				path, err := linkInto(d, self)
				if err != nil {
					return err
				}
				a.tell("installed %s", path)
			}
			n.URL = a.url
			if n.TokenFile, err = absolute(a.tokenFile); err != nil {
				return err
			}
			if n.CA, err = absolute(n.CA); err != nil {
				return err
			}
			if n != (extcapNote{}) {
				return a.writeExtcapNote(n)
			}
			return nil
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&dir, "dir", "", "folder to link into")
	fl.StringVar(&folders, "folders", "", "file with what tshark -G folders says, to choose the folder by; - is standard input")
	fl.StringVar(&n.CA, "ca", "", "note: file with the certificates to trust")
	fl.BoolVar(&n.Insecure, "insecure", false, "note: do not verify the server's certificate")
	return cmd
}

func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

func (a *app) writeExtcapNote(n extcapNote) error {
	path, err := extcapNotePath()
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(n, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(path, append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("note the server: %w", err)
	}
	a.tell("noted the server in %s", path)
	return nil
}

func (a *app) extcapUninstallCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "uninstall", Short: "Remove the links and the note of install", Args: cobra.NoArgs,
		Example: "  opentap extcap uninstall",
		RunE: a.do(func(context.Context, []string) error {
			dirs, err := a.extcapDirs(dir, "")
			if err != nil {
				return err
			}
			for _, d := range dirs {
				path := filepath.Join(d, linkName())
				st, err := os.Lstat(path)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err == nil && runtime.GOOS != "windows" && st.Mode()&fs.ModeSymlink == 0 {
					return fmt.Errorf("%s is no link of ours; it is left alone", path)
				}
				if err == nil {
					err = os.Remove(path)
				}
				if err != nil {
					return err
				}
				a.tell("removed %s", path)
			}
			path, err := extcapNotePath()
			if err != nil || dir != "" {
				return nil
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder to remove the link from (default: your extcap folders)")
	return cmd
}

func linkName() string {
	if runtime.GOOS == "windows" {
		return extcapName + ".exe"
	}
	return extcapName
}

// linkInto makes the link in dir, and returns its path.
func linkInto(dir, self string) (string, error) {
	path := filepath.Join(dir, linkName())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the extcap folder: %w", err)
	}
	if runtime.GOOS == "windows" { // links take a privilege there
		b, err := os.ReadFile(self)
		if err == nil {
			err = os.WriteFile(path, b, 0o755)
		}
		return path, err
	}
	switch st, err := os.Lstat(path); {
	case err == nil && st.Mode()&fs.ModeSymlink == 0:
		return "", fmt.Errorf("%s is there already and is no link; remove it first", path)
	case err == nil:
		if err := os.Remove(path); err != nil {
			return "", err
		}
	}
	return path, os.Symlink(self, path)
}

// extcapDirs says where to install: the folder that was named, the one that tshark says, or all that Wiresharks use.
func (a *app) extcapDirs(dir, folders string) ([]string, error) {
	switch {
	case dir != "" && folders != "":
		return nil, usagef("give either --dir or --folders")
	case dir != "":
		return []string{dir}, nil
	case folders == "-":
		return foldersSaid(a.stdin)
	case folders != "":
		f, err := os.Open(folders)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return foldersSaid(f)
	}
	config, err := os.UserConfigDir()
	if err != nil {
		return nil, fmt.Errorf("find your extcap folder: %w; name it with --dir", err)
	}
	if runtime.GOOS == "windows" {
		return []string{filepath.Join(config, "Wireshark", "extcap")}, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, fmt.Errorf("find your extcap folder: %w; name it with --dir", err)
	}
	if x := os.Getenv("XDG_CONFIG_HOME"); x == "" { // on macOS Wireshark does not use what the system calls the folder
		config = filepath.Join(home, ".config")
	}
	return []string{filepath.Join(home, ".local", "lib", "wireshark", "extcap"), filepath.Join(config, "wireshark", "extcap")}, nil
}

// foldersSaid reads what tshark -G folders says. Wiresharks that do not name a personal extcap folder have it below the
// personal configuration.
func foldersSaid(r io.Reader) ([]string, error) {
	said := make(map[string]string)
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		name, path, ok := strings.Cut(sc.Text(), ":")
		if path = strings.TrimSpace(path); ok && path != "" {
			said[strings.ToLower(strings.TrimSpace(name))] = path
		}
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if i := slices.IndexFunc([]string{"personal extcap path", "personal extcap folder"}, func(k string) bool { return said[k] != "" }); i >= 0 {
		return []string{said[[]string{"personal extcap path", "personal extcap folder"}[i]]}, nil
	}
	if c := said["personal configuration"]; c != "" {
		return []string{filepath.Join(c, "extcap")}, nil
	}
	return nil, errors.New("this is not what tshark -G folders says: no personal folder is named")
}
