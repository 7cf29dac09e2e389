package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

// Options of a Host. The zero value is a host of the prefix "bureau" on qemu:///system.
type Options struct {
	// URI of a local QEMU driver of libvirt, qemu:///system by default.
	URI string
	// Prefix of the name of every libvirt object, "bureau" by default.
	Prefix string
	// Pool holds the volumes. By default it has the prefix's name and a folder of that name beside
	// libvirt's own images. An existing pool of that name is taken as it is.
	Pool struct{ Name, Path string }
	// LeastSpace is what stays free in the pool when an image is taken in and has to be when a machine
	// is turned on; 256 MiB by default.
	LeastSpace int64
	// Subnets of the networks, by network; each is an IPv4 prefix of 8 to 29 bits. A network
	// without one gets a free private /24.
	Subnets map[string]netip.Prefix
	// Acceleration is "kvm", "tcg" or "auto", the default: KVM where it really works.
	Acceleration string
	// AgentBinary is the executable that guests are given, by default the running one.
	AgentBinary string
	// Version of bureau, kept with each domain.
	Version string
	Log     *slog.Logger
}

// leastSpace is the default of Options.LeastSpace.
const leastSpace = 256 << 20

var validPrefix = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

func (o Options) withDefaults() (Options, error) {
	if o.URI == "" {
		o.URI = "qemu:///system"
	}
	if o.Prefix == "" {
		o.Prefix = "bureau"
	}
	if o.Pool.Name == "" {
		o.Pool.Name = o.Prefix
	}
	if o.Pool.Path == "" {
		o.Pool.Path = "/var/lib/libvirt/images/" + o.Pool.Name
	}
	if o.LeastSpace == 0 {
		o.LeastSpace = leastSpace
	}
	if o.Acceleration == "" {
		o.Acceleration = "auto"
	}
	if o.AgentBinary == "" {
		o.AgentBinary = "/proc/self/exe" // stays the running one when the file is replaced
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if !validPrefix.MatchString(o.Prefix) {
		return o, desktop.Errorf(desktop.Invalid, "the hypervisor's prefix %q is not a short name of lower-case letters, digits and hyphens", o.Prefix)
	}
	switch o.Acceleration {
	case "auto", desktop.KVM, desktop.TCG:
	default:
		return o, desktop.Errorf(desktop.Invalid, "acceleration is %q; it is auto, kvm or tcg", o.Acceleration)
	}
	for network, subnet := range o.Subnets {
		if network != desktop.NetworkNAT && network != desktop.NetworkIsolated {
			return o, desktop.Errorf(desktop.Invalid, "there is no network %q; it is nat or isolated", network)
		}
		if !subnet.Addr().Is4() || subnet.Bits() < 8 || subnet.Bits() > 29 {
			return o, desktop.Errorf(desktop.Invalid, "the subnet %s of network %s is not IPv4 with 8 to 29 bits", subnet, network)
		}
	}
	return o, nil
}

// Deadlines of the calls, over which the hypervisor is taken for unavailable.
const (
	queryTime  = 20 * time.Second
	startTime  = 2 * time.Minute
	removeTime = time.Minute
	importTime = 2 * time.Hour
)

// Host is this host's hypervisor. Each operation runs in a goroutine of its own, because a call of
// libvirt's cannot be interrupted: the caller gets its answer when its context ends, and the
// operation undoes or finishes what it was doing. A daemon that no longer answers ends them all,
// since the connection's keepalive then declares it dead.
type Host struct {
	opts Options
	log  *slog.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // operations, watchers and the keepers of the connection and the filters

	calls *lender

	mu       sync.Mutex
	closed   bool
	away     bool // the daemon is, as far as is known
	watchers map[*watcher]struct{}
	channels map[string]*channel // the open agent stream of each desktop
	happened map[string]happening

	machines keyedLock // one change of a machine at a time
	openers  keyedLock // one opening of an agent's stream at a time
	networks sync.Mutex
	filters  filters
	agents   sync.Mutex
	agent    agentDisk
	// images is held for reading while an overlay is made on an image and for writing while
	// images are removed.
	images sync.RWMutex
}

// Open connects to libvirt and makes sure that the storage pool is there and active. Networks and
// the agent's disk are made when the first machine needs them.
func Open(ctx context.Context, opts Options) (*Host, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &Host{
		opts:     opts,
		log:      opts.Log,
		calls:    newLender(opts.URI),
		watchers: map[*watcher]struct{}{},
		channels: map[string]*channel{},
		happened: map[string]happening{},
		filters:  filters{told: map[string]string{}},
	}
	if err := h.agent.read(opts.AgentBinary); err != nil {
		return nil, err
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	conn, err := h.dial(ctx)
	if err != nil {
		h.cancel()
		return nil, err
	}
	h.wg.Go(func() { h.keepConnected(conn) })
	h.wg.Go(h.keepFilters)
	return h, nil
}

// Close ends the connection, all watches and all agent streams, and waits for what is under way.
// Machines keep running.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	channels := h.channels
	h.channels = map[string]*channel{}
	h.mu.Unlock()
	h.cancel()
	for _, c := range channels {
		c.Close()
	}
	h.wg.Wait()
	h.calls.close()
	return nil
}

// begin enters an operation into the ones that Close waits for.
func (h *Host) begin() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return desktop.Errorf(desktop.Unavailable, "the hypervisor's connection is closed")
	}
	h.wg.Add(1)
	return nil
}

