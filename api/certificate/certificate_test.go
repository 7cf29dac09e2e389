package certificate

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

// connect makes a connection of a client to a server with a certificate, and tells what the client says.
func connect(t *testing.T, server, client *tls.Config, name string) (tls.ConnectionState, error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ended := make(chan struct{})
	defer func() { <-ended }()
	go func() {
		defer close(ended)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if secure := tls.Server(conn, server); secure.HandshakeContext(t.Context()) == nil {
			_, _ = io.Copy(io.Discard, secure)
		}
	}()
	client = client.Clone()
	client.ServerName = name
	conn, err := tls.Dial("tcp", listener.Addr().String(), client)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	return conn.ConnectionState(), nil
}

func generated(t *testing.T, folder string, names ...string) *Certificate {
	t.Helper()
	c, err := Generated(folder, names, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func trust(t *testing.T, what string) *tls.Config {
	t.Helper()
	c, err := Trust(what)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestGenerated(t *testing.T) {
	folder := t.TempDir()
	c := generated(t, folder, "bureau.example.org", "192.0.2.7")
	if again := generated(t, folder, "other.example.org"); again.Fingerprint() != c.Fingerprint() {
		t.Error("it is made anew at each start")
	}
	if !c.SelfSigned() || c.Expires().Before(time.Now().AddDate(9, 0, 0)) {
		t.Errorf("self-signed %t, until %s", c.SelfSigned(), c.Expires())
	}
	for file, mode := range map[string]os.FileMode{CertFile: 0o644, KeyFile: 0o600} {
		info, err := os.Stat(filepath.Join(folder, file))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
	if entries, _ := os.ReadDir(folder); len(entries) != 2 {
		t.Errorf("%d files in the folder", len(entries))
	}

	file := filepath.Join(folder, CertFile)
	shouting := "SHA256:" + strings.ToUpper(strings.TrimPrefix(c.Fingerprint(), "sha256:"))
	other := generated(t, t.TempDir()).Fingerprint()
	for _, test := range []struct {
		trust, name string
		good        bool
	}{
		{file, "localhost", true}, {file, "127.0.0.1", true}, {file, "::1", true}, {file, "bureau.example.org", true}, {file, "192.0.2.7", true},
		{file, "evil.example.org", false},
		{c.Fingerprint(), "localhost", true}, {c.Fingerprint(), "any.example.org", true}, {shouting, "localhost", true},
		{other, "localhost", false},
	} {
		state, err := connect(t, c.TLS(), trust(t, test.trust), test.name)
		if (err == nil) != test.good {
			t.Errorf("who trusts %s, at %s: %v", test.trust, test.name, err)
		}
		if err == nil && state.Version != tls.VersionTLS13 {
			t.Errorf("version %x", state.Version)
		}
	}
	if _, err := connect(t, c.TLS(), &tls.Config{}, "localhost"); err == nil {
		t.Error("whoever has not been told trusts it")
	}
	old := trust(t, file)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if _, err := connect(t, c.TLS(), old, "localhost"); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	old.MaxVersion = tls.VersionTLS12
	if _, err := connect(t, c.TLS(), old, "localhost"); err != nil {
		t.Errorf("TLS 1.2: %v", err)
	}
}

func TestWhatCannotBeTrusted(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"sha256:", "sha256:ab", "sha256:" + strings.Repeat("x", 64), "sha256:" + strings.Repeat("ab", 33), empty, empty + "-missing", ""} {
		if _, err := Trust(what); err == nil {
			t.Errorf("%q is trusted", what)
		}
	}
}

func TestAHalfPairIsMadeAnewAndAForeignOneIsNot(t *testing.T) {
	folder := t.TempDir()
	first := generated(t, folder).Fingerprint()
	if err := os.Remove(filepath.Join(folder, CertFile)); err != nil {
		t.Fatal(err)
	}
	second := generated(t, folder).Fingerprint()
	if first == second {
		t.Error("a certificate without its file is shown")
	}
	if err := os.WriteFile(filepath.Join(folder, CertFile), []byte("not ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Generated(folder, nil, quiet); err == nil || !strings.Contains(err.Error(), CertFile) {
		t.Errorf("got %v", err)
	}
	if _, err := Open(filepath.Join(folder, "none"), filepath.Join(folder, KeyFile), quiet); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestNewFiles: a certificate follows its files, one after the other as they are replaced, and shows the
// former one while they do not fit together.
func TestNewFiles(t *testing.T) {
	folder, fresh := t.TempDir(), t.TempDir()
	c := generated(t, folder)
	first, second := c.Fingerprint(), generated(t, fresh).Fingerprint()
	shows := func(want string) {
		t.Helper()
		c.mu.Lock()
		c.checked = time.Time{} // the time until the next look is over
		c.mu.Unlock()
		if _, err := connect(t, c.TLS(), trust(t, want), "localhost"); err != nil {
			t.Error(err)
		}
	}
	move := func(file string) {
		t.Helper()
		if err := os.Rename(filepath.Join(fresh, file), filepath.Join(folder, file)); err != nil {
			t.Fatal(err)
		}
	}
	shows(first)
	move(CertFile)
	shows(first)
	if err := c.Reload(); err == nil {
		t.Error("a certificate with another's key is taken")
	}
	shows(first)
	move(KeyFile)
	shows(second)
	if err := os.Remove(filepath.Join(folder, KeyFile)); err != nil {
		t.Fatal(err)
	}
	shows(second)
}
