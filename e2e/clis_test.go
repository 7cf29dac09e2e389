//go:build agents

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
)

// Claude Code and Codex as they come from npm: in a desktop whose chat they answer, with its network
// off, and on the host as clients of bureau's MCP. Their models are scripted.

// cli is one of the programs.
type cli struct {
	preset  string
	process string // its name in the guest
	kind    model.Format
	model   string
	shell   func(command string) modeltest.Call // its own tool that runs a command
	tool    string                              // a tool of an MCP server's: server, tool
}

var clis = []cli{
	{"claude-code", "claude", model.Anthropic, "claude-opus-5", func(command string) modeltest.Call {
		return modeltest.Use("Bash", asJSON(map[string]string{"command": command, "description": "As asked"}))
	}, "mcp__%s__%s"},
	{"codex", "codex", model.OpenAI, "gpt-5-codex", func(command string) modeltest.Call {
		return modeltest.Use("exec_command", asJSON(map[string]string{"cmd": command}))
	}, "mcp__%s.%s"},
}

func asJSON(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // plain values
	}
	return string(text)
}

// programs are where the programs lie on the host, by their names.
type programs map[string]string

// wanted are the packages that have the programs for this processor.
func wanted() map[string]string {
	arch := map[string]string{"amd64": "x64"}[runtime.GOARCH]
	if arch == "" {
		arch = runtime.GOARCH
	}
	return map[string]string{
		"@anthropic-ai/claude-code-linux-" + arch: "2.1.332",
		"codex": "npm:@openai/codex@0.171.0-linux-" + arch,
	}
}

// fetched is the programs from npm, in the user's cache from the first use on.
func fetched(t *testing.T) programs {
	t.Helper()
	p, err := fetch(t.Context())
	if err == nil {
		return p
	}
	if os.Getenv(offlineVariable) != "" {
		progress("NOT TESTED, as %s allows: Claude Code and Codex: %v", offlineVariable, err)
		t.Skipf("NOT TESTED, as %s allows: %v", offlineVariable, err)
	}
	t.Fatalf("NOT TESTED: Claude Code and Codex cannot be had (%s=1 allows that): %v", offlineVariable, err)
	return nil
}

func cacheFolder() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "bureau", "agents-test")
	return cache, os.MkdirAll(cache, 0o755)
}

