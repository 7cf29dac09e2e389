package systemd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const unit = "bureau.service"

// analyze runs systemd-analyze, which examines a unit without the machine being run by systemd.
func analyze(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("NOT TESTED: there is no systemd-analyze here; packaging/host/prepare --tests installs it")
	}
	c := exec.CommandContext(t.Context(), path, args...)
	c.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER=cat")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

var overall = regexp.MustCompile(`Overall exposure level for bureau\.service: ([0-9.]+)`)

// TestExposure: what a stranger who has got into serve could do from there is as little as can be.
func TestExposure(t *testing.T) {
	const most = 2.0
	out := analyze(t, "security", "--offline=true", "--no-pager", unit)
	m := overall.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("systemd-analyze tells no exposure:\n%s", out)
	}
	exposure, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	if exposure > most {
		t.Errorf("the exposure is %.1f, more than %.1f:\n%s", exposure, most, out)
	}
	t.Logf("the exposure is %.1f", exposure)
}

// TestUnitIsUnderstood: systemd passes over what it does not know with no more than a warning.
func TestUnitIsUnderstood(t *testing.T) {
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	// The binary is there when the appliance is installed.
	there := strings.Replace(string(text), "ExecStart=/usr/local/bin/bureau ", "ExecStart=/bin/true ", 1)
	if there == string(text) {
		t.Fatal("the unit does not start /usr/local/bin/bureau")
	}
	copied := filepath.Join(t.TempDir(), unit)
	if err := os.WriteFile(copied, []byte(there), 0o600); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(analyze(t, "verify", "--man=no", "--recursive-errors=no", copied)) {
		if strings.Contains(line, unit) {
			t.Errorf("systemd says of the unit: %s", line)
		}
	}
}
