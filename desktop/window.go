package desktop

// Limits of what is asked of a desktop's windows, clipboard and display.
const (
	MaxWindows        = 1_000
	MaxClipboardBytes = 1 << 20
	MinDisplaySide    = 200
	MaxDisplaySide    = 8192
	// MaxDisplayPixels are of one display. The host holds it twice while somebody looks, four bytes a
	// pixel, which is most of what a desktop can cost serve's memory.
	MaxDisplayPixels = 2560 * 1600
)

// Window is one that the desktop's window manager manages.
type Window struct {
	ID    uint32 `json:"id" doc:"As X11 knows it; good while the window is there"`
	Title string `json:"title"`
	Class string `json:"class" doc:"Names the application, as in Firefox-esr"`
	Kind  string `json:"kind" doc:"normal, dialog, dock, desktop, utility and so on"`
	// The content's place on the display, without the frame that the window manager draws.
	X         int  `json:"x"`
	Y         int  `json:"y"`
	Width     int  `json:"width"`
	Height    int  `json:"height"`
	Focused   bool `json:"focused"`
	Minimized bool `json:"minimized"`
	Workspace int  `json:"workspace" doc:"From 0; -1 is on all of them"`
}
