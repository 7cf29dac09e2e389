package x11

import "encoding/binary"

// Autorepeat. The server repeats a key that is down for half a second. A stroke of ours lasts so long
// only where a busy machine keeps the server from reading its release, and the repetition would be one
// character too many. So nothing repeats while there are strokes, but what is held down on purpose.

const (
	xkbGetControls     = 6
	xkbSetControls     = 7
	xkbRepeatKeys      = 1 // among the controls
	xkbGetControlsSize = 92
	xkbSetControlsSize = 100
)

// askRepeats asks whether keys repeat; read gives the answer. A server without XKB is not asked.
func (k xkb) askRepeats() (read func() (bool, error)) {
	if k.x == nil {
		return func() (bool, error) { return false, nil }
	}
	cookie := k.send(true, xkbGetControls, 0, xkbCoreKeyboard>>8, 0, 0)
	return func() (bool, error) {
		reply, err := cookie.Reply()
		if err != nil || len(reply) < xkbGetControlsSize {
			return false, err
		}
		return binary.LittleEndian.Uint32(reply[56:])&xkbRepeatKeys != 0, nil
	}
}

// repeat lets keys repeat, or not.
func (k xkb) repeat(on bool) {
	if k.x == nil {
		return
	}
	body := make([]byte, xkbSetControlsSize-4)
	body[1] = xkbCoreKeyboard >> 8
	binary.LittleEndian.PutUint32(body[20:], xkbRepeatKeys) // what is changed
	if on {
		binary.LittleEndian.PutUint32(body[24:], xkbRepeatKeys)
	}
	k.send(false, xkbSetControls, body...)
}

// repeatAgain undoes what an agent that died while it typed has left behind.
func (d *Display) repeatAgain() error {
	repeats, err := d.xkb.askRepeats()()
	if err == nil && !repeats && d.xkb.x != nil {
		d.log.Info("keys repeat again")
		d.xkb.repeat(true)
	}
	return d.gone(err)
}
