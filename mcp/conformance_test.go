package mcp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"bureau/desktop"
)

// The conformance suite of the protocol's makers, run against the real handler behind the real door.
//
// The suite sends no key, so a proxy that adds one, and leaves the Host as it is, stands before the
// API. Scenarios that need no fixture run against what bureau offers; for the others the suite's
// fixtures (fixtures_test.go) are added to it, behind the same authentication, sessions and limits.

// plain are the scenarios that need no fixture.
var plain = []string{"dns-rebinding-protection", "logging-set-level", "ping", "resources-list", "server-initialize",
	"server-sse-multiple-streams", "tools-list"}

// polling is a scenario of which the suite can only be told that it is not refused: it asks for what
// came with version 2025-11-25 in requests of version 2025-03-26, and warns that it does not get it.
// TestBrokenStreamsAreResumed asks in the right version.
const polling = "server-sse-polling"

func TestConformance(t *testing.T) {
	suite := npm(t)
	h := newHouse(t, Options{}, nil)
	for _, scenario := range plain {
		t.Run(scenario, func(t *testing.T) { suite.scenario(t, h.withKey(t), scenario) })
	}
}

func TestConformanceWithFixtures(t *testing.T) {
	suite := npm(t)
	h := newHouse(t, Options{extend: withFixtures}, nil)
	scenarios := suite.scenarios(t)
	if len(scenarios) < 30 || !slices.Contains(scenarios, "tools-call-elicitation") {
		t.Fatalf("the suite has %d scenarios: %v", len(scenarios), scenarios)
	}
	for _, scenario := range scenarios {
		t.Run(scenario, func(t *testing.T) { suite.scenario(t, h.withKey(t), scenario) })
	}
}

// withKey is the address of a proxy that adds a key to each request.
func (h *house) withKey(t *testing.T) string {
	target, err := url.Parse(h.url)
	if err != nil {
		t.Fatal(err)
	}
	key := h.key(desktop.Capabilities()...)
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			r.Out.Header.Set("Authorization", "Bearer "+key)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the proxy: %v", err)
			}
			w.WriteHeader(http.StatusBadGateway)
		},
	})
	t.Cleanup(proxy.Close)
	return proxy.URL + "/mcp"
}

// scenario runs one scenario of the suite against a server; it fails when any of its checks does.
func (p packages) scenario(t *testing.T, address, name string) {
	t.Helper()
	output, err := p.command(t, "conformance", "server", "--url", address, "--scenario", name).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, output)
		return
	}
	// A scenario that checks nothing proves nothing.
	if passed := passedRule.FindSubmatch(output); (passed == nil || string(passed[1]) == "0") && name != polling {
		t.Errorf("no check was passed:\n%s", output)
	}
}

var passedRule = regexp.MustCompile(`(?i)passed: (\d+)/`)

// scenarios lists the suite's for servers.
func (p packages) scenarios(t *testing.T) []string {
	t.Helper()
	output, err := p.command(t, "conformance", "list", "--server").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	listed, _, _ := strings.Cut(string(output), "Client scenarios")
	var names []string
	for _, match := range regexp.MustCompile(`(?m)^\s+- (\S+)`).FindAllStringSubmatch(listed, -1) {
		names = append(names, match[1])
	}
	return names
}

// command runs a program of the packages.
func (p packages) command(t *testing.T, program string, arguments ...string) *exec.Cmd {
	c := exec.CommandContext(t.Context(), p.node, append([]string{p.program(program)}, arguments...)...)
	c.Dir = t.TempDir() // where it leaves its results
	c.Env = append(c.Environ(), "NO_COLOR=1", fmt.Sprintf("PATH=%s:%s", p.binaries(), "/usr/bin:/bin"))
	return c
}