func fetch(ctx context.Context) (programs, error) {
	folder, err := cacheFolder()
	if err != nil {
		return nil, err
	}
	list := wanted()
	want := []byte(asJSON(map[string]any{"private": true, "dependencies": list}))
	done := filepath.Join(folder, "installed.json") // written when everything is there
	if have, err := os.ReadFile(done); err != nil || !bytes.Equal(have, want) {
		began := time.Now()
		if err := os.WriteFile(filepath.Join(folder, "package.json"), want, 0o644); err != nil {
			return nil, err
		}
		c := exec.CommandContext(ctx, "npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
		c.Dir = folder
		if out, err := c.CombinedOutput(); err != nil {
			return nil, errors.Join(err, fmt.Errorf("npm install: %s", out))
		}
		progress("fetched Claude Code and Codex in %s", time.Since(began).Round(time.Second/10))
		if err := os.WriteFile(done, want, 0o644); err != nil {
			return nil, err
		}
	}
	found := programs{}
	for name, pattern := range map[string]string{
		"claude": "@anthropic-ai/claude-code-linux-*/claude", "codex": "codex/vendor/*/bin/codex", "codex-code-mode-host": "codex/vendor/*/bin/codex-code-mode-host",
		"rg": "codex/vendor/*/codex-path/rg",
	} {
		paths, err := filepath.Glob(filepath.Join(folder, "node_modules", pattern))
		if err != nil || len(paths) != 1 {
			return nil, fmt.Errorf("%s: %v, %v", pattern, paths, err)
		}
		found[name] = paths[0]
	}
	return found, nil
}

// bootable is an image that the host boots.
type bootable struct {
	Digest string `json:"digest"`
	Disk   string `json:"disk"`
	Kernel string `json:"kernel"`
	Initrd string `json:"initrd"`
}

// withPrograms makes an image of the small one with the programs installed, in the cache, and imports it.
func withPrograms(t *testing.T, p programs, name string) {
	t.Helper()
	run := func(c *exec.Cmd) []byte {
		t.Helper()
		var said bytes.Buffer
		c.Stderr = &said
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s%s", c.Args, err, out, said.Bytes())
		}
		return out
	}
	args := []string{lab.binary, "--config", lab.config, "--json", "image", "build", "minimal"}
	if cache := os.Getenv("BUREAU_E2E_IMAGES"); cache != "" {
		args = append(args, "--cache", cache)
	}
	// The last of its news says where the files are.
	news := strings.Split(strings.TrimSpace(string(run(asRoot(t.Context(), args...)))), "\n")
	base := decode[struct{ Files bootable }](t, []byte(news[len(news)-1])).Files
	if len(base.Digest) < 16 {
		t.Fatalf("bureau image build says %q", news)
	}
	folder, err := cacheFolder()
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(folder, "agents-"+base.Digest[:16]+"-"+wantedVersions()+".qcow2")
	if _, err := os.Stat(disk); err != nil {
		began := time.Now()
		raw := filepath.Join(folder, "agents.raw")
		defer os.Remove(raw)
		run(asRoot(t.Context(), "qemu-img", "convert", "-O", "raw", base.Disk, raw))
		var edits strings.Builder
		for program, path := range p {
			there := "/usr/local/bin/" + program
			fmt.Fprintf(&edits, "write %s %s\nset_inode_field %s mode 0100755\n", path, there, there)
		}
		editing := asRoot(t.Context(), "debugfs", "-w", "-f", "/dev/stdin", raw)
		editing.Stdin = strings.NewReader(edits.String())
		run(editing)
		run(asRoot(t.Context(), "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk+".new"))
		run(asRoot(t.Context(), "mv", disk+".new", disk))
		progress("the image with Claude Code and Codex took %s", time.Since(began).Round(time.Second/10))
	}
	run(asRoot(t.Context(), lab.binary, "--config", lab.config, "image", "import", disk, "--name", name, "--kernel", base.Kernel, "--initrd", base.Initrd))
}

// wantedVersions names a file by them.
func wantedVersions() string {
	var versions []string
	for _, version := range wanted() {
		versions = append(versions, version[strings.LastIndex(version, "@")+1:])
	}
	slices.Sort(versions)
	return strings.Join(versions, "-")
}

// lendTo lends a desktop a scripted model that takes what other programs ask, and returns the key.
func (g *guest) lendTo(t *testing.T, c cli, steps ...modeltest.Step) (server *modeltest.Server, key string) {
	t.Helper()
	key = newKey()
	server = modeltest.New(key, modeltest.Script{Steps: steps})
	server.Lax, server.Failf = true, t.Errorf
	host := httptest.NewServer(server)
	t.Cleanup(host.Close)
	add := g.command(t.Context(), "provider", "add", string(c.kind), "--base-url", host.URL, "--model", c.model, "--desktop", g.id)
	add.Stdin = strings.NewReader(key)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", add.Args, err, out)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := g.output(ctx, "provider", "remove", "--desktop", g.id); err != nil {
			t.Error(err)
		}
		if r, err := g.send(ctx, http.MethodPost, g.path("chat/cancel"), nil); err != nil || r.status != http.StatusOK && r.status != http.StatusConflict {
			t.Errorf("ending a turn: %v %s", err, r)
		}
	})
	return server, key
}

// running are a program's processes, of which there are none when it is empty.
func (g *guest) running(ctx context.Context, name string) (string, error) {
	return g.trySh(ctx, "root", "pgrep -ax "+name+" || true")
}

// ended checks that a program and what it has started are gone.
func (g *guest) ended(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		eventually(t, patience, func() error {
			left, err := g.running(t.Context(), name)
			if err == nil && left != "" {
				err = fmt.Errorf("still there: %s", left)
			}
			return err
		})
	}
}

