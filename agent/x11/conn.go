package x11

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/randr"
	"github.com/jezek/xgb/res"
	"github.com/jezek/xgb/xfixes"
	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// Display is a connection to an X server. It is safe for concurrent use.
type Display struct {
	log   *slog.Logger
	net   *wire
	x     *xgb.Conn
	setup *xproto.SetupInfo
	root  xproto.Window
	depth byte
	xkb   xkb
	// processes tells whether the server knows which process a window belongs to.
	processes bool
	// randr tells whether the display's size can be set.
	randr bool
	atoms atoms
	ewmh  ewmh
	clip  clipboard

	// turn holds the one token of the right to work the input.
	turn chan struct{}
	// hands is what is pressed and how to press; only the holder of the turn touches it.
	hands hands
	// preparing ends what the holder of the turn does for the next one.
	preparing atomic.Pointer[context.CancelFunc]
	// waiting is how many calls wait for the turn.
	waiting atomic.Int32
	// remapped tells that the buttons mean something else since they were asked for.
	remapped atomic.Bool

	size    atomic.Pointer[desktop.Size]
	changed chan struct{}
	done    chan struct{}   // closed by the reader of events when the server is gone
	life    context.Context // ended by Close
	end     context.CancelFunc
	once    sync.Once
	work    sync.WaitGroup

	pongs   pongs
	manager manager
	picture picture
}

type atoms struct {
	protocols, ping, takeFocus, journal xproto.Atom
}

// dialTimeout bounds the connection and its handshake: a server that is starting or stuck accepts
// a connection and stays mute.
const dialTimeout = 10 * time.Second

// xgb logs to a global logger of its own; everything worth knowing reaches us as an error too.
var silence = sync.OnceFunc(func() { xgb.Logger = log.New(io.Discard, "", 0) })

// Open connects to the X server of a display such as ":0" with the cookie in an xauthority file,
// or without one when the name is empty. It releases every key and button that a former agent
// left pressed and gives back the keys it had borrowed.
func Open(ctx context.Context, display, xauthority string, log *slog.Logger) (*Display, error) {
	silence()
	conn, err := dial(ctx, display, xauthority)
	if err != nil {
		return nil, err
	}
	d := &Display{
		log:     log.With("display", display),
		net:     conn,
		turn:    make(chan struct{}, 1),
		changed: make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	d.life, d.end = context.WithCancel(context.Background())
	// The set-up below is round trips without deadlines of their own: when ctx ends, the connection
	// does.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(dialTimeout))
	err = d.start()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		if d.x != nil {
			d.Close()
		}
		return nil, fmt.Errorf("connecting to the X server %s: %w", display, err)
	}
	return d, nil
}

func (d *Display) start() error {
	var err error
	if d.x, err = xgb.NewConnNet(d.net); err != nil {
		return err
	}
	d.work.Go(d.readEvents)
	d.setup = xproto.Setup(d.x)
	screen := d.setup.DefaultScreen(d.x)
	d.root, d.depth = screen.Root, screen.RootDepth
	d.size.Store(&desktop.Size{Width: int(screen.WidthInPixels), Height: int(screen.HeightInPixels)})

	if err := d.extension("XTEST"); err != nil {
		return fmt.Errorf("input needs XTEST: %w", err)
	}
	d.net.batch(d.x.Extensions["XTEST"])
	if err := d.extension("XFIXES"); err == nil {
		_, err := xfixes.QueryVersion(d.x, 4, 0).Reply()
		d.picture.cursor = err == nil
	}
	if err := d.extension("X-Resource"); err == nil {
		version, err := res.QueryVersion(d.x, 1, 2).Reply()
		d.processes = err == nil && (version.ServerMajor > 1 || version.ServerMinor >= 2)
	}
	if err := d.extension("RANDR"); err == nil {
		version, err := randr.QueryVersion(d.x, 1, 3).Reply()
		d.randr = err == nil && (version.MajorVersion > 1 || version.MinorVersion >= 3)
	}
	if err = d.extension(xkbName); err == nil {
		d.xkb, err = newXKB(d.x, d.x.Extensions[xkbName])
	}
	if err != nil {
		d.log.Warn("the X server has no XKB: Caps Lock and layout groups are left as they are", "error", err)
	}
	// Here and not when they are needed: xgb's requests take the read lock of what this writes twice
	// over, and a writer that came between the two would stop both.
	d.picture.noShare = d.extension("MIT-SHM") != nil
	err = d.intern([]interned{
		{&d.atoms.protocols, "WM_PROTOCOLS"}, {&d.atoms.ping, "_NET_WM_PING"},
		{&d.atoms.takeFocus, "WM_TAKE_FOCUS"}, {&d.atoms.journal, "_BUREAU_BORROWED_KEYS"},
	})
	if err != nil {
		return err
	}
	if err := d.internEWMH(); err != nil {
		return err
	}
	if err := d.openClipboard(); err != nil {
		return err
	}
	if err := d.openManager(); err != nil {
		return err
	}
	// StructureNotify tells when the display is resized; SubstructureNotify brings the answers to
	// pings, which applications send to the root window, and those of the window manager.
	err = xproto.ChangeWindowAttributesChecked(d.x, d.root, xproto.CwEventMask,
		[]uint32{xproto.EventMaskStructureNotify | xproto.EventMaskSubstructureNotify}).Check()
	if err != nil {
		return err
	}
	if _, err := d.measure(); err != nil {
		return err
	}
	d.hands = hands{x: d.x, root: d.root}
	return d.recover()
}

