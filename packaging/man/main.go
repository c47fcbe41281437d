// Command man writes the manual pages of the packages from what is written already: the reference of the command line, which is
// generated from the program; the reference of the configuration; and what opentapd says of itself.
//
// Runs in: tools
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const usage = "usage: man SOURCE-TREE VERSION DATE DIR <opentapd-help"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 4 {
		return errors.New(usage)
	}
	tree, dir := args[0], args[3]
	edition := edition{version: args[1], date: args[2]}
	cli, err := os.ReadFile(filepath.Join(tree, "docs", "reference", "cli.md"))
	if err != nil {
		return err
	}
	keys, err := os.ReadFile(filepath.Join(tree, "docs", "reference", "configuration.md"))
	if err != nil {
		return err
	}
	help, err := readAll(os.Stdin)
	if err != nil {
		return err
	}
	pages, err := commandPages(string(cli), edition)
	if err != nil {
		return fmt.Errorf("cli.md: %w", err)
	}
	pages["opentap.yaml.5"] = configPage(string(keys), edition)
	if pages["opentapd.8"], err = daemonPage(help, edition); err != nil {
		return fmt.Errorf("what opentapd --help says: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range pages {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func readAll(f *os.File) (string, error) {
	var b strings.Builder
	_, err := f.WriteTo(&b)
	return b.String(), err
}
