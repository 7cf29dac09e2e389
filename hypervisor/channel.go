package hypervisor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"bureau/desktop"
)

// The byte stream to a guest's agent is libvirt's virDomainOpenChannel, spoken in libvirt's own
// remote protocol over a socket of its own instead of through the C library. The protocol is small
// and never changes (old clients work with every later daemon). The library would not do:
//
//   - its streams buffer without limit what the reader has not taken yet, and the sender of it is a
//     guest that we do not trust;
//   - a write that waits for the guest blocks its whole connection and cannot be interrupted, not
//     even by aborting the stream, and holds a thread.
//
// Here the socket itself gives back-pressure in both directions: libvirtd stops reading from a
// guest whose bytes we do not take, and stops reading from us while the guest does not take ours.
// No thread belongs to a stream, and one stream cannot delay another.
//
// Close wakes every reader and writer at once. The stream itself is ended in order, in the
// background. A daemon that has five packets waiting for the guest does not read, not even that we
// leave, and holds the channel until the guest takes something or goes off; a guest like that could
// answer no new stream either. The channel is never taken by force (VIR_DOMAIN_CHANNEL_FORCE):
// libvirtd, 9.0 at least, corrupts its memory when it takes a stream from a client, and dies.

// Numbers of libvirt's remote protocol.
const (
	remoteProgram = 0x20008086
	remoteVersion = 1

	procConnectOpen = 1
	procAuthList    = 66
	procAuthPolkit  = 70
	procOpenChannel = 296

	typeCall   = 0
	typeReply  = 1
	typeStream = 3

	statusOK       = 0
	statusError    = 1
	statusContinue = 2

	authNone   = 0
	authPolkit = 2

	packetHeader  = 28
	packetMaximum = 32 << 20 // of the protocol
	replyMaximum  = 64 << 10 // of the few replies that we ask for
	streamPayload = 262120   // the largest that every daemon takes
)

// openTime is how long opening an agent's stream may take.
const openTime = 15 * time.Second

// OpenAgent implements desktop.Machines. The stream has the deadline methods of a net.Conn.
func (h *Host) OpenAgent(ctx context.Context, id string) (io.ReadWriteCloser, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if err := h.begin(); err != nil {
		return nil, err
	}
	defer h.wg.Done()
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	stop := context.AfterFunc(h.ctx, cancel)
	defer stop()

	// One opener at a time, and the former stream is closed first: libvirt would not tell it that
	// another has taken the channel.
	unlock, err := h.openers.lock(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("open the agent's channel: %w", err)
	}
	defer unlock()
	c, err := dialRemote(ctx, h.opts.URI)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	former := h.channels[id]
	h.mu.Unlock()
	if former != nil {
		former.Close()
	}
	if err := c.openChannel(ctx, h.opts.domainName(id), machineUUID(id), AgentPort); err != nil {
		c.Close()
		return nil, err
	}
	c.release = func() {
		h.mu.Lock()
		if h.channels[id] == c {
			delete(h.channels, id)
		}
		h.mu.Unlock()
		if h.begin() != nil {
			c.conn.Close()
			return
		}
		go func() {
			defer h.wg.Done()
			c.leave(h.ctx)
		}()
	}
	h.mu.Lock()
	closed := h.closed
	h.channels[id] = c
	h.mu.Unlock()
	if closed {
		c.Close()
		return nil, desktop.Errorf(desktop.Unavailable, "the hypervisor's connection is closed")
	}
	return c, nil
}

// channel is a connection of the remote protocol that carries one stream.
type channel struct {
	conn    net.Conn
	serial  uint32
	proc    uint32
	release func() // lets the connection go, after Close

	closeMu sync.Mutex
	closed  bool

	readMu sync.Mutex
	header [packetHeader]byte
	have   int   // bytes of header that have been read
	left   int   // payload of the current packet that has not
	end    error // what every further Read returns

	writeMu sync.Mutex
	packet  []byte
	rest    []byte // of a packet that was sent in part only
	broken  error
}