// TestOtherAgents lets each of the programs be the agent of a desktop without a network.
func TestOtherAgents(t *testing.T) {
	programs := fetched(t)
	withPrograms(t, programs, "agents")
	began := time.Now()
	g, err := lab.create(t.Context(), map[string]any{"name": "agents", "image": "agents", "tier": "shared"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if r, err := lab.send(ctx, http.MethodDelete, "/v1/desktops/"+g.id, nil); err != nil || r.status/100 != 2 {
			t.Errorf("destroying the desktop: %v %s", err, r)
		}
	})
	g.watch(t)
	if err := lab.readied(t.Context(), g.id); err != nil {
		t.Fatal(err)
	}
	progress("the desktop with Claude Code and Codex was ready after %s", time.Since(began).Round(time.Second/10))
	if err := g.putProbe(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Run("carry", g.carry)
	for _, c := range clis {
		t.Run(c.preset, func(t *testing.T) { g.answeredBy(t, c) })
	}
	for _, c := range clis {
		t.Run("mcp/"+c.preset, func(t *testing.T) { g.movedBy(t, c, programs) })
	}
}

// carry measures how long a program takes into a desktop over the agent's link.
func (g *guest) carry(t *testing.T) {
	const piece, pieces = 1 << 20, 16 // as long as a request may be, and a few
	data := bytes.Repeat([]byte("0123456789abcdef"), piece/16)
	began := time.Now()
	for range pieces {
		r := g.exec(t, map[string]any{"command": "cat >>/tmp/carried", "stdin": string(data)})
		if r.ExitCode != 0 {
			t.Fatalf("%+v", r)
		}
	}
	took := time.Since(began)
	if size := strings.TrimSpace(g.sh(t, "stat -c %s /tmp/carried; rm /tmp/carried")); size != fmt.Sprint(piece*pieces) {
		t.Errorf("%s bytes have arrived", size)
	}
	progress("%d MiB through the standard input of commands took %s: %.1f MiB/s", piece*pieces>>20, took.Round(time.Millisecond), piece*pieces/took.Seconds()/(1<<20))
}

func (g *guest) answeredBy(t *testing.T, c cli) {
	g.cableOut(t)
	if _, err := lab.output(t.Context(), "desktop", "set", g.id, "--agent", c.preset); err != nil {
		t.Fatal(err)
	}
	const first = "A pointer crosses the night,"
	g.sh(t, "printf '%s\\n' '"+first+"' 'and more' >~/poem.txt")
	long := strings.Repeat("one word after another ", 12)
	server, key := g.lendTo(t, c,
		modeltest.Step{Text: "I read it.", Calls: []modeltest.Call{c.shell("cat ~/poem.txt; ip -4 -o addr show scope global | wc -l")}},
		modeltest.Step{Text: `The first line is: {{find "(A pointer[^\n]*)" .Result}}`, Expect: "and more"},
		modeltest.Step{Text: long, PaceMs: 150, Expect: "Say it slowly"},
		modeltest.Step{Text: "I wait.", Calls: []modeltest.Call{c.shell("tail -f /dev/null")}},
		modeltest.Step{Text: "never", Fail: &modeltest.Failure{Kind: modeltest.Silent, After: 1}},
	)

	// The whole answer, and what was done for it.
	began := time.Now()
	got := g.chat(t, "Tell me the first line of poem.txt", "")
	progress("%s answered after %s", c.preset, time.Since(began).Round(time.Second/10))
	got.wantAnswer(t, "The first line is: "+first)
	if len(got.Steps) != 1 || got.Steps[0].Failed || !strings.Contains(got.Steps[0].Result, first) || !strings.Contains(fmt.Sprint(got.Steps[0].Arguments), "poem.txt") {
		t.Errorf("the steps are %+v", got.Steps)
	}
	if got.Usage.Input == 0 || got.Usage.Output == 0 {
		t.Errorf("it took %+v", got.Usage)
	}

	// The session goes on; what is said arrives while it is said.
	following := &conversation{events: g.stream(t, "chat", map[string]any{"message": "Say it slowly", "sessionId": got.SessionID})}
	following.turn = decode[turn](t, []byte(following.await(t, "turn").data))
	told := ""
	if c.kind == model.Anthropic { // Codex tells no pieces
		e := decode[struct{ Text string }](t, []byte(following.await(t, "text").data))
		if told = e.Text; told == "" || len(told) >= len(long)/2 {
			t.Errorf("the first piece is %q", told)
		}
	}
	next := following.end(t)
	next.wantAnswer(t, strings.TrimSpace(long))
	if next.SessionID != got.SessionID {
		t.Errorf("the session is another: %+v", next)
	}
	requests := server.Requests()
	if said := fmt.Sprintf("%+v", requests[len(requests)-1].Messages); !strings.Contains(said, "Tell me the first line") || !strings.Contains(said, first) {
		t.Error("the program does not know what was said before")
	}

	// The provider's key is not where the program is; what opens nothing is.
	waiting := g.begin(t, "Wait")
	waiting.await(t, "tool.call")
	eventually(t, patience, func() error {
		if there, err := g.running(t.Context(), "tail"); err != nil || there == "" {
			return fmt.Errorf("the command does not run: %v", err)
		}
		return nil
	})
	const lent = "lent-by-bureau"
	found := decode[searched](t, []byte(g.exec(t, map[string]any{"user": "root", "timeoutMs": (5 * time.Minute).Milliseconds(),
		"command": probePath + " search -inverted " + invert(key) + "," + invert(lent) + " -processes all -files /etc,/run,/home,/root,/var,/tmp,/dev/shm,/opt"}).Stdout))
	found.want(t, key, lent, "environ of "+c.process, "memory of "+c.process)
	// Cancelled, it ends with all that it has started.
	g.call(t, http.MethodPost, g.path("chat/cancel"), nil)
	if ended := waiting.end(t); ended.StopReason != "cancelled" {
		t.Errorf("the turn ended with %q", ended.StopReason)
	}
	g.ended(t, c.process, "tail")

	// So it does when its time is up.
	r := g.call(t, http.MethodPost, g.path("chat"), map[string]any{"message": "Take your time", "timeoutMs": 20_000})
	if late := decode[turn](t, r.body); late.StopReason != "timeout" {
		t.Errorf("the turn ended with %q: %s", late.StopReason, late.Error)
	}
	g.ended(t, c.process)
}

// settings are the nth code of a language in the manual of MCP, for this appliance.
func settings(t *testing.T, language string, n int) string {
	t.Helper()
	text, err := os.ReadFile("../docs/mcp.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(text), "```"+language+"\n")
	if len(parts) <= n+1 {
		t.Fatalf("docs/mcp.md has no %s number %d", language, n)
	}
	code, _, _ := strings.Cut(parts[n+1], "```")
	return strings.ReplaceAll(code, "http://127.0.0.1:7878", lab.url)
}

// movedBy lets a program on the host move a desktop's pointer, over HTTP and over bureau mcp, with the
// settings of the manual and a key that may do no more.
func (g *guest) movedBy(t *testing.T, c cli, p programs) {
	out, err := lab.output(t.Context(), "key", "create", "mcp-"+c.preset, "--user", owner, "--can", "desktop:read,desktop:control")
	if err != nil {
		t.Fatal(err)
	}
	key := strings.TrimSpace(string(out))
	for i, way := range []string{"http", "stdio"} {
		t.Run(way, func(t *testing.T) {
			x, y := 211+100*i, 322+10*i
			server := modeltest.New("secret", modeltest.Script{Steps: []modeltest.Step{
				{Calls: []modeltest.Call{modeltest.Use(fmt.Sprintf(c.tool, "bureau", "move_pointer"), asJSON(map[string]any{"desktop": "agents", "x": x, "y": y}))}},
				{Text: "It is moved."},
			}})
			server.Lax, server.Failf = true, t.Errorf
			host := httptest.NewServer(server)
			defer host.Close()
			home := t.TempDir()
			var command *exec.Cmd
			if c.kind == model.Anthropic {
				file := filepath.Join(home, "bureau.json")
				if err := os.WriteFile(file, []byte(settings(t, "json", i)), 0o600); err != nil {
					t.Fatal(err)
				}
				command = exec.CommandContext(t.Context(), p["claude"], "-p", "--model", c.model, "--mcp-config", file, "--strict-mcp-config", "--allowedTools", "mcp__bureau")
				// All tools at once: the script looks for none.
				command.Env = []string{"ANTHROPIC_BASE_URL=" + host.URL, "ANTHROPIC_AUTH_TOKEN=secret", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
					"DISABLE_AUTOUPDATER=1", "ENABLE_TOOL_SEARCH=false"}
			} else {
				if err := os.MkdirAll(filepath.Join(home, ".codex"), 0o700); err != nil {
					t.Fatal(err)
				}
				config := fmt.Sprintf("check_for_update_on_startup = false\nanalytics.enabled = false\nfeatures.plugins = false\nmodel_provider = \"scripted\"\n"+
					"[model_providers.scripted]\nname = \"scripted\"\nbase_url = \"%s/v1\"\nenv_key = \"SCRIPTED\"\nwire_api = \"responses\"\n%s", host.URL, settings(t, "toml", i))
				if err := os.WriteFile(filepath.Join(home, ".codex", "config.toml"), []byte(config), 0o600); err != nil {
					t.Fatal(err)
				}
				command = exec.CommandContext(t.Context(), p["codex"], "exec", "--model", c.model, "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "-")
				command.Env = []string{"SCRIPTED=secret"}
			}
			command.Dir, command.Stdin = home, strings.NewReader("Move the pointer.\n")
			command.Env = append(command.Env, "HOME="+home, "BUREAU_KEY="+key, "PATH="+lab.dir+":"+os.Getenv("PATH"))
			said, err := command.CombinedOutput()
			if err != nil || !strings.Contains(string(said), "It is moved.") || server.Left() != 0 {
				t.Errorf("%s: %v\n%s", c.preset, err, said)
			}
			if at := decode[struct{ X, Y int }](t, g.probe(t, "pointer")); at.X != x || at.Y != y {
				t.Errorf("the pointer is at %d,%d and not at %d,%d", at.X, at.Y, x, y)
			}
			// It was shown what it had led to.
			requests := server.Requests()
			if pictures := requests[len(requests)-1].Pictures(); len(pictures) != 1 {
				t.Errorf("it has shown its model %d pictures", len(pictures))
			}
		})
	}
}
