package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

// One connection carries the events; it is replaced when the daemon dies and comes back. Each
// operation borrows a connection for itself, and agent streams have sockets of their own
// (channel.go), so that no amount of data delays a lifecycle call.
//
// Calls on one connection must not overlap: libvirt before 10.3, Debian 12's among them, keeps a
// pointer to the stack of a thread whose call is over when another waits for its answer on the same
// connection (CVE-2024-4418), and crashes the process that has loaded it.

// A daemon that has not answered for keepaliveInterval × keepaliveCount is taken for dead.
const (
	keepaliveInterval = 5 // seconds
	keepaliveCount    = 3
)

// eventLoop runs libvirt's event loop, once for the process and for all its life: libvirt cannot
// take a loop back.
var eventLoop = sync.OnceValue(func() error {
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return fmt.Errorf("register libvirt's event loop: %w", err)
	}
	go func() {
		for {
			if libvirt.EventRunDefaultImpl() != nil {
				time.Sleep(time.Second) // never seen; not a reason to spin
			}
		}
	}()
	return nil
})

type connection struct {
	*libvirt.Connect
	lost      chan struct{} // closed when the daemon is gone
	callbacks []int
}

// connectTo opens a connection that notices a dead daemon. libvirt's own call may hang for as long
// as the daemon does; when ctx ends first, the connection is closed as soon as it is there.
func connectTo(ctx context.Context, uri string) (*connection, error) {
	if err := eventLoop(); err != nil {
		return nil, err
	}
	type outcome struct {
		conn *connection
		err  error
	}
	done := make(chan outcome)
	abandoned := make(chan struct{})
	go func() {
		conn, err := connectNow(uri)
		select {
		case done <- outcome{conn, err}:
		case <-abandoned:
			if err == nil {
				conn.close()
			}
		}
	}()
	select {
	case o := <-done:
		return o.conn, o.err
	case <-ctx.Done():
		close(abandoned)
		return nil, fmt.Errorf("connect to libvirt at %s: %w", uri, ctx.Err())
	}
}

func connectNow(uri string) (*connection, error) {
	c, err := libvirt.NewConnect(uri)
	if err != nil {
		return nil, &desktop.Error{
			Code:       desktop.Unavailable,
			Message:    "libvirt is not reachable at " + uri,
			RetryAfter: 2 * time.Second,
			Err:        fmt.Errorf("connect to %s: %w", uri, err),
		}
	}
	conn := &connection{Connect: c, lost: make(chan struct{})}
	var once sync.Once
	err = errors.Join(
		c.RegisterCloseCallback(func(*libvirt.Connect, libvirt.ConnectCloseReason) {
			once.Do(func() { close(conn.lost) })
		}),
		c.SetKeepAlive(keepaliveInterval, keepaliveCount),
	)
	if err != nil {
		conn.close()
		return nil, fmt.Errorf("watch over the connection to %s: %w", uri, err)
	}
	return conn, nil
}

func (c *connection) close() {
	for _, id := range c.callbacks {
		c.DomainEventDeregister(id) // fails on a dead connection, where it does not matter
	}
	c.UnregisterCloseCallback()
	c.Close()
}

// isLost tells whether the daemon at the other end is gone.
func (c *connection) isLost() bool {
	select {
	case <-c.lost:
		return true
	default:
		alive, err := c.IsAlive()
		return err != nil || !alive
	}
}

const (
	mostLent = 16 // connections at the same time; libvirtd has 20 workers
	mostIdle = 4  // connections that wait for the next operation
)

// lender lends connections, each to one operation at a time.
type lender struct {
	uri  string
	lent chan struct{} // has an element for each

	mu     sync.Mutex
	closed bool
	idle   []*connection
}

func newLender(uri string) *lender {
	return &lender{uri: uri, lent: make(chan struct{}, mostLent)}
}

// borrow waits for a connection, which has to be given back.
func (l *lender) borrow(ctx context.Context) (*connection, error) {
	select {
	case l.lent <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a connection to libvirt: %w", ctx.Err())
	}
	for {
		l.mu.Lock()
		last := len(l.idle) - 1
		if last < 0 {
			l.mu.Unlock()
			break
		}
		conn := l.idle[last]
		l.idle = l.idle[:last]
		l.mu.Unlock()
		if !conn.isLost() {
			return conn, nil
		}
		conn.close()
	}
	conn, err := connectTo(ctx, l.uri)
	if err != nil {
		<-l.lent
	}
	return conn, err
}