// remoteSockets are the sockets at which the QEMU driver of a URI may listen, best first: that of
// the driver's own daemon, then that of the one for all drivers.
func remoteSockets(uri string) ([]string, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, desktop.Errorf(desktop.Invalid, "libvirt's URI %q: %w", uri, err)
	}
	if (u.Scheme != "qemu" && u.Scheme != "qemu+unix") || u.Host != "" {
		return nil, desktop.Errorf(desktop.Invalid, "libvirt's URI %q is not one of this host's QEMU driver, such as qemu:///system", uri)
	}
	if socket := u.Query().Get("socket"); socket != "" {
		return []string{socket}, nil
	}
	folder := "/run/libvirt/"
	if u.Path == "/session" {
		if runtime := os.Getenv("XDG_RUNTIME_DIR"); runtime != "" {
			folder = runtime + "/libvirt/"
		} else {
			cache, err := os.UserCacheDir()
			if err != nil {
				return nil, fmt.Errorf("find libvirt's session socket: %w", err)
			}
			folder = cache + "/libvirt/"
		}
	}
	return []string{folder + "virtqemud-sock", folder + "libvirt-sock"}, nil
}

// dialRemote connects, authenticates and opens the driver.
func dialRemote(ctx context.Context, uri string) (*channel, error) {
	sockets, err := remoteSockets(uri)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	var failures []error
	for _, socket := range sockets {
		conn, err = new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			break
		}
		failures = append(failures, err)
	}
	if err != nil {
		return nil, unreachable(uri, errors.Join(failures...))
	}
	c := &channel{conn: conn, release: func() { conn.Close() }}
	if err := c.bounded(ctx, func() error { return c.login(uri) }); err != nil {
		c.Close()
		return nil, unreachable(uri, err)
	}
	return c, nil
}

func unreachable(uri string, err error) error {
	return &desktop.Error{
		Code:       desktop.Unavailable,
		Message:    "libvirt is not reachable at " + uri,
		RetryAfter: 2 * time.Second,
		Err:        err,
	}
}

