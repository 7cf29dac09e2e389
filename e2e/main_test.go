package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// lab is the appliance that all tests share.
var lab *appliance

func TestMain(m *testing.M) {
	flag.Parse()
	if err := everyoneMayWait(); err != nil {
		os.Exit(fatal(err))
	}
	if testing.Short() {
		fmt.Println("e2e: left out with -short: it boots real guests")
		os.Exit(0)
	}
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	unlock, err := lock()
	if err != nil {
		return fatal(err)
	}
	defer unlock()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if lab, err = newAppliance(ctx); err != nil {
		return fatal(err)
	}
	defer func() {
		if err := lab.remove(); err != nil {
			code = max(code, fatal(err))
		}
	}()
	if err := lab.setUp(ctx); err != nil {
		lab.showLog(os.Stderr)
		return fatal(err)
	}
	ended := make(chan int, 1)
	go func() { ended <- m.Run() }()
	select {
	case code = <-ended:
	case <-ctx.Done():
		fmt.Fprintln(os.Stderr, "e2e: interrupted; removing what was made")
		code = 130
	}
	return code
}

func fatal(err error) int {
	fmt.Fprintf(os.Stderr, "e2e: %v\n", err)
	return 1
}

// lock makes two runs on one machine follow each other: they use the same names in libvirt.
func lock() (unlock func(), err error) {
	path := filepath.Join(os.TempDir(), prefix+".lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: another run is under way; waiting for its end")
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			f.Close()
			return nil, err
		}
	}
	return func() { f.Close() }, nil
}
