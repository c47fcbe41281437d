package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// printMachine tells what the figures were measured on.
func printMachine(w io.Writer, dir string) {
	var u unix.Utsname
	kernel := "unknown"
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	var si unix.Sysinfo_t
	unix.Sysinfo(&si)
	model := "unknown CPU"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		for s := bufio.NewScanner(f); s.Scan(); {
			if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
		f.Close()
	}
	load, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(load))
	if len(fields) == 0 {
		fields = []string{"?"}
	}
	fmt.Fprintf(w, "Linux %s, %d CPUs (%s), %d GiB, %s, files on %s, load %s, %s\n\n", kernel, runtime.NumCPU(), model,
		(uint64(si.Totalram)*uint64(si.Unit)+1<<29)>>30, runtime.Version(), dir, fields[0], time.Now().UTC().Format("2006-01-02"))
}

// peers are the programs that bench compares with, the packages that have them, and the parts that use them.
var peers = []struct{ program, pkg, part string }{
	{"tcpdump", "tcpdump", "capture retrieve http query"},
	{"stenographer", "stenographer", "query"},
	{"stenoread", "stenographer-client", "query"},
	{"jq", "jq", "query"},
	{"curl", "curl", "http query"},
	{"netsniff-ng", "netsniff-ng", "capture"},
	{"dumpcap", "wireshark-common", "capture"},
	{"softflowd", "softflowd", "flow"},
	{"nfpcapd", "nfdump", "flow"},
	{"nfdump", "nfdump", "flow"},
}

// install tries once to get the peers that are not there. Where that fails they are skipped.
func (b *bench) install(ctx context.Context, wants func(string) bool) {
	for _, p := range peers {
		used := false
		for part := range strings.FieldsSeq(p.part) {
			used = used || wants(part)
		}
		if _, err := exec.LookPath(p.program); err == nil || !used {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		cmd := exec.CommandContext(ctx, "apt-get", "install", "-y", "-q", "--no-install-recommends", p.pkg)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if err := cmd.Run(); err != nil {
			b.logf("install %s: %v", p.pkg, err)
		}
		cancel()
	}
}

// has reports whether a peer is there, and notes it when not.
func (b *bench) has(program string) bool {
	if _, err := exec.LookPath(program); err != nil {
		b.note("%s is not installed: its rows are left out", program)
		return false
	}
	return true
}
