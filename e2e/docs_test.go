package e2e

import (
	"bytes"
	"context"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// example is the shell code of a document's section, without the line that sets the address and a
// key of somebody else's.
func example(t *testing.T, document, section string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", document))
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "## "+section+"\n")
	_, after, opened := strings.Cut(after, "```sh\n")
	code, _, closed := strings.Cut(after, "```")
	if !found || !opened || !closed {
		t.Fatalf("%s has no shell code under %q", document, section)
	}
	var kept strings.Builder
	for line := range strings.Lines(code) {
		if !strings.HasPrefix(line, "export BUREAU_URL=") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// What the README tells a newcomer to do works as it stands there.
func TestTourOfTheREADME(t *testing.T) {
	folder := t.TempDir()
	script := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", example(t, "README.md", "A tour")+"\necho \"$id\" >id\n")
	script.Dir = folder
	script.Env = append(os.Environ(), "BUREAU_URL="+lab.url, "BUREAU_KEY="+lab.key)
	out, err := script.CombinedOutput()
	id, _ := os.ReadFile(filepath.Join(folder, "id"))
	if id := strings.TrimSpace(string(id)); id != "" {
		t.Cleanup(func() { _, _ = lab.output(context.Background(), "desktop", "destroy", id) })
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	picture, err := os.ReadFile(filepath.Join(folder, "tour.png"))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := png.Decode(bytes.NewReader(picture)); err != nil || m.Bounds().Dx() != 1280 || m.Bounds().Dy() != 800 {
		t.Errorf("tour.png is no picture of the display: %v", err)
	}
}