// interned is an atom to be found by its name.
type interned struct {
	atom *xproto.Atom
	name string
}

// intern finds atoms, in one round trip.
func (d *Display) intern(atoms []interned) error {
	cookies := make([]xproto.InternAtomCookie, len(atoms))
	for i, a := range atoms {
		cookies[i] = xproto.InternAtom(d.x, false, uint16(len(a.name)), a.name)
	}
	for i, a := range atoms {
		reply, err := cookies[i].Reply()
		if err != nil {
			return err
		}
		*a.atom = reply.Atom
	}
	return nil
}

// extension makes an extension's requests usable. The Init functions of xgb's packages would do so
// too, but they write to maps that the readers of all connections share, without a lock. What they
// register besides, constructors of the extension's own events and errors, is not needed: no such
// event is asked for, and the requests made here have no errors but those of the core protocol.
func (d *Display) extension(name string) error {
	found, err := xproto.QueryExtension(d.x, uint16(len(name)), name).Reply()
	if err != nil {
		return err
	}
	if !found.Present {
		return fmt.Errorf("the X server has no extension %s", name)
	}
	d.x.ExtLock.Lock()
	defer d.x.ExtLock.Unlock()
	d.x.Extensions[name] = found.MajorOpcode
	return nil
}

// recover undoes what an agent that died in the middle of something has left behind.
func (d *Display) recover() error {
	keys, err := xproto.QueryKeymap(d.x).Reply()
	if err != nil {
		return err
	}
	for code := range 256 {
		if keys.Keys[code/8]&(1<<(code%8)) != 0 {
			d.log.Info("releasing a key found pressed", "keycode", code)
			d.hands.fake(xproto.KeyRelease, byte(code))
		}
	}
	pointer, err := xproto.QueryPointer(d.x, d.root).Reply()
	if err != nil {
		return err
	}
	if pointer.Mask&(xproto.ButtonMask1|xproto.ButtonMask2|xproto.ButtonMask3|xproto.ButtonMask4|xproto.ButtonMask5) != 0 {
		d.log.Info("releasing buttons found pressed", "mask", pointer.Mask)
		for button := range byte(5) {
			d.hands.fake(xproto.ButtonRelease, button+1)
		}
	}
	// The core protocol does not tell of the buttons beyond the fifth; releasing one that is up is
	// ignored by the server.
	d.hands.fake(xproto.ButtonRelease, buttonBack)
	d.hands.fake(xproto.ButtonRelease, buttonForward)
	if err := d.repeatAgain(); err != nil {
		return err
	}
	return d.giveBackJournal()
}

// readEvents is the only reader of events. It never waits for anything else, because a full queue
// of events would stop replies as well.
func (d *Display) readEvents() {
	defer close(d.done)
	for {
		event, xerr := d.x.WaitForEvent()
		switch e := event.(type) {
		case nil:
			if xerr == nil {
				return
			}
			d.log.Debug("X error", "error", xerr)
		case xproto.ConfigureNotifyEvent:
			switch e.Window {
			case d.root:
				d.setSize(desktop.Size{Width: int(e.Width), Height: int(e.Height)})
			case d.manager.window:
				d.manager.placed(e.X)
			}
		case xproto.MappingNotifyEvent:
			if e.Request == xproto.MappingPointer {
				d.remapped.Store(true)
			}
		case xproto.SelectionRequestEvent, xproto.SelectionNotifyEvent, xproto.PropertyNotifyEvent:
			d.clip.event(e)
		case xproto.ClientMessageEvent:
			if e.Type == d.atoms.protocols && e.Format == 32 && xproto.Atom(e.Data.Data32[0]) == d.atoms.ping {
				d.pongs.arrived(e.Data.Data32[1])
			}
		}
	}
}

// measure asks the server for the display's size; the event that tells of a change may still be
// on its way.
func (d *Display) measure() (desktop.Size, error) {
	return d.sized(xproto.GetGeometry(d.x, xproto.Drawable(d.root)))
}

