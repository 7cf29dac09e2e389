package cmd

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bureau/api/apitest"
	"bureau/api/certificate"
	"bureau/cmd/config"
	"bureau/desktop"
)

func TestCertificateOf(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	c := config.Config{DataDir: t.TempDir(), Listen: "0.0.0.0:0", Hosts: "bureau.example.org"}
	if shown, err := certificateOf(c, log); shown != nil || err != nil {
		t.Errorf("without a setting: %v, %v", shown, err)
	}
	c.TLS.Cert = config.TLSAuto
	made, err := certificateOf(c, log)
	if err != nil {
		t.Fatal(err)
	}
	files := config.TLS{Cert: filepath.Join(c.DataDir, certificate.CertFile), Key: filepath.Join(c.DataDir, certificate.KeyFile)}
	if again, err := certificateOf(config.Config{TLS: files}, log); err != nil || again.Fingerprint() != made.Fingerprint() {
		t.Errorf("from its files: %v", err)
	}
	files.Key += "-missing"
	if _, err := certificateOf(config.Config{TLS: files}, log); desktop.CodeOf(err) != desktop.Invalid || !strings.Contains(err.Error(), files.Key) {
		t.Errorf("got %v", err)
	}
}

// TestHangup: SIGHUP reads the certificate anew, and does no harm where there is none.
func TestHangup(t *testing.T) {
	var text apitest.Log
	log := slog.New(slog.NewTextHandler(&text, nil))
	hangUp := func(want string) {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); !strings.Contains(text.String(), want); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the log does not say %q: %s", want, text.String())
			}
		}
	}
	stop := reloading(t.Context(), nil, log)
	hangUp("there is no certificate")
	stop()

	folder := t.TempDir()
	shown, err := certificate.Generated(folder, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	stop = reloading(t.Context(), shown, log)
	defer stop()
	hangUp("fingerprint=" + shown.Fingerprint())
	if err := os.Remove(filepath.Join(folder, certificate.KeyFile)); err != nil {
		t.Fatal(err)
	}
	hangUp("the former one stays")
}

func TestConnectionsOf(t *testing.T) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	half := int(min(files.Cur/2, 1<<30))
	for set, want := range map[int]int{1: 1, half: half, half + 1: half, math.MaxInt32: half, 0: half} {
		if got := connectionsOf(config.Config{Connections: config.Connections{Total: set}}, slog.New(slog.DiscardHandler)); got != want {
			t.Errorf("of %d: %d, want %d of %d files", set, got, want, files.Cur)
		}
	}
}

// TestKeysStayOutOfTheLog, whatever of them comes there, in either format.
func TestKeysStayOutOfTheLog(t *testing.T) {
	const key = "sk_live_0123456789abcdefghij"
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log := (&app{err: &out}).logger(config.Log{Level: slog.LevelDebug, Format: format}).With("early", key)
		log.WithGroup("group").Debug("of "+key, "string", "a "+key+" b", "error", fmt.Errorf("wrapped: %w", errors.New(key)),
			slog.Group("inner", "deep", key), "number", 7, "time", time.Minute)
		if text := out.String(); strings.Contains(text, key) || strings.Count(text, "sk_live_…") != 5 || !strings.Contains(text, "7") {
			t.Errorf("%s: %s", format, text)
		}
	}
}
