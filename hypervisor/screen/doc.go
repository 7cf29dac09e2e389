// Package screen is the host's mirror of a machine's display: it implements desktop.Screen over
// QEMU's D-Bus display (OpenDBus) and over RFB, the protocol of VNC (OpenRFB).
//
// Both feed the same mirror, so both give the same pixels for the same screen. D-Bus is the better
// one: it pushes each change within milliseconds and knows the mouse cursor, and it is silent while
// nothing changes. RFB is for where that cannot be had.
//
// QEMU draws what the guest tells it to, so whatever arrives here is bounded and checked, and a
// session that breaks the rules is ended rather than mended: connecting anew brings a whole picture.
//
// The package must not know libvirt: it is handed connections. It knows neither desktops nor users.
package screen
