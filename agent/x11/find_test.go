package x11

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bureau/desktop"
)

func TestFind(t *testing.T) {
	for _, test := range []struct {
		name                string
		files               map[string]string // arguments separated by spaces in proc
		display, xauthority string
	}{
		{"lightdm", map[string]string{
			"proc/10/cmdline": "/usr/lib/xorg/Xorg :0 -seat seat0 -auth /var/run/lightdm/root/:0 vt7", "var/run/lightdm/root/:0": "cookie"},
			":0", "/var/run/lightdm/root/:0"},
		{"by argument", map[string]string{
			"proc/self/cmdline": "x", "proc/9/cmdline": "", "proc/11/cmdline": "/usr/bin/X :1 -auth /run/sddm/abc", "run/sddm/abc": "cookie"},
			":1", "/run/sddm/abc"},
		{"the lowest display", map[string]string{
			"proc/5/cmdline": "Xvfb :99 -auth /tmp/a", "proc/6/cmdline": "Xorg -auth /tmp/b", "tmp/a": "c", "tmp/b": "c"},
			":0", "/tmp/b"},
		{"of the session", map[string]string{
			"proc/7/cmdline": "Xorg :0 vt1", "proc/8/cmdline": "xfce4-session", "proc/8/environ": "HOME=/home/agent DISPLAY=:0.0 X=1 XAUTHORITY=/run/x",
			"run/x": "c"}, ":0", "/run/x"},
		{"of the home", map[string]string{
			"proc/7/cmdline": "Xorg :0 -auth /gone", "proc/8/cmdline": "xterm", "proc/8/environ": "HOME=/home/agent DISPLAY=:0",
			"home/agent/.Xauthority": "c"}, ":0", "/home/agent/.Xauthority"},
		{"without a cookie", map[string]string{"proc/7/cmdline": "Xvfb :4 -screen 0 8x8x24"}, ":4", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			for path, text := range test.files {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, " ", "\x00")), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			display, xauthority, err := find(t.Context(), root)
			if err != nil || display != test.display || xauthority != test.xauthority {
				t.Errorf("%q %q %v, want %q %q", display, xauthority, err, test.display, test.xauthority)
			}
		})
	}
	root := t.TempDir()
	os.MkdirAll(filepath.Join(root, "proc/1"), 0o700)
	if _, _, err := find(t.Context(), root); desktop.CodeOf(err) != desktop.Unavailable {
		t.Error(err)
	}
}