// bounded performs calls that end when ctx does.
func (c *channel) bounded(ctx context.Context, calls func() error) error {
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	err := calls()
	if !stop() && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (c *channel) login(uri string) error {
	reply, err := c.call(procAuthList, nil)
	if err != nil {
		return fmt.Errorf("ask how to authenticate: %w", err)
	}
	list := xdr{data: reply}
	count := list.uint32()
	allowed := map[uint32]bool{}
	for range min(count, 20) {
		allowed[list.uint32()] = true
	}
	if list.failed {
		return errors.New("malformed list of authentications")
	}
	switch {
	case allowed[authNone] || count == 0:
	case allowed[authPolkit]:
		if _, err := c.call(procAuthPolkit, nil); err != nil {
			return fmt.Errorf("authenticate: %w", err)
		}
	default:
		return errors.New("the daemon asks for a password")
	}
	name, _, _ := strings.Cut(uri, "?")
	var args xdr
	args.putOptional(strings.Replace(name, "qemu+unix:", "qemu:", 1))
	args.putUint32(0) // flags
	if _, err := c.call(procConnectOpen, args.data); err != nil {
		return fmt.Errorf("open the driver: %w", err)
	}
	return nil
}

// heldTime is how long opening waits for a channel that is held.
const heldTime = 5 * time.Second

// openChannel opens the stream. The channel may still be held, mostly for a moment and by the
// stream that was closed just now.
func (c *channel) openChannel(ctx context.Context, domain string, uuid [16]byte, port string) error {
	var args xdr
	args.putString(domain)
	args.data = append(args.data, uuid[:]...)
	args.putUint32(0xffffffff) // the domain's number: not known
	args.putOptional(port)
	args.putUint32(0) // flags
	var refused *remoteError
	err := c.bounded(ctx, func() error {
		began, wait := time.Now(), time.Millisecond
		for {
			_, err := c.call(procOpenChannel, args.data)
			if !errors.As(err, &refused) || refused.code != errOperationFailed || time.Since(began) > heldTime {
				return err
			}
			select {
			case <-time.After(wait):
				wait = min(wait*2, 100*time.Millisecond)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	unavailable := func(message string) error {
		return &desktop.Error{Code: desktop.Unavailable, Message: message, RetryAfter: time.Second, Err: err}
	}
	switch {
	case err == nil:
		c.proc = procOpenChannel
		return nil
	case !errors.As(err, &refused):
		return unavailable("libvirt does not open the agent's channel")
	case refused.code == errNoDomain:
		return desktop.Errorf(desktop.NotFound, "there is no machine %s", domain)
	case refused.code == errOperationFailed:
		return unavailable("the agent's channel is held: the guest does not take what was sent to it, or another program has it")
	case refused.code == errOperationInvalid: // off, or going off
		return unavailable("the machine is not running")
	default:
		return unavailable("libvirt does not open the agent's channel: " + refused.message)
	}
}

// Numbers of libvirt's errors.
const (
	errOperationFailed  = 9  // the channel is held
	errSystem           = 38 // a system call of the daemon's failed
	errNoDomain         = 42
	errOperationInvalid = 55 // the machine is off
)

// remoteError is a refusal of the daemon's.
type remoteError struct {
	code    uint32
	message string
}

func (e *remoteError) Error() string { return e.message }

func parseRemoteError(payload []byte) *remoteError {
	body := xdr{data: payload}
	e := &remoteError{code: body.uint32()}
	body.uint32() // where in libvirt
	e.message = body.optional()
	if body.failed || e.message == "" {
		e.message = fmt.Sprintf("libvirt's error %d", e.code)
	}
	return e
}

// call makes one call and waits for its reply. It is used before the stream is open only.
func (c *channel) call(proc uint32, args []byte) ([]byte, error) {
	c.serial++
	packet := appendHeader(nil, len(args), proc, typeCall, c.serial, statusOK)
	if _, err := c.conn.Write(append(packet, args...)); err != nil {
		return nil, err
	}
	for {
		var header [packetHeader]byte
		if _, err := io.ReadFull(c.conn, header[:]); err != nil {
			return nil, err
		}
		h, err := parseHeader(header[:])
		if err != nil {
			return nil, err
		}
		if h.payload > replyMaximum {
			return nil, fmt.Errorf("a reply of %d bytes", h.payload)
		}
		payload := make([]byte, h.payload)
		if _, err := io.ReadFull(c.conn, payload); err != nil {
			return nil, err
		}
		switch {
		case h.program != remoteProgram || h.kind != typeReply || h.serial != c.serial:
			// none of ours
		case h.status == statusError:
			return nil, parseRemoteError(payload)
		default:
			return payload, nil
		}
	}
}

func (c *channel) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	if len(p) == 0 {
		return 0, c.end
	}
	for c.left == 0 {
		if c.end != nil {
			return 0, c.end
		}
		if err := c.nextPacket(); err != nil {
			return 0, err
		}
	}
	n, err := c.conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, c.lost(err)
}

// nextPacket reads up to the payload of the next data packet. A deadline may interrupt it; what has
// been read by then is kept.
func (c *channel) nextPacket() error {
	for c.have < packetHeader {
		n, err := c.conn.Read(c.header[c.have:])
		c.have += n
		if err != nil {
			return c.lost(err)
		}
	}
	c.have = 0
	h, err := parseHeader(c.header[:])
	switch {
	case err != nil:
		c.end = err
	case h.program != remoteProgram || h.kind != typeStream || h.proc != c.proc || h.serial != c.serial:
		c.end = fmt.Errorf("unexpected message of kind %d from libvirt", h.kind)
	case h.status == statusContinue && h.payload > 0:
		c.left = h.payload
		return nil
	case h.status == statusError && h.payload <= replyMaximum:
		payload := make([]byte, h.payload)
		if _, err := io.ReadFull(c.conn, payload); err != nil {
			return c.lost(err)
		}
		refused := parseRemoteError(payload)
		if refused.code == errSystem { // of reading from the machine, which has gone off
			c.end = io.EOF
			break
		}
		c.end = refused
	default: // the machine has gone off, or the channel away
		c.end = io.EOF
	}
	return c.end
}

// lost makes the daemon's death an end of the stream.
func (c *channel) lost(err error) error {
	switch {
	case err == nil:
		return nil
	case c.isClosed():
		return net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err
	}
	c.end = io.EOF
	return c.end
}

func (c *channel) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	written := 0
	for len(p) > 0 {
		if c.isClosed() {
			return written, net.ErrClosed
		}
		if c.broken != nil {
			return written, c.broken
		}
		size := min(len(p), streamPayload)
		c.packet = appendHeader(c.packet[:0], size, c.proc, typeStream, c.serial, statusContinue)
		c.packet = append(c.packet, p[:size]...)
		n, err := c.conn.Write(c.packet)
		if err != nil {
			if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				c.broken, c.rest = err, c.packet[n:]
			}
			if c.isClosed() {
				err = net.ErrClosed
			}
			return written + max(0, n-packetHeader), err
		}
		written += size
		p = p[size:]
	}
	return written, nil
}

func (c *channel) isClosed() bool {
	c.closeMu.Lock()
	defer c.closeMu.Unlock()
	return c.closed
}

// Close ends the stream at once, whoever reads or writes.
func (c *channel) Close() error {
	c.closeMu.Lock()
	if c.closed {
		c.closeMu.Unlock()
		return nil
	}
	c.closed = true
	c.conn.SetDeadline(time.Unix(1, 0))
	c.closeMu.Unlock()
	c.release()
	return nil
}

// leave asks the daemon to end the stream and lets the connection go when it has, or when ctx ends.
// What still comes from the guest is thrown away.
func (c *channel) leave(ctx context.Context) {
	defer c.conn.Close()
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	c.writeMu.Lock() // the last writer and reader are on their way out
	defer c.writeMu.Unlock()
	c.readMu.Lock()
	defer c.readMu.Unlock()
	c.conn.SetDeadline(time.Time{})

	asked := make(chan struct{})
	defer func() {
		c.conn.Close()
		<-asked
	}()
	go func() {
		defer close(asked)
		c.conn.Write(appendHeader(c.rest, 0, c.proc, typeStream, c.serial, statusError))
	}()
	for c.end == nil {
		n, err := io.CopyN(io.Discard, c.conn, int64(c.left))
		c.left -= int(n)
		if err != nil || c.nextPacket() != nil {
			return
		}
	}
}

func (c *channel) SetDeadline(t time.Time) error     { return c.setDeadline(c.conn.SetDeadline, t) }
func (c *channel) SetReadDeadline(t time.Time) error { return c.setDeadline(c.conn.SetReadDeadline, t) }
func (c *channel) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(c.conn.SetWriteDeadline, t)
}

func (c *channel) setDeadline(set func(time.Time) error, t time.Time) error {
	c.closeMu.Lock()
	defer c.closeMu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return set(t)
}

type packetHead struct {
	payload                             int
	program, proc, kind, serial, status uint32
}

func parseHeader(b []byte) (packetHead, error) {
	length := binary.BigEndian.Uint32(b)
	if length < packetHeader || length > packetMaximum {
		return packetHead{}, fmt.Errorf("a message of %d bytes from libvirt", length)
	}
	return packetHead{
		payload: int(length) - packetHeader,
		program: binary.BigEndian.Uint32(b[4:]),
		proc:    binary.BigEndian.Uint32(b[12:]),
		kind:    binary.BigEndian.Uint32(b[16:]),
		serial:  binary.BigEndian.Uint32(b[20:]),
		status:  binary.BigEndian.Uint32(b[24:]),
	}, nil
}

func appendHeader(b []byte, payload int, proc, kind, serial, status uint32) []byte {
	for _, field := range []uint32{uint32(packetHeader + payload), remoteProgram, remoteVersion, proc, kind, serial, status} {
		b = binary.BigEndian.AppendUint32(b, field)
	}
	return b
}

// xdr is the encoding of the remote protocol's arguments. Reading beyond the end sets failed.
type xdr struct {
	data   []byte
	failed bool
}

func (x *xdr) putUint32(v uint32) { x.data = binary.BigEndian.AppendUint32(x.data, v) }

func (x *xdr) putString(s string) {
	x.putUint32(uint32(len(s)))
	x.data = append(x.data, s...)
	for len(x.data)%4 != 0 {
		x.data = append(x.data, 0)
	}
}

func (x *xdr) putOptional(s string) {
	x.putUint32(1)
	x.putString(s)
}

func (x *xdr) uint32() uint32 {
	if len(x.data) < 4 {
		x.failed = true
		return 0
	}
	v := binary.BigEndian.Uint32(x.data)
	x.data = x.data[4:]
	return v
}

func (x *xdr) optional() string {
	if x.uint32() == 0 {
		return ""
	}
	n := int(x.uint32())
	padded := (n + 3) &^ 3
	if x.failed || n < 0 || padded > len(x.data) {
		x.failed = true
		return ""
	}
	s := string(x.data[:n])
	x.data = x.data[padded:]
	return s
}
