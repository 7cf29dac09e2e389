package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// daemon is a process that is started again whenever it ends, as systemd does with it.
type daemon struct {
	name    string
	command func() *exec.Cmd
	log     string
	// calm tells which ends by itself are no crash: serve gives up when it is started while libvirtd
	// is away.
	calm func(*os.ProcessState) bool

	ended chan struct{} // closed when the process has ended for good

	mu      sync.Mutex
	process *os.Process   // nil while it is down
	down    time.Duration // before the next start, of a kill
	while   func()        // what is done before that
	crashes []string
	starts  int
}

// pause is between the end of a process that ended by itself and the next start.
const pause = 200 * time.Millisecond

// run keeps the process running until ctx ends, which kills it.
func (d *daemon) run(ctx context.Context) error {
	d.down = alone
	if err := d.begin(ctx); err != nil {
		return err
	}
	context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.process != nil {
			d.process.Kill()
		}
	})
	d.ended = make(chan struct{})
	go d.supervise(ctx)
	return nil
}

// wait returns when a daemon whose ctx has ended has ended, too.
func (d *daemon) wait() {
	if d != nil && d.ended != nil {
		<-d.ended
	}
}

// alone is the time down of a process that nobody has killed.
const alone = -1

// begin starts the process.
func (d *daemon) begin(ctx context.Context) error {
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	c := d.command()
	process, err := os.StartProcess(c.Path, c.Args, &os.ProcAttr{
		Dir: c.Dir, Env: c.Env, Files: []*os.File{nil, log, log}, Sys: c.SysProcAttr,
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.process = process
	d.starts++
	if ctx.Err() != nil { // whoever kills it then came too early
		process.Kill()
	}
	return nil
}

func (d *daemon) supervise(ctx context.Context) {
	defer close(d.ended)
	for {
		d.mu.Lock()
		process := d.process
		d.mu.Unlock()
		state, err := process.Wait()
		d.mu.Lock()
		wait, while := d.down, d.while
		d.process, d.down, d.while = nil, alone, nil
		if wait == alone {
			wait = pause
			switch {
			case ctx.Err() != nil:
			case err != nil:
				d.crashes = append(d.crashes, fmt.Sprintf("%s cannot be waited for: %v", d.name, err))
			case d.calm == nil || !d.calm(state):
				d.crashes = append(d.crashes, fmt.Sprintf("%s (%d) ended by itself: %s", d.name, state.Pid(), state))
			}
		}
		d.mu.Unlock()
		if while != nil {
			while()
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		if err := d.begin(ctx); err != nil {
			d.mu.Lock()
			d.crashes = append(d.crashes, err.Error())
			d.mu.Unlock()
			return
		}
	}
}

// kill kills the process, which is started again after down; while, when not nil, is called before
// that. It reports false when there was no process to be killed.
func (d *daemon) kill(down time.Duration, while func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process == nil || d.down != alone || d.process.Signal(syscall.SIGKILL) != nil {
		return false
	}
	d.down, d.while = down, while
	return true
}

// trouble is what it did that nobody asked for.
func (d *daemon) trouble() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.crashes
}
