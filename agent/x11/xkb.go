package x11

import (
	"encoding/binary"
	"errors"

	"github.com/jezek/xgb"
)

// xkb is the little of the XKB extension that is needed, which xgb does not have: which locks and
// which layout group are on, and setting them. The zero value is a server without it.
//
// All requests name the core keyboard, which always exists, so that they cannot fail.
type xkb struct {
	x      *xgb.Conn
	opcode byte
}

const xkbName = "XKEYBOARD"

// The minor opcodes, and the device that stands for the core keyboard.
const (
	xkbUseExtension   = 0
	xkbGetState       = 4
	xkbLatchLockState = 5
	xkbCoreKeyboard   = 0x100
)

// keyboardState is how the server reads the next key.
type keyboardState struct {
	held   byte // modifiers that are physically down
	sticky byte // modifiers latched for the next key
	locked byte
	group  byte // locked layout group
}

func newXKB(x *xgb.Conn, opcode byte) (xkb, error) {
	k := xkb{x: x, opcode: opcode}
	reply, err := k.request(xkbUseExtension, true, 1, 0, 0, 0) // version 1.0
	if err != nil {
		return xkb{}, err
	}
	if reply[1] == 0 {
		return xkb{}, errors.New("XKB 1.0 is not supported")
	}
	return k, nil
}

// send makes a request without waiting for its end.
func (k xkb) send(reply bool, minor byte, body ...byte) *xgb.Cookie {
	buf := make([]byte, 4, 4+len(body))
	buf[0], buf[1] = k.opcode, minor
	buf = append(buf, body...)
	binary.LittleEndian.PutUint16(buf[2:], uint16(len(buf)/4))
	cookie := k.x.NewCookie(true, reply)
	k.x.NewRequest(buf, cookie)
	return cookie
}

func (k xkb) request(minor byte, reply bool, body ...byte) ([]byte, error) {
	cookie := k.send(reply, minor, body...)
	if !reply {
		return nil, cookie.Check()
	}
	return cookie.Reply()
}

func (k xkb) state() (keyboardState, error) {
	if k.x == nil {
		return keyboardState{}, nil
	}
	reply, err := k.request(xkbGetState, true, 0, xkbCoreKeyboard>>8, 0, 0)
	if err != nil {
		return keyboardState{}, err
	}
	return keyboardState{held: reply[9], sticky: reply[10], locked: reply[11], group: reply[13]}, nil
}

// setLocks sets the locked modifiers among mask, and the locked group; latches are cleared.
func (k xkb) setLocks(mask, locked, group byte) error {
	if k.x == nil {
		return nil
	}
	_, err := k.request(xkbLatchLockState, false,
		0, xkbCoreKeyboard>>8, mask, locked, 1, group, 0xff, 0, 0, 1, 0, 0)
	return err
}
