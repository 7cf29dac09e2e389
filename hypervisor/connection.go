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

// One connection carries the control calls and the events; it is replaced when the daemon dies and
// comes back. Agent streams have sockets of their own (channel.go) and imports connections of their
// own, so that no amount of data delays a lifecycle call.

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
			h.mu.Lock()
			h.conn = nil
			h.mu.Unlock()
			conn.close()
			return
		}
		h.mu.Lock()
		h.conn = nil
		h.mu.Unlock()
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
		h.mu.Lock()
		h.conn = conn
		h.mu.Unlock()
		h.log.Info("the connection to libvirt is back", "uri", h.opts.URI)
		h.notify("")
	}
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
