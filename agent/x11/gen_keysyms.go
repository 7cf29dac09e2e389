//go:build ignore

// Command gen_keysyms writes keysyms.txt from the headers of the Debian package x11proto-dev. Each
// line is a keysym's name, its number and, where it stands for exactly one character, that
// character; numbers are hexadecimal.
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"
	"regexp"
	"strconv"
	"strings"
)

var (
	plain  = regexp.MustCompile(`^#define XK_(\w+)\s+0x([0-9a-fA-F]+)(?:\s*/\*\s*U\+([0-9A-F]+))?`)
	xfree  = regexp.MustCompile(`^#define XF86XK_(\w+)\s+0x([0-9a-fA-F]+)`)
	evdev  = regexp.MustCompile(`^#define XF86XK_(\w+)\s+_EVDEVK\(0x([0-9a-fA-F]+)\)`)
	header = "/usr/include/X11/"
)

func main() {
	out := new(strings.Builder)
	lines(header+"keysymdef.h", func(line string) {
		if m := plain.FindStringSubmatch(line); m != nil {
			fmt.Fprintln(out, strings.TrimSpace(m[1]+" "+strings.ToLower(m[2])+" "+strings.ToLower(m[3])))
		}
	})
	lines(header+"XF86keysym.h", func(line string) {
		if m := evdev.FindStringSubmatch(line); m != nil {
			n, err := strconv.ParseUint(m[2], 16, 32)
			if err != nil {
				log.Fatal(err)
			}
			fmt.Fprintf(out, "XF86%s %x\n", m[1], 0x10081000+n)
		} else if m := xfree.FindStringSubmatch(line); m != nil {
			fmt.Fprintf(out, "XF86%s %s\n", m[1], strings.ToLower(m[2]))
		}
	})
	if err := os.WriteFile("keysyms.txt", []byte(out.String()), 0o644); err != nil {
		log.Fatal(err)
	}
}

func lines(path string, each func(string)) {
	f, err := os.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		each(s.Text())
	}
	if err := s.Err(); err != nil {
		log.Fatal(err)
	}
}
