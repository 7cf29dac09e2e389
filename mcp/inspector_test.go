package mcp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"image"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"bureau/desktop"
)

// TestInspector uses the protocol's own inspector, over HTTP and over the standard streams of
// `bureau mcp`: it sees exactly the tools that each of three keys allows, finds nothing wrong with
// their schemas, and takes a screenshot.
func TestInspector(t *testing.T) {
	inspector := npm(t)
	h := newHouse(t, Options{}, nil)
	bureau := program(t)
	for name, held := range map[string][]desktop.Capability{
		"reader":     {desktop.CanRead},
		"controller": {desktop.CanRead, desktop.CanControl},
		"manager":    {desktop.CanRead, desktop.CanLifecycle, desktop.CanControl, desktop.CanManage},
	} {
		var want []string
		for _, capability := range held {
			want = append(want, toolsFor[capability]...)
		}
		slices.Sort(want)
		key := h.key(held...)
		for way, reach := range map[string][]string{
			"http":  {h.url + "/mcp", "--transport", "http", "--header", "Authorization: Bearer " + key},
			"stdio": {"-e", "BUREAU_URL=" + h.url, "-e", "BUREAU_KEY=" + key, "--", bureau, "mcp"},
		} {
			t.Run(name+"/"+way, func(t *testing.T) {
				ask := func(into any, arguments ...string) error {
					t.Helper()
					options := append([]string{"--cli"}, arguments...)
					if way == "http" {
						options = append([]string{"--cli", reach[0]}, append(reach[1:len(reach):len(reach)], arguments...)...)
					} else {
						options = append(options, reach...)
					}
					c := inspector.command(t, "mcp-inspector", options...)
					c.Env = append(c.Environ(), "HOME="+t.TempDir())
					var out, said bytes.Buffer
					c.Stdout, c.Stderr = &out, &said
					if err := c.Run(); err != nil {
						return errors.Join(err, errors.New(said.String()+out.String()))
					}
					return json.Unmarshal(out.Bytes(), into)
				}
				var listed struct{ Tools []struct{ Name string } }
				if err := ask(&listed, "--method", "tools/list", "--strict"); err != nil {
					t.Fatal(err)
				}
				var names []string
				for _, tool := range listed.Tools {
					names = append(names, tool.Name)
				}
				slices.Sort(names)
				if !slices.Equal(names, want) {
					t.Errorf("got %v, want %v", names, want)
				}
				var shot struct {
					IsError bool
					Content []struct {
						Type, MimeType string
						Data           []byte
					}
				}
				err := ask(&shot, "--method", "tools/call", "--tool-name", "screenshot", "--tool-arg", "desktop="+ours)
				if !slices.Contains(held, desktop.CanControl) {
					if err == nil {
						t.Errorf("a screenshot without the capability: %+v", shot)
					}
					return
				}
				if err != nil || shot.IsError || len(shot.Content) != 2 || shot.Content[1].MimeType != "image/png" {
					t.Fatalf("the screenshot: %+v, %v", shot, err)
				}
				if config, format, err := image.DecodeConfig(bytes.NewReader(shot.Content[1].Data)); err != nil || format != "png" || config.Width != 320 {
					t.Errorf("the screenshot is a %s of %v, %v", format, config, err)
				}
			})
		}
	}
}

// program builds the program, as it is on a computer that is no appliance.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bureau")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "bureau")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return path
}

// TestCommandEnds when its peer closes standard input, and when it is told to by a signal while that
// stays open.
func TestCommandEnds(t *testing.T) {
	h := newHouse(t, Options{}, nil)
	bureau, key := program(t), h.key(desktop.CanRead)
	for _, signal := range []bool{false, true} {
		c := exec.CommandContext(t.Context(), bureau, "mcp")
		c.Env = append(c.Environ(), "BUREAU_URL="+h.url, "BUREAU_KEY="+key)
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(in, hello+"\n"); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || !strings.Contains(line, `"name":"bureau"`) {
			t.Errorf("it says %q, %v", line, err)
		}
		if signal {
			err = c.Process.Signal(syscall.SIGTERM)
		} else {
			err = in.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err != nil {
			t.Errorf("by a signal %v: it ended with %v", signal, err)
		}
	}
}
