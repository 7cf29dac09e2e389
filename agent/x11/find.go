package x11

import (
	"bytes"
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"bureau/desktop"
)

// Find looks, as root in a guest, for the X server that people see and the file with its cookie.
// xauthority is empty for a server that asks for none. The error is desktop.Unavailable while no
// server runs.
func Find(ctx context.Context) (display, xauthority string, err error) {
	return find(ctx, "/")
}

func find(ctx context.Context, root string) (display, xauthority string, err error) {
	processes, err := processes(ctx, root)
	if err != nil {
		return "", "", err
	}
	exists := func(path string) bool {
		info, err := os.Stat(filepath.Join(root, path))
		return err == nil && info.Mode().IsRegular()
	}
	servers := slices.DeleteFunc(slices.Clone(processes), func(p process) bool {
		return !slices.Contains(serverNames, filepath.Base(p.argv[0]))
	})
	// The display with the lowest number is the one on the screen.
	slices.SortStableFunc(servers, func(a, b process) int { return cmp.Compare(a.number(), b.number()) })
	for _, server := range servers {
		display := ":" + strconv.Itoa(server.number())
		// lightdm's own copy outlives sessions; the server's argument is the same cookie.
		if path := "/var/run/lightdm/root/" + display; exists(path) {
			return display, path, nil
		}
		if i := slices.Index(server.argv, "-auth"); i >= 0 && i+1 < len(server.argv) && exists(server.argv[i+1]) {
			return display, server.argv[i+1], nil
		}
		// A session that startx or a script began: its programs know.
		for _, p := range processes {
			if name, _, _ := strings.Cut(p.env["DISPLAY"], "."); name != display {
				continue
			}
			if path := p.env["XAUTHORITY"]; path != "" && exists(path) {
				return display, path, nil
			}
			if path := filepath.Join(p.env["HOME"], ".Xauthority"); p.env["HOME"] != "" && exists(path) {
				return display, path, nil
			}
		}
		return display, "", nil
	}
	return "", "", desktop.Errorf(desktop.Unavailable, "no X server is running")
}

var serverNames = []string{"X", "Xorg", "Xorg.bin", "Xorg.wrap", "Xvfb", "Xvnc", "Xtigervnc", "Xwayland"}

type process struct {
	argv []string
	env  map[string]string
}

// number is the display that a server serves, 0 unless it was told otherwise.
func (p process) number() int {
	for _, arg := range p.argv[1:] {
		if number, ok := strings.CutPrefix(arg, ":"); ok {
			if n, err := strconv.Atoi(number); err == nil {
				return n
			}
		}
	}
	return 0
}

// processes reads what /proc tells of those that still run.
func processes(ctx context.Context, root string) ([]process, error) {
	entries, err := os.ReadDir(filepath.Join(root, "proc"))
	if err != nil {
		return nil, err
	}
	var all []process
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		dir := filepath.Join(root, "proc", entry.Name())
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(cmdline) == 0 {
			continue // it has ended, or is the kernel's
		}
		p := process{env: make(map[string]string)}
		for arg := range bytes.SplitSeq(bytes.TrimSuffix(cmdline, []byte{0}), []byte{0}) {
			p.argv = append(p.argv, string(arg))
		}
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		for pair := range bytes.SplitSeq(environ, []byte{0}) {
			if name, value, ok := strings.Cut(string(pair), "="); ok {
				switch name {
				case "DISPLAY", "XAUTHORITY", "HOME":
					p.env[name] = value
				}
			}
		}
		all = append(all, p)
	}
	return all, nil
}
