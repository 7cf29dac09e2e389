//go:build cgo && libvirt_dlopen

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"bureau/agent"
	"bureau/desktop"
	"bureau/hypervisor"
)

// An agent that was built without cgo does its work. serve would bring it up to its own binary, so
// the test speaks to it in serve's place.
func TestAgentWithoutCgo(t *testing.T) {
	g := alone(t)
	boot := g.bootID(t)
	path := filepath.Join(lab.dir, "bureau-nocgo")
	if err := build(t.Context(), path, "e2e-nocgo", false); err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const there = "/opt/bureau-nocgo"
	if err := g.put(t.Context(), there, binary); err != nil {
		t.Fatal(err)
	}
	const dropIn = "/run/systemd/system/bureau-agent.service.d"
	g.root(t, "mkdir -p "+dropIn+" && printf '[Service]\nExecStart=\nExecStart="+there+" agent\n' >"+dropIn+"/nocgo.conf && systemctl daemon-reload")
	g.root(t, "systemd-run --quiet --on-active=2 --timer-property=AccuracySec=100ms systemctl restart bureau-agent.service")
	if err := lab.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := lab.start(context.Background()); err != nil {
			t.Fatal(err)
		}
		g.again(t, time.Now())
		g.works(t, boot)
	}
	defer restore()

	host, err := hypervisor.Open(t.Context(), hypervisor.Options{Prefix: prefix, AgentBinary: lab.binary})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	connector := agent.Connector{}
	var session desktop.Agent
	err = until(t.Context(), 2*time.Minute, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		stream, err := host.OpenAgent(ctx, g.id)
		if err != nil {
			return err
		}
		if session, err = connector.Connect(ctx, g.id, stream); err != nil {
			return err
		}
		if s := session.Status(); s.Version != "e2e-nocgo" || !s.Ready {
			session.Close()
			return fmt.Errorf("the agent is %s, ready %t: %s", s.Version, s.Ready, s.Reason)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	result, err := session.Exec(t.Context(), desktop.Exec{Script: "echo hello; exit 3"}, nil)
	if err != nil || result.Stdout != "hello\n" || result.ExitCode != 3 {
		t.Errorf("%+v %v", result, err)
	}
	acted, err := session.Act(t.Context(), desktop.Action{Move: &desktop.Move{X: 50, Y: 60}})
	if err != nil || acted.Cursor != (desktop.Point{X: 50, Y: 60}) {
		t.Errorf("%+v %v", acted, err)
	}
	frame, err := session.Capture(t.Context())
	if err != nil || frame.Pixels.Bounds().Dx() != acted.Display.Width {
		t.Errorf("%+v %v", frame, err)
	}
	// serve gives it its own binary again when it is back.
	result, err = session.Exec(t.Context(), desktop.Exec{User: "root", Script: "rm -r " + dropIn + " && systemctl daemon-reload"}, nil)
	if err != nil || result.ExitCode != 0 {
		t.Errorf("%s %v", strings.TrimSpace(result.Stderr), err)
	}
}
