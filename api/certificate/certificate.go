// Package certificate is both ends of TLS between bureau and its clients: the certificate that a server
// shows, the operator's or one that it has made for itself, and what a client trusts. It knows nothing
// of HTTP.
package certificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Certificate is what a server shows. It follows its files: when they change, new connections see the
// new one, and those that there are go on.
type Certificate struct {
	cert, key string // the files
	log       *slog.Logger

	mu      sync.Mutex
	pair    *tls.Certificate
	stamp   string    // of the files as they were read, or failed to be
	checked time.Time // when that was last compared
}

// checkEvery is how often the files are looked at, when connections come.
const checkEvery = 5 * time.Second

// Open reads a certificate (with its chain) and its key from two PEM files.
func Open(cert, key string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{cert: cert, key: key, log: log}
	if err := c.Reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// Names of the files of a generated certificate.
const (
	CertFile = "tls.crt"
	KeyFile  = "tls.key"
)

const (
	// validity is long: whoever trusts a generated certificate has compared it, and would have to again.
	validity = 10 * 365 * 24 * time.Hour
	// renewBefore is how long before its end a generated certificate is made anew.
	renewBefore = 30 * 24 * time.Hour
)

// Generated is a self-signed certificate in a folder, made when there is none that is good for another
// month. Its names are localhost and the host's, and those given: it is kept when they change, since
// clients may have pinned it; remove the files to have another.
func Generated(folder string, names []string, log *slog.Logger) (*Certificate, error) {
	cert, key := filepath.Join(folder, CertFile), filepath.Join(folder, KeyFile)
	old, err := Open(cert, key, log)
	if err == nil && time.Now().Add(renewBefore).Before(old.leaf().NotAfter) {
		return old, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err // somebody's: it is not for us to replace
	}
	if err := generate(cert, key, names); err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return Open(cert, key, log)
}

func generate(certFile, keyFile string, names []string) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "bureau"},
		NotBefore:             now.Add(-time.Hour), // clocks differ
		NotAfter:              now.Add(validity),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, // and no authority: it vouches for nothing but itself
	}
	names = append([]string{"localhost", "127.0.0.1", "::1"}, names...)
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if name != "" {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	// The certificate comes last: without it the pair is made anew.
	if err := replace(keyFile, "PRIVATE KEY", secret, 0o600); err != nil {
		return err
	}
	return replace(certFile, "CERTIFICATE", der, 0o644)
}

// replace writes a PEM file at once or not at all.
func replace(path, kind string, der []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Reload reads the files again. When that fails, the former certificate stays.
func (c *Certificate) Reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.load(c.look())
}

// look is a stamp of the files: it changes when they do. The lock is held.
func (c *Certificate) look() string {
	c.checked = time.Now()
	var b strings.Builder
	for _, file := range []string{c.cert, c.key} {
		var s unix.Stat_t
		if err := unix.Stat(file, &s); err != nil {
			fmt.Fprintln(&b, err)
			continue
		}
		// Two files that are made in the same tick of the clock differ by their number alone.
		fmt.Fprintln(&b, s.Dev, s.Ino, s.Mtim.Nano(), s.Ctim.Nano(), s.Size)
	}
	return b.String()
}

// load reads the files. The lock is held.
func (c *Certificate) load(stamp string) error {
	c.stamp = stamp
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("read the certificate %s and its key %s: %w", c.cert, c.key, err)
	}
	c.pair = &pair
	return nil
}

// current is the certificate, read anew when its files have changed. A pair that is half replaced does
// not fit together, and is read when it does.
func (c *Certificate) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < checkEvery {
		return c.pair, nil
	}
	if stamp := c.look(); stamp != c.stamp {
		if err := c.load(stamp); err != nil {
			c.log.Warn("the certificate has changed and cannot be read; the former one stays", "error", err)
		} else {
			c.log.Info("the certificate has been read anew", "fingerprint", Fingerprint(c.pair.Leaf))
		}
	}
	return c.pair, nil
}

// TLS is how a server shows the certificate.
func (c *Certificate) TLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.current}
}

func (c *Certificate) leaf() *x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pair.Leaf
}

// Fingerprint is that of the certificate as it is now.
func (c *Certificate) Fingerprint() string { return Fingerprint(c.leaf()) }

// SelfSigned tells whether nobody vouches for the certificate but itself.
func (c *Certificate) SelfSigned() bool {
	leaf := c.leaf()
	return bytes.Equal(leaf.RawIssuer, leaf.RawSubject)
}

// Expires is when the certificate ends.
func (c *Certificate) Expires() time.Time { return c.leaf().NotAfter }

// pinned begins a fingerprint.
const pinned = "sha256:"

// Fingerprint is the SHA-256 digest of a certificate, as Trust takes it.
func Fingerprint(leaf *x509.Certificate) string {
	return fmt.Sprintf("%s%x", pinned, sha256.Sum256(leaf.Raw))
}

// Trust is the configuration of a client that trusts, in place of the system's authorities, what is
// named: the certificates in a PEM file, under the names that they are for; or the one certificate with
// a fingerprint (sha256:… in hexadecimal digits, with or without colons), under any name and at any
// time.
func Trust(what string) (*tls.Config, error) {
	if len(what) >= len(pinned) && strings.EqualFold(what[:len(pinned)], pinned) {
		want := pinned + strings.ToLower(strings.ReplaceAll(what[len(pinned):], ":", ""))
		if len(want) != len(pinned)+2*sha256.Size || strings.Trim(want[len(pinned):], "0123456789abcdef") != "" {
			return nil, fmt.Errorf("%q is not a fingerprint: sha256: and 64 hexadecimal digits", what)
		}
		return &tls.Config{
			MinVersion:         tls.VersionTLS12,
			InsecureSkipVerify: true, // the next is what verifies
			VerifyConnection: func(state tls.ConnectionState) error {
				if got := Fingerprint(state.PeerCertificates[0]); got != want {
					return fmt.Errorf("the server's certificate has the fingerprint %s, not %s: somebody may be in between", got, want)
				}
				return nil
			},
		}, nil
	}
	text, err := os.ReadFile(what)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("there is no certificate in %s", what)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, nil
}
