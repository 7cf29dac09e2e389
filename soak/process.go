package main

import (
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

	mu      sync.Mutex
	process *os.Process   // nil while it is down
	down    time.Duration // before the next start, of a kill
	while   func()        // what is done before that
	crashes []string
	starts  int
}

// pause is between the end of a process that ended by itself and the next start.
const pause = 200 * time.Millisecond

// run keeps the process running for as long as the world lasts.
func (d *daemon) run() error {
	d.down = alone
	if err := d.begin(); err != nil {
		return err
	}
	go d.supervise()
	return nil
}

// alone is the time down of a process that nobody has killed.
const alone = -1

// begin starts the process.
func (d *daemon) begin() error {
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
	return nil
}

func (d *daemon) supervise() {
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
		time.Sleep(wait)
		if err := d.begin(); err != nil {
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
