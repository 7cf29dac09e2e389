// Bureau gives desktops that programs can see and use, each in a virtual machine of its own.
package main

import (
	"os"

	"bureau/cmd"
)

func main() { os.Exit(cmd.Main(os.Args[1:])) }
