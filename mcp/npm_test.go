package mcp

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// offlineVariable, when set, lets the tests with programs from npm be skipped where there is no
// registry. Without it they fail there: what was not tested must not look as if it were.
const offlineVariable = "BUREAU_TEST_OFFLINE"

// The programs from npm, and a Node that is new enough for them.
var dependencies = map[string]string{
	"@modelcontextprotocol/conformance": "0.1.16",
	"@modelcontextprotocol/inspector":   "2.12.0",
	"node-linux-" + nodeArchitecture():  "22.23.3",
}

func nodeArchitecture() string {
	if runtime.GOARCH == "amd64" {
		return "x64"
	}
	return runtime.GOARCH
}

// packages are programs from npm in a folder.
type packages struct {
	folder string
	node   string
}

func (p packages) binaries() string { return filepath.Join(p.folder, "node_modules", ".bin") }

func (p packages) program(name string) string { return filepath.Join(p.binaries(), name) }

var installed = sync.OnceValues(install)

// npm is the programs from npm, installed into the user's cache at the first use.
func npm(t *testing.T) packages {
	t.Helper()
	p, err := installed()
	if err == nil {
		return p
	}
	if os.Getenv(offlineVariable) != "" {
		t.Skipf("NOT TESTED, as %s allows: %v", offlineVariable, err)
	}
	t.Fatalf("the programs from npm cannot be had, and nothing of this was tested (%s=1 allows that): %v", offlineVariable, err)
	return p
}

func install() (packages, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return packages{}, err
	}
	p := packages{folder: filepath.Join(cache, "bureau", "mcp-test")}
	p.node = filepath.Join(p.folder, "node_modules", "node-linux-"+nodeArchitecture(), "bin", "node")
	if err := os.MkdirAll(p.folder, 0o755); err != nil {
		return p, err
	}
	lock, err := os.OpenFile(filepath.Join(p.folder, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return p, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return p, fmt.Errorf("wait for another test that installs them: %w", err)
	}
	wanted, err := json.MarshalIndent(map[string]any{"private": true, "dependencies": dependencies}, "", "  ")
	if err != nil {
		return p, err
	}
	// Written when everything is there.
	done := filepath.Join(p.folder, "installed.json")
	if have, err := os.ReadFile(done); err == nil && string(have) == string(wanted) {
		return p, nil
	}
	if err := os.WriteFile(filepath.Join(p.folder, "package.json"), wanted, 0o644); err != nil {
		return p, err
	}
	command := exec.Command("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
	command.Dir = p.folder
	if output, err := command.CombinedOutput(); err != nil {
		return p, errors.Join(err, fmt.Errorf("npm install: %s", output))
	}
	return p, os.WriteFile(done, wanted, 0o644)
}
