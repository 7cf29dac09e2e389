//go:build cgo && libvirt_dlopen

package cmd

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestOneApplianceForADatabase(t *testing.T) {
	database := filepath.Join(t.TempDir(), "bureau.db")
	unlock, err := lockDatabase(database)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDatabase(database); err == nil || !strings.Contains(err.Error(), "another bureau serve") {
		t.Errorf("a second one: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	again, err := lockDatabase(database)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
