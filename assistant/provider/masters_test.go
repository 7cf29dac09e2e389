package provider

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bureau/desktop"
)

// Master keys of two hosts are one file then, which opens what either has sealed, and the first key is
// still the one that seals.
func TestMergeMasters(t *testing.T) {
	dir := t.TempDir()
	here, there := filepath.Join(dir, "here"), filepath.Join(dir, "there")
	first, err := OpenVault(here)
	if err != nil {
		t.Fatal(err)
	}
	second, err := OpenVault(there)
	if err != nil {
		t.Fatal(err)
	}
	mine, theirs := first.seal("prv-1", "mine"), second.seal("prv-1", "theirs")
	if first.Opens("prv-1", theirs) || !first.Opens("prv-1", mine) || first.Opens("prv-2", mine) {
		t.Error("what can be opened is told wrong")
	}
	owned := ""
	for i, want := range []int{1, 0} {
		added, err := MergeMasters(here, there, func(path string) error { owned = path; return nil })
		if err != nil || added != want {
			t.Fatalf("time %d: %d keys were added, want %d; %v", i, added, want, err)
		}
	}
	if owned == "" {
		t.Error("nobody was asked for the owner")
	}
	if info, err := os.Stat(here); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	both, err := OpenVault(here)
	if err != nil {
		t.Fatal(err)
	}
	if !both.Opens("prv-1", theirs) || !both.Opens("prv-1", mine) || !first.Opens("prv-1", both.seal("prv-1", "x")) {
		t.Error("the two do not open what each has sealed, or another one seals")
	}
	// Where there was none there is a copy.
	fresh := filepath.Join(dir, "fresh")
	if _, err := MergeMasters(fresh, there, nil); err != nil {
		t.Fatal(err)
	}
	if copied, err := OpenVault(fresh); err != nil || !copied.Opens("prv-1", theirs) {
		t.Errorf("%v", err)
	}
	// What is no file of keys changes nothing.
	before, _ := os.ReadFile(here)
	for name, text := range map[string]string{"none": "# none\n", "rubbish": "rubbish\n", "short": strings.Repeat("0", 10)} {
		bad := filepath.Join(dir, "bad")
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := MergeMasters(here, bad, nil); desktop.CodeOf(err) != desktop.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after, _ := os.ReadFile(here); string(before) != string(after) {
		t.Error("the file was changed")
	}
}
