package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"bureau/desktop"
)

// Display is a connection to the guest's display, as the agent needs it.
type Display interface {
	// Act does the actions in order and stops at the first error. Calls do not overlap.
	Act(ctx context.Context, actions []desktop.Action) (desktop.Acted, error)
	// Release lets go of what actions have left pressed.
	Release(ctx context.Context) error
	// Capture takes the display's pixels and its cursor.
	Capture(ctx context.Context) (*desktop.Frame, error)
	// Cursor is the pointer's picture and place, nil while it is hidden.
	Cursor(ctx context.Context) (*desktop.Cursor, error)
	// Windows lists the managed windows, the topmost first.
	Windows(ctx context.Context) ([]desktop.Window, error)
	// ActivateWindow gives a window the focus. NotFound when there is none.
	ActivateWindow(ctx context.Context, id uint32) error
	// CloseWindow asks a window's application to close it. NotFound when there is none.
	CloseWindow(ctx context.Context, id uint32) error
	// Clipboard is the text on the clipboard, "" when nothing was copied.
	Clipboard(ctx context.Context) (string, error)
	// SetClipboard puts a text on the clipboard.
	SetClipboard(ctx context.Context, text string) error
	// Resize gives the display a size.
	Resize(ctx context.Context, size desktop.Size) error
	// Shown returns when what the server has drawn for anybody, and told them so, has been handed to
	// the display.
	Shown(ctx context.Context) error
	// Size is the display's size now.
	Size() desktop.Size
	// Managed tells whether a window manager runs on it.
	Managed() bool
	// Changed delivers when Size may have changed.
	Changed() <-chan struct{}
	// Done is closed when the connection has ended.
	Done() <-chan struct{}
	Close() error
}

// OpenDisplay connects to the display. An error says what is not there yet.
type OpenDisplay func(ctx context.Context) (Display, error)

const (
	shownWait      = time.Second           // for a server that others keep busy
	shownPause     = 2 * time.Second       // before such a server gets as long again, unless it answers
	shownGlance    = 20 * time.Millisecond // what it gets meanwhile
	displayWait    = 15 * time.Second      // for one attempt to connect
	managerWait    = 4 * time.Minute       // for a session's window manager; a display may be meant to have none
	managerPause   = 100 * time.Millisecond
	addressesFirst = time.Second // between two looks while there is no address
	addressesEvery = 10 * time.Second
)

// screen keeps a connection to the display, and with it what the agent tells of itself.
type screen struct {
	open OpenDisplay
	log  *slog.Logger

	mu      sync.Mutex
	current Display   // nil when there is none
	busy    time.Time // until when the server gets but a glance to say what it has shown
	status  desktop.AgentStatus
	changed chan struct{} // closed, and replaced, with each change of status
}

func newScreen(open OpenDisplay, version string, log *slog.Logger) *screen {
	if open == nil {
		open = func(context.Context) (Display, error) { return nil, errors.New("this agent has no display") }
	}
	return &screen{
		open: open, log: log, changed: make(chan struct{}),
		status: desktop.AgentStatus{
			Reason: "the display has not answered yet", Version: version,
			BootID: bootID(), Addresses: addresses(),
		},
	}
}

