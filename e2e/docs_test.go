package e2e

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
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
	own(t)
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

// examples are the shell codes of a document, in their order.
func examples(t *testing.T, document string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", document))
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, found := range regexp.MustCompile("(?ms)^ *```sh\n(.*?)\n *```$").FindAllSubmatch(text, -1) {
		codes = append(codes, string(found[1]))
	}
	return codes
}

// reader is what a reader of the manual has: a desktop named demo, an address and a key in $URL, $KEY and
// $ID, and sudo. An ellipsis after curl is what the manual has said before. The one vendor whose
// models are asked is the script's.
const reader = `
bureau() {
	local words=() word
	for word; do [ "$word" = demo ] && word=$ID; words+=("$word"); done
	case " ${words[*]} " in *" provider add anthropic "*) words+=(--base-url "$MODELS") ;; esac
	command bureau "${words[@]}"
}
sudo() {
	[ "$1" = bureau ] || { "$@"; return; }
	shift
	(unset BUREAU_URL BUREAU_KEY; bureau --config "$CONFIG" "$@")
}
curl() {
	local words=() word
	for word; do
		if [ "$word" = … ]; then words+=(-sS -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json'); else words+=("$word"); fi
	done
	command curl --fail-with-body "${words[@]}"
}
`

// manual runs code of the manual as it stands there, and returns what it printed.
func (g *guest) manual(t *testing.T, code string, env ...string) string {
	t.Helper()
	folder := t.TempDir()
	script := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", reader+code)
	script.Dir = folder
	script.Env = append(g.environment(), append([]string{"BUREAU_URL=" + g.url, "BUREAU_KEY=" + g.key, "URL=" + g.url, "KEY=" + g.key, "ID=" + g.id,
		"CONFIG=" + g.config, "PATH=" + g.dir + ":" + os.Getenv("PATH")}, env...)...)
	for _, v := range env {
		if key, found := strings.CutPrefix(v, "BUREAU_PROVIDER_KEY="); found {
			if err := os.WriteFile(filepath.Join(folder, "key.txt"), []byte(key+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	var out, said bytes.Buffer
	script.Stdout, script.Stderr = &out, &said
	if err := script.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s%s", err, code, out.Bytes(), said.Bytes())
	}
	return out.String()
}

// What docs/chat.md shows is as it says.
func TestManualOfChat(t *testing.T) {
	g := shared(t)
	codes := examples(t, "docs/chat.md")
	if len(codes) != 4 {
		t.Fatalf("docs/chat.md has %d examples, of which this test knows 4", len(codes))
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		r, err := g.send(ctx, http.MethodPatch, "/v1/desktops/"+g.id, map[string]any{
			"approval": map[string]any{"shell": false, "passwords": false, "patterns": []string{}}, "agent": map[string]any{"kind": "builtin"}})
		if err != nil || r.status != http.StatusOK {
			t.Errorf("%v %s", err, r)
		}
	})
	g.lend(t, model.Anthropic, modeltest.Script{Repeat: true, Steps: []modeltest.Step{saying("It is done.")}})
	if out := g.manual(t, codes[0]); strings.Count(out, "It is done.") < 2 || !strings.Contains(out, "ses-") || !strings.Contains(out, `"stopReason"`) {
		t.Errorf("bureau chat says\n%s", out)
	}
	if got := decode[turn](t, []byte(g.manual(t, codes[1]))); got.Message != "It is done." {
		t.Errorf("a message over the API: %+v", got)
	}
	type asked struct {
		Approval struct {
			Shell    bool
			Patterns []string
		}
		Agent struct{ Kind, Preset, Command string }
	}
	g.manual(t, codes[2])
	if s := decode[asked](t, g.call(t, http.MethodGet, "/v1/desktops/"+g.id, nil).body); !s.Approval.Shell || len(s.Approval.Patterns) != 1 {
		t.Errorf("what waits for a yes is %+v", s)
	}
	// Line by line, since each undoes the one before.
	var seen []string
	for line := range strings.Lines(codes[3]) {
		g.manual(t, line)
		s := decode[asked](t, g.call(t, http.MethodGet, "/v1/desktops/"+g.id, nil).body)
		seen = append(seen, s.Agent.Kind+s.Agent.Preset+s.Agent.Command)
	}
	if want := "commandclaude-code commandmy-agent --quiet builtin"; strings.Join(seen, " ") != want {
		t.Errorf("the desktop's agent was %q", seen)
	}
}

// So is what docs/models.md shows.
func TestManualOfModels(t *testing.T) {
	g := alone(t)
	codes := examples(t, "docs/models.md")
	if len(codes) != 5 {
		t.Fatalf("docs/models.md has %d examples, of which this test knows 5", len(codes))
	}
	key := newKey()
	server := modeltest.New(key, modeltest.Script{Repeat: true, Steps: []modeltest.Step{saying("Hello to you.")}})
	server.Lax, server.Failf = true, t.Errorf
	host := httptest.NewServer(server)
	t.Cleanup(host.Close)
	removed := func(args ...string) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := lab.output(ctx, append([]string{"provider", "remove"}, args...)...); err != nil {
			t.Error(err)
		}
	}
	out := g.manual(t, codes[0], "BUREAU_PROVIDER_KEY="+key, "MODELS="+host.URL)
	for _, said := range []string{"openai", "The model claude-sonnet-5-5 answers"} {
		if !strings.Contains(out, said) {
			t.Errorf("bureau provider says nothing of %s:\n%s", said, out)
		}
	}
	removed("openai", "--owner", owner)
	removed("--desktop", g.id)
	removed("local")

	// A desktop with its provider.
	made := decode[state](t, []byte(g.manual(t, strings.ReplaceAll(codes[1], "sk-ant-…", key))))
	if own := g.call(t, http.MethodGet, "/v1/desktops/"+made.ID+"/provider", nil); !strings.Contains(string(own.body), "claude-sonnet-5-5") {
		t.Errorf("its provider is %s", own)
	}
	g.call(t, http.MethodDelete, "/v1/desktops/"+made.ID, nil)

	// From within the desktop.
	g.provide(t, model.Anthropic, host.URL, key)
	if out := g.sh(t, "bash -lc "+quoted(codes[2])); !strings.Contains(out, "Hello to you.") {
		t.Errorf("the gateway says %s", out)
	}
	if out := g.manual(t, codes[3]); !strings.Contains(out, "claude") {
		t.Errorf("the usage is\n%s", out)
	}

	// A new master key; the provider's key is opened by it alone afterwards.
	data := filepath.Join(lab.dir, "data")
	before, err := os.ReadFile(filepath.Join(data, "master.keys"))
	if err != nil {
		t.Fatal(err)
	}
	change := strings.NewReplacer("/var/lib/bureau", data, "chown bureau:", fmt.Sprintf("chown --reference=%s/master.keys", data)).Replace(codes[4])
	g.manual(t, change)
	for _, old := range []string{"at its side", "gone"} {
		if old == "gone" {
			now, err := os.ReadFile(filepath.Join(data, "master.keys"))
			if err != nil || !strings.HasSuffix(string(now), string(before)) {
				t.Fatalf("the old key is not where it was: %v", err)
			}
			if err := os.WriteFile(filepath.Join(data, "master.keys"), now[:len(now)-len(before)], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := lab.end(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := lab.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if out, err := lab.output(t.Context(), "provider", "test", "anthropic"); err != nil {
			t.Errorf("with the old master key %s the provider is not reached: %s, %v", old, out, err)
		}
	}
	g.again(t, time.Now())
}

// quoted is a text as a word of the shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
