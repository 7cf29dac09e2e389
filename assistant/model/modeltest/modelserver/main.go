// Command modelserver lets a person try the desktop's agent where no model can be reached: it serves
// the scripted models of package modeltest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8123", "the address to listen at")
	key := flag.String("key", "demo", "the key that requests must carry")
	path := flag.String("script", "", "a script as JSON; a poem is written without")
	lax := flag.Bool("lax", false, "take requests of other programs than bureau")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *key, *path, *lax); err != nil {
		fmt.Fprintln(os.Stderr, "modelserver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen, key, path string, lax bool) error {
	script, err := modeltest.Demo()
	if path != "" {
		var data []byte
		if data, err = os.ReadFile(path); err == nil {
			script, err = modeltest.ReadScript(data)
		}
	}
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	handler := modeltest.New(key, script)
	handler.Lax = lax
	handler.Failf = func(format string, args ...any) { log.Error(fmt.Sprintf(format, args...)) }

	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("Scripted models at http://%s, with the key %q:\n", listener.Addr(), key)
	for _, format := range model.Formats() {
		endpoint := modeltest.Endpoint(format, "http://"+listener.Addr().String(), key)
		fmt.Printf("  %-12s  model %s\n", format, endpoint.Model)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	done := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		done <- server.Shutdown(ending)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-done
}