// run keeps the display connected, and the status true, until ctx ends.
func (s *screen) run(ctx context.Context) {
	var working sync.WaitGroup
	defer working.Wait()
	working.Go(func() { s.watchAddresses(ctx) })
	const shortest, longest = 100 * time.Millisecond, 2 * time.Second
	pause := shortest
	for {
		attempt, cancel := context.WithTimeout(ctx, displayWait)
		display, err := s.open(attempt)
		cancel()
		if err == nil {
			pause = shortest
			s.hold(ctx, display)
		} else {
			s.update(nil, func(status *desktop.AgentStatus) {
				status.Ready, status.Reason = false, cleanLine("the display does not answer: "+err.Error(), maxMessage)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
			pause = min(pause*3/2, longest)
		}
	}
}

// hold offers a display until it ends.
func (s *screen) hold(ctx context.Context, display Display) {
	defer display.Close()
	if !s.awaitManager(ctx, display) {
		return
	}
	ready := func(status *desktop.AgentStatus) {
		status.Ready, status.Reason, status.Display = true, "", display.Size()
	}
	s.update(display, ready)
	s.log.Info("the display answers", "size", display.Size())
	defer s.update(nil, func(status *desktop.AgentStatus) {
		status.Ready, status.Reason = false, "the display has gone"
	})
	for {
		select {
		case <-display.Changed():
			s.update(display, ready)
		case <-display.Done():
			s.log.Warn("the display has gone")
			return
		case <-ctx.Done():
			return
		}
	}
}

// awaitManager waits for the desktop's session: a display answers long before somebody is logged in
// on it, and until then it is black and programs have no place to appear. It is false when the
// display or ctx has ended.
func (s *screen) awaitManager(ctx context.Context, display Display) bool {
	if display.Managed() {
		return true
	}
	s.update(nil, func(status *desktop.AgentStatus) {
		status.Ready, status.Reason = false, "the display answers; its session has not begun"
	})
	end := time.NewTimer(managerWait)
	defer end.Stop()
	tick := time.NewTicker(managerPause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if display.Managed() {
				return true
			}
		case <-end.C:
			s.log.Warn("no window manager has come; the display is used without one")
			return true
		case <-display.Done():
			return false
		case <-ctx.Done():
			return false
		}
	}
}

func (s *screen) update(current Display, change func(*desktop.AgentStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = current
	s.changeLocked(change)
}

func (s *screen) changeLocked(change func(*desktop.AgentStatus)) {
	was := s.status
	change(&s.status)
	now := s.status
	if was.Ready == now.Ready && was.Reason == now.Reason && was.Display == now.Display &&
		was.Models == now.Models && slices.Equal(was.Addresses, now.Addresses) {
		return
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// now is the status, and a channel that is closed when there is a newer one.
func (s *screen) now() (desktop.AgentStatus, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status, s.changed
}

// models tells why the host's models are not served, "" while they are.
func (s *screen) models(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changeLocked(func(status *desktop.AgentStatus) { status.Models = cleanLine(why, maxMessage) })
}

// display is the connected display, Unavailable when there is none.
func (s *screen) display() (Display, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil, desktop.Errorf(desktop.Unavailable, "the desktop's display is not ready: %s", s.status.Reason)
	}
	return s.current, nil
}

// shown returns when the display shows what the server drew before: the host may ask for a picture as
// soon as it hears of what was done. A server that does not answer, because a
// client has grabbed it, delays that by little.
func (s *screen) shown(ctx context.Context) {
	s.mu.Lock()
	display, wait := s.current, shownWait
	if time.Now().Before(s.busy) {
		wait = shownGlance
	}
	s.mu.Unlock()
	if display == nil {
		return
	}
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := display.Shown(limited)
	if ctx.Err() != nil {
		return
	}
	if err != nil && wait == shownWait {
		s.log.Warn("the X server does not say that it has shown what it drew; a picture may be older than what was done", "waited", wait)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.busy = time.Time{}
	case wait == shownWait:
		s.busy = time.Now().Add(shownPause)
	}
}

func (s *screen) watchAddresses(ctx context.Context) {
	pause := addressesFirst
	for {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		found := addresses()
		if pause = addressesFirst; len(found) > 0 {
			pause = addressesEvery
		}
		s.mu.Lock()
		s.changeLocked(func(status *desktop.AgentStatus) { status.Addresses = found })
		s.mu.Unlock()
	}
}

// addresses are this machine's own, without loopback and link-local ones.
func addresses() []string {
	var found []string
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			found = append(found, n.IP.String())
		}
	}
	slices.Sort(found)
	return found[:min(len(found), maxAddress)]
}

func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