func (l *lender) giveBack(conn *connection) {
	defer func() { <-l.lent }()
	lost := conn.isLost()
	l.mu.Lock()
	keep := !lost && !l.closed && len(l.idle) < mostIdle
	if keep {
		l.idle = append(l.idle, conn)
	}
	l.mu.Unlock()
	if !keep {
		conn.close()
	}
}

// close ends the idle connections; those that are lent end when they are given back.
func (l *lender) close() {
	l.mu.Lock()
	idle := l.idle
	l.idle, l.closed = nil, true
	l.mu.Unlock()
	for _, conn := range idle {
		conn.close()
	}
}

// dial makes a connection that delivers events, with the pool ready.
func (h *Host) dial(ctx context.Context) (*connection, error) {
	conn, err := connectTo(ctx, h.opts.URI)
	if err != nil {
		return nil, err
	}
	err = func() error {
		lifecycle, err := conn.DomainEventLifecycleRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventLifecycle) {
			h.machineChanged(d, func(past *happening) { past.lifecycle(e) })
		})
		if err != nil {
			return fmt.Errorf("listen to libvirt's events: %w", err)
		}
		conn.callbacks = append(conn.callbacks, lifecycle)
		reboot, err := conn.DomainEventRebootRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain) {
			h.machineChanged(d, func(past *happening) { past.reboots++ })
		})
		if err != nil {
			return fmt.Errorf("listen to libvirt's events: %w", err)
		}
		conn.callbacks = append(conn.callbacks, reboot)
		ioError, err := conn.DomainEventIOErrorReasonRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventIOErrorReason) {
			h.log.Warn("a machine's disk has failed", "domain", domainName(d), "disk", e.DevAlias, "reason", e.Reason)
			h.machineChanged(d, nil)
		})
		if err != nil {
			return fmt.Errorf("listen to libvirt's events: %w", err)
		}
		conn.callbacks = append(conn.callbacks, ioError)
		return h.ensurePool(conn.Connect)
	}()
	if err != nil {
		err = explain(conn.Connect, "set up the connection to libvirt", err)
		conn.close()
		return nil, err
	}
	return conn, nil
}

// keepConnected replaces the connection whenever it is lost, until the host is closed.
func (h *Host) keepConnected(conn *connection) {
	for {
		select {
		case <-conn.lost:
		case <-h.ctx.Done():
			conn.close()
			return
		}
		h.setAway(true)
		conn.close()
		h.log.Warn("the connection to libvirt is lost", "uri", h.opts.URI)

		wait := 100 * time.Millisecond
		for {
			select {
			case <-time.After(wait):
			case <-h.ctx.Done():
				return
			}
			next, err := h.dial(h.ctx)
			if err == nil {
				conn = next
				break
			}
			h.log.Debug("libvirt is still away", "uri", h.opts.URI, "error", err, "cause", errors.Unwrap(err))
			wait = min(wait*2, 2*time.Second)
		}
		h.setAway(false)
		h.log.Info("the connection to libvirt is back", "uri", h.opts.URI)
		h.notify("")
	}
}

func (h *Host) setAway(away bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.away = away
}

func domainName(d *libvirt.Domain) string {
	name, err := d.GetName() // local to the object, no call to the daemon
	if err != nil {
		return ""
	}
	return name
}

// machineChanged is called from the event loop, so it makes no call to the daemon. note, when not
// nil, keeps what the event tells and the machine's state does not.
func (h *Host) machineChanged(d *libvirt.Domain, note func(*happening)) {
	uuid, err := d.GetUUIDString()
	if err != nil {
		return
	}
	id := h.opts.machineID(domainName(d), uuid)
	if id == "" {
		return
	}
	if note != nil {
		h.mu.Lock()
		past := h.happened[id]
		note(&past)
		if h.happened[id] = past; past == (happening{}) {
			delete(h.happened, id)
		}
		h.mu.Unlock()
	}
	h.notify(id)
}
