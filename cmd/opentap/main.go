// Command opentap is the command line of OpenTap.
//
// Runs in: tools
package main

import (
	"os"
)

func main() { os.Exit(run(arguments(os.Args), os.Stdin, os.Stdout, os.Stderr)) }