// sized waits for the answer to the question for the size.
func (d *Display) sized(asked xproto.GetGeometryCookie) (desktop.Size, error) {
	geometry, err := asked.Reply()
	if err != nil {
		return desktop.Size{}, d.gone(err)
	}
	size := desktop.Size{Width: int(geometry.Width), Height: int(geometry.Height)}
	d.setSize(size)
	return size, nil
}

func (d *Display) setSize(size desktop.Size) {
	if old := d.size.Swap(&size); *old == size {
		return
	}
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// Size is the display's size in pixels.
func (d *Display) Size() desktop.Size { return *d.size.Load() }

// Changed delivers when the size has changed since the last delivery.
func (d *Display) Changed() <-chan struct{} { return d.changed }

// Done is closed when the X server is gone, or after Close.
func (d *Display) Done() <-chan struct{} { return d.done }

// Close cancels an action under way, gives it a moment to let go of what it holds, and disconnects.
// It may be called more than once.
func (d *Display) Close() error {
	d.once.Do(func() {
		d.end()
		ours := false
		select {
		case d.turn <- struct{}{}: // never given back: no action starts any more
			ours = true
		case <-d.done:
		case <-time.After(cleanupTime):
			d.log.Warn("the X server does not answer; leaving what is pressed")
		}
		if ours {
			d.net.SetDeadline(time.Now().Add(cleanupTime))
			d.letGo()
		}
		d.net.Close()
		if !ours {
			d.turn <- struct{}{} // without the connection the action ends at once
		}
		d.work.Wait()
		d.picture.release()
	})
	return nil
}

// Release lets go of the keys and buttons that actions have left pressed. It waits for an action
// under way.
func (d *Display) Release(ctx context.Context) error {
	if err := d.takeTurn(ctx); err != nil {
		return err
	}
	released := make(chan struct{})
	go func() { // ends before the turn does, which Close waits for
		defer func() { <-d.turn }()
		defer close(released)
		d.letGo()
	}()
	select {
	case <-released:
		return nil
	case <-ctx.Done():
		return d.ended(ctx)
	}
}

// letGo lets go of everything and returns when the server has done so. The turn must be held.
func (d *Display) letGo() {
	if d.hands.x == nil || len(d.hands.staying) == 0 && len(d.hands.stayingButtons) == 0 {
		return
	}
	d.hands.letGo()
	xproto.GetInputFocus(d.x).Reply() // only its being answered matters
}

// gone makes the error of a request that got no answer.
func (d *Display) gone(err error) error {
	if errors.Is(err, io.EOF) {
		return desktop.Errorf(desktop.Unavailable, "the X server is gone: %w", err)
	}
	return err
}

// dial connects to the server's socket.
func dial(ctx context.Context, display, xauthority string) (*wire, error) {
	host, number, ok := strings.Cut(display, ":")
	number, _, _ = strings.Cut(number, ".")
	if n, err := strconv.Atoi(number); !ok || err != nil || n < 0 {
		return nil, fmt.Errorf("%q is not the name of a display, such as :0", display)
	}
	var cookie []byte
	if xauthority != "" {
		var err error
		if cookie, err = readCookie(xauthority, number); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	network, address := "unix", "/tmp/.X11-unix/X"+number
	if host != "" && host != "unix" {
		n, _ := strconv.Atoi(number)
		network, address = "tcp", net.JoinHostPort(host, strconv.Itoa(6000+n))
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("connecting to the X server %s: %w", display, err)
	}
	return newWire(conn, cookie), nil
}

// readCookie finds the cookie of a display in an xauthority file. The host's name in an entry is
// not looked at: it is the one that the guest had when the session began.
func readCookie(path, number string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the X server's cookie: %w", err)
	}
	field := func() ([]byte, bool) {
		if len(data) < 2 {
			return nil, false
		}
		n := int(binary.BigEndian.Uint16(data))
		if len(data) < 2+n {
			return nil, false
		}
		value := data[2 : 2+n]
		data = data[2+n:]
		return value, true
	}
	for len(data) >= 2 {
		data = data[2:] // the address family
		var entry [4][]byte
		for i := range entry {
			var ok bool
			if entry[i], ok = field(); !ok {
				return nil, fmt.Errorf("reading the X server's cookie: %s is cut short", path)
			}
		}
		of, name, cookie := string(entry[1]), string(entry[2]), entry[3]
		if (of == "" || of == number) && name == "MIT-MAGIC-COOKIE-1" && len(cookie) == 16 {
			return cookie, nil
		}
	}
	return nil, fmt.Errorf("reading the X server's cookie: %s has none for display :%s", path, number)
}
