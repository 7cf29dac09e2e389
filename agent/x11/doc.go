// Package x11 is the agent's hand and eye on the desktop: it works the pointer and the keyboard of
// an X server through XTEST, and takes its picture.
//
// Input that is right, not roughly right, is the whole point. A few facts shape the package:
//
//   - XTEST events are exact to the pixel and the server queues them for slow applications, so that
//     nothing is lost however fast they are sent. [Display.Act] ends with two round trips, after
//     which the server has dealt with everything and shown what it drew; the application may still
//     be reading.
//   - A keyboard layout has few characters. Those that it lacks are bound, for the moment, to keys
//     that nobody uses (plan.go), which is safe only when no application has strokes with the
//     former meaning of such a key waiting (fence.go).
//   - What a client has pressed through XTEST stays pressed when that client dies. So whatever a
//     call presses is released by that call, also when it is cancelled, and [Open] releases what a
//     predecessor left behind and gives back the keys that it had borrowed.
//
// The package knows X11 and the vocabulary of package desktop; it knows nothing of the link to the
// host, of processes or of HTTP.
package x11
