package agent

import (
	"os"
	"strings"
	"testing"
)

// A program goes on as it was when the pages of its start have been given back.
func TestDropStart(t *testing.T) {
	for range 3 {
		if err := dropStart(); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile("/proc/self/status"); err != nil || !strings.Contains(string(text), "RssFile") {
			t.Fatalf("%v", err)
		}
	}
}
