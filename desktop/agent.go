package desktop

import (
	"context"
	"io"
)

// AgentStatus is what the guest's agent says of itself. Everything in it comes from the guest: it
// is a claim, bounded in size, and decides nothing about another desktop.
type AgentStatus struct {
	Ready     bool     `json:"ready"`            // the display answers, and its session has begun
	Reason    string   `json:"reason,omitempty"` // what it waits for when not ready
	Display   Size     `json:"display"`
	Addresses []string `json:"addresses,omitempty"` // the guest's own, without loopback
	Version   string   `json:"version"`
	// Models is why programs in the guest cannot reach the models that the host lends, and what helps; ""
	// when they can.
	Models string `json:"models,omitempty"`
	// BootID is the guest kernel's random id of this boot.
	BootID string `json:"bootId"`
}

// Agent is the host's end of a session with the agent in one guest. It is safe for concurrent use;
// actions of concurrent calls are never interleaved.
type Agent interface {
	// Act does the actions in order and stops at the first error. No modifier or button stays
	// pressed beyond the call unless an action asked for that, also when ctx ends in its middle.
	// What is wrong with any action is found before the first is done. An error that an action caused
	// has Details members when there are several: its "index", and how many of them were "done".
	Act(ctx context.Context, actions ...Action) (Acted, error)
	// Exec runs a command and waits for its end. output, when not nil, receives the output as it is
	// produced, from one goroutine; Stdout and Stderr of the result are then empty. When ctx ends
	// the command's whole process group is killed.
	Exec(ctx context.Context, command Exec, output func(Stream, []byte)) (ExecResult, error)
	// Shown returns when the display shows what the X server drew upon the actions and commands that have
	// ended: it hands pictures on a moment after it answers.
	Shown(ctx context.Context) error
	// Capture is the display as the guest's X server gives it.
	Capture(ctx context.Context) (*Frame, error)
	// Cursor is the pointer's picture and place as the guest's X server gives them, nil while the
	// pointer is hidden.
	Cursor(ctx context.Context) (*Cursor, error)
	// Windows lists the managed windows, the topmost first, MaxWindows at most.
	Windows(ctx context.Context) ([]Window, error)
	// ActivateWindow gives a window the focus and brings it to the front. NotFound when there is none.
	ActivateWindow(ctx context.Context, id uint32) error
	// CloseWindow asks a window's application to close it, which may ask its user first. NotFound
	// when there is none.
	CloseWindow(ctx context.Context, id uint32) error
	// Clipboard is the text on the clipboard, "" when nothing was copied. Conflict when what was
	// copied is no text, TooLarge beyond MaxClipboardBytes, Unavailable when its application does not
	// give it.
	Clipboard(ctx context.Context) (string, error)
	// SetClipboard puts a text on the clipboard: UTF-8 of at most MaxClipboardBytes.
	SetClipboard(ctx context.Context, text string) error
	// Resize gives the display a size, sides from MinDisplaySide to MaxDisplaySide and MaxDisplayPixels
	// at most. It returns when the X server has it; Status follows. Invalid when this desktop's display
	// cannot have it.
	Resize(ctx context.Context, size Size) error
	// Status is the newest status, which Changed announces.
	Status() AgentStatus
	// Changed delivers when Status has changed since the last delivery.
	Changed() <-chan struct{}
	// Done is closed when the session has ended.
	Done() <-chan struct{}
	// Close ends the session. The agent in the guest waits for the next one.
	Close() error
}

// AgentConnector makes a session of the byte stream that leads to the agent of the named desktop. It
// shakes hands, brings an agent of another version up to the host's own, and returns once the agent
// answers; the display may not yet. The connector owns the stream from then on and closes it on
// failure.
type AgentConnector interface {
	Connect(ctx context.Context, desktopID string, stream io.ReadWriteCloser) (Agent, error)
}
