package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"opentap/cert"
	"opentap/client"
)

// trust says which certificates are believed. A server on this machine made its own authority, which is found as its token is.
func (a *app) trust(addr string) client.Trust {
	t := client.Trust{CA: cmp.Or(a.ca, os.Getenv("OPENTAP_CA")), Fingerprint: a.fingerprint}
	if dir, err := os.UserConfigDir(); err == nil {
		t.Pins = filepath.Join(dir, "opentap", "known_hosts")
	}
	if here(addr) {
		for _, d := range dataDirs() {
			t.Also = append(t.Also, filepath.Join(d, "tls", cert.AuthorityFile))
		}
	}
	if isTerminal(a.stdin) && isTerminal(a.stderr) {
		t.Ask = a.askTrust
	}
	return t
}

// dataDirs are where a server on this machine may keep its data.
func dataDirs() []string {
	var dirs []string
	if d := os.Getenv("OPENTAP_DATA"); d != "" {
		dirs = append(dirs, d)
	}
	return append(dirs, "opentap-data", "/var/lib/opentap", "/opt/opentap/log")
}

// askTrust asks the person at the terminal.
func (a *app) askTrust(ctx context.Context, address, fingerprint string) (bool, error) {
	a.say("The server %s shows a certificate that it made itself, and that is not known here.", address)
	a.say("Its fingerprint is")
	a.say("  %s", fingerprint)
	a.say("The server printed the same at its first start, and prints it again with: opentapd --show-fingerprint")
	lines := make(chan string)
	go func() { // a terminal cannot be interrupted: the reader ends with the program
		in := bufio.NewReader(a.stdin)
		defer close(lines)
		for range 3 {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			lines <- strings.ToLower(strings.TrimSpace(line))
		}
	}()
	for {
		fmt.Fprint(a.stderr, "Are they the same, and do you trust this server from now on? (yes/no) ")
		select {
		case line, more := <-lines:
			if line == "yes" || line == "no" || !more {
				return line == "yes", nil
			}
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}
