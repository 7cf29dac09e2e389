package cmd

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"bureau/api/certificate"
	"bureau/cmd/config"
	"bureau/desktop"
)

// certificateOf is the certificate that the API shows, nil for none.
func certificateOf(c config.Config, log *slog.Logger) (*certificate.Certificate, error) {
	var (
		shown *certificate.Certificate
		err   error
	)
	switch c.TLS.Cert {
	case "":
		return nil, nil
	case config.TLSAuto:
		names := c.HostNames()
		if host, _, err := net.SplitHostPort(c.Listen); err == nil && host != "" && !net.ParseIP(host).IsUnspecified() {
			names = append(names, host)
		}
		shown, err = certificate.Generated(c.DataDir, names, log)
	default:
		shown, err = certificate.Open(c.TLS.Cert, c.TLS.Key, log)
	}
	if err != nil {
		return nil, desktop.Errorf(desktop.Invalid, "tls.cert: %w", err)
	}
	log.Info("the API speaks TLS", "fingerprint", shown.Fingerprint(), "expires", shown.Expires(), "selfSigned", shown.SelfSigned())
	return shown, nil
}

// reloading reads the certificate anew on SIGHUP, until stop is called, which waits for its end. Without
// a certificate SIGHUP does nothing; it never ends the appliance.
func reloading(ctx context.Context, shown *certificate.Certificate, log *slog.Logger) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
			}
			if shown == nil {
				log.Info("there is no certificate to read anew")
			} else if err := shown.Reload(); err != nil {
				log.Error("the certificate cannot be read anew; the former one stays", "error", err)
			} else {
				log.Info("the certificate has been read anew", "fingerprint", shown.Fingerprint())
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		cancel()
		<-ended
	}
}

// connectionsOf is how many connections there may be: what is set, and at most half of the files that
// the process may open, since desktops need some, too.
func connectionsOf(c config.Config, log *slog.Logger) int {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return c.Connections.Total
	}
	most := int(min(files.Cur/2, 1<<30))
	if c.Connections.Total > 0 && c.Connections.Total <= most {
		return c.Connections.Total
	}
	log.Warn("fewer connections than set: the process may not open enough files", "connections", most, "files", files.Cur)
	return most
}