// borrow gives a connection to libvirt for one operation, unless the daemon is known to be away.
func (h *Host) borrow(ctx context.Context) (*connection, error) {
	h.mu.Lock()
	away := h.away
	h.mu.Unlock()
	if away {
		return nil, &desktop.Error{
			Code:       desktop.Unavailable,
			Message:    "libvirt is not reachable at " + h.opts.URI,
			RetryAfter: 2 * time.Second,
		}
	}
	return h.calls.borrow(ctx)
}

// run performs an operation on a connection of its own, which ends when ctx does or its time is
// over. The operation looks at its context between the calls it makes.
func run[T any](ctx context.Context, h *Host, limit time.Duration, what string, operation func(context.Context, *libvirt.Connect) (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, fmt.Errorf("%s: %w", what, err)
	}
	if err := h.begin(); err != nil {
		return none, err
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	done := make(chan outcome, 1)
	go func() {
		defer h.wg.Done()
		defer cancel()
		conn, err := h.borrow(limited)
		if err != nil {
			done <- outcome{err: err}
			return
		}
		value, err := operation(limited, conn.Connect)
		err = explain(conn.Connect, what, err)
		h.calls.giveBack(conn)
		done <- outcome{value, err}
	}()
	o := outcome{err: context.DeadlineExceeded}
	select {
	case o = <-done:
	case <-limited.Done():
		select {
		case o = <-done: // it was the operation's own end
		default:
		}
	}
	switch {
	case o.err == nil || !errors.Is(o.err, context.DeadlineExceeded) && !errors.Is(o.err, context.Canceled):
	case ctx.Err() != nil:
		return none, fmt.Errorf("%s: %w", what, ctx.Err())
	default:
		return none, tooSlow(what, limit)
	}
	return o.value, o.err
}

func tooSlow(what string, limit time.Duration) error {
	return desktop.Errorf(desktop.Unavailable, "%s: the hypervisor took longer than %s", what, limit)
}

// isCode tells whether err is one of libvirt's, of that number.
func isCode(err error, codes ...libvirt.ErrorNumber) bool {
	var e libvirt.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range codes {
		if e.Code == code {
			return true
		}
	}
	return false
}

// explain turns libvirt's failures into the house's.
func explain(conn *libvirt.Connect, what string, err error) error {
	var ours *desktop.Error
	var theirs libvirt.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return err
	case !errors.As(err, &theirs):
		return fmt.Errorf("%s: %w", what, err)
	}
	if alive, aliveErr := conn.IsAlive(); aliveErr != nil || !alive || theirs.Code == libvirt.ERR_RPC {
		return &desktop.Error{
			Code:       desktop.Unavailable,
			Message:    what + ": the connection to libvirt was lost",
			RetryAfter: 2 * time.Second,
			Err:        err,
		}
	}
	message := strings.ToLower(theirs.Message)
	switch {
	case theirs.Code == libvirt.ERR_OPERATION_TIMEOUT: // another call holds the machine
		return &desktop.Error{Code: desktop.Unavailable, Message: what + ": the machine is busy", RetryAfter: time.Second, Err: err}
	case strings.Contains(message, "cannot allocate memory"):
		return &desktop.Error{Code: desktop.Exhausted, Message: "the host has not enough memory", Err: fmt.Errorf("%s: %w", what, err)}
	case strings.Contains(message, "no space left on device"):
		return &desktop.Error{Code: desktop.Exhausted, Message: "the host's disk is full", Err: fmt.Errorf("%s: %w", what, err)}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// keyedLock is a lock for each key, which a context can give up waiting for.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]*keyed
}

type keyed struct {
	token   chan struct{}
	waiting int
}

// lock takes the key's lock; the returned function lets it go.
func (l *keyedLock) lock(ctx context.Context, key string) (func(), error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*keyed{}
	}
	k := l.held[key]
	if k == nil {
		k = &keyed{token: make(chan struct{}, 1)}
		l.held[key] = k
	}
	k.waiting++
	l.mu.Unlock()

	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.waiting--; k.waiting == 0 {
			delete(l.held, key)
		}
	}
	select {
	case k.token <- struct{}{}:
		return func() { <-k.token; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
