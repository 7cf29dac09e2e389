package x11

import (
	"context"
	"fmt"
	"strings"

	"github.com/jezek/xgb/randr"
	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// The display's size. By RandR an output shows a mode, which has a size and timings; one of any size
// can be made, as xrandr --newmode does. A virtual output does not care about timings, but X wants
// some, so they are those that a monitor of that size would have.

// modePrefix begins the names of the modes that we make.
const modePrefix = "bureau-"

// dotsPerInch is what the display claims to have, whatever its size: applications scale by it.
const dotsPerInch = 96

// Resize gives the display a size. It returns when the display has it. An action under way is waited
// for. Invalid says that no display here can have it, and which it can.
func (d *Display) Resize(ctx context.Context, size desktop.Size) error {
	for _, side := range []struct {
		name   string
		length int
	}{{"width", size.Width}, {"height", size.Height}} {
		if err := checkRange(side.name, side.length, desktop.MinDisplaySide, desktop.MaxDisplaySide); err != nil {
			return err
		}
	}
	if !d.randr {
		return desktop.Errorf(desktop.Conflict, "the X server cannot change its size: it lacks RandR")
	}
	select {
	case d.turn <- struct{}{}:
	case <-d.done:
		return errGone()
	case <-ctx.Done():
		return d.ended(ctx)
	}
	_, err := await(ctx, func() (struct{}, error) {
		defer func() { <-d.turn }()
		if err := d.resize(size); err != nil {
			return struct{}{}, d.gone(err)
		}
		_, err := d.measure()
		return struct{}{}, err
	})
	return err
}

// head is the output that the display is seen on.
type head struct {
	resources *randr.GetScreenResourcesCurrentReply
	output    randr.Output
	modes     []randr.Mode // that the output has
	crtc      randr.Crtc
	// What it shows now.
	mode          randr.Mode
	width, height int
}

func (d *Display) resize(size desktop.Size) error {
	limits, err := randr.GetScreenSizeRange(d.x, d.root).Reply()
	if err != nil {
		return err
	}
	if size.Width > int(limits.MaxWidth) || size.Height > int(limits.MaxHeight) ||
		size.Width < int(limits.MinWidth) || size.Height < int(limits.MinHeight) {
		return desktop.Errorf(desktop.Invalid, "%dx%d is not possible: this desktop's display can have %dx%d to %dx%d",
			size.Width, size.Height, limits.MinWidth, limits.MinHeight, limits.MaxWidth, limits.MaxHeight)
	}
	// Nobody else changes anything meanwhile, and what was listed stays there.
	xproto.GrabServer(d.x)
	defer xproto.GetInputFocus(d.x).Reply() // the server is free when this is answered
	defer xproto.UngrabServer(d.x)
	h, err := d.head()
	if err != nil {
		return err
	}
	now, err := d.measure()
	if err != nil {
		return err
	}
	if now == size && h.mode != 0 && h.width == size.Width && h.height == size.Height {
		return nil
	}
	mode, ok := h.find(size)
	if !ok {
		if mode, err = d.makeMode(h, size); err != nil {
			return err
		}
	}
	if err := d.show(h, size, mode); err != nil {
		// As it was; should that fail too, there is nothing better to try.
		if h.mode != 0 {
			if again := d.show(h, now, h.mode); again != nil {
				d.log.Warn("the display's former size could not be put back", "error", again)
			}
		}
		return err
	}
	// The modes that we have made before are not needed any more.
	for _, m := range h.made() {
		if m != mode {
			randr.DeleteOutputMode(d.x, h.output, m)
			randr.DestroyMode(d.x, m)
		}
	}
	return nil
}

func (d *Display) head() (*head, error) {
	resources, err := randr.GetScreenResourcesCurrent(d.x, d.root).Reply()
	if err != nil {
		return nil, err
	}
	var found *head
	for _, output := range resources.Outputs {
		info, err := randr.GetOutputInfo(d.x, output, resources.ConfigTimestamp).Reply()
		if err != nil {
			return nil, err
		}
		if info.Connection == randr.ConnectionDisconnected || len(info.Crtcs) == 0 {
			continue
		}
		h := &head{resources: resources, output: output, modes: info.Modes, crtc: info.Crtc}
		switch {
		case h.crtc == 0 && found != nil:
			continue
		case h.crtc == 0:
			h.crtc = info.Crtcs[0]
		case found != nil && found.mode != 0:
			return nil, desktop.Errorf(desktop.Conflict, "the desktop's display has several screens; its size cannot be set")
		}
		crtc, err := randr.GetCrtcInfo(d.x, h.crtc, resources.ConfigTimestamp).Reply()
		if err != nil {
			return nil, err
		}
		h.mode, h.width, h.height = crtc.Mode, int(crtc.Width), int(crtc.Height)
		found = h
	}
	if found == nil {
		return nil, desktop.Errorf(desktop.Unavailable, "the desktop's display has no screen that is connected")
	}
	return found, nil
}

// find looks among the output's modes for one of that size.
func (h *head) find(size desktop.Size) (randr.Mode, bool) {
	for _, mode := range h.modes {
		for _, info := range h.resources.Modes {
			if randr.Mode(info.Id) == mode && int(info.Width) == size.Width && int(info.Height) == size.Height &&
				info.ModeFlags&(randr.ModeFlagInterlace|randr.ModeFlagDoubleScan) == 0 {
				return mode, true
			}
		}
	}
	return 0, false
}

// named calls each with the modes there are and their names.
func (h *head) named(each func(mode randr.Mode, name string)) {
	names := string(h.resources.Names)
	for _, info := range h.resources.Modes {
		length := min(int(info.NameLen), len(names))
		each(randr.Mode(info.Id), names[:length])
		names = names[length:]
	}
}

// made is the modes that we have made.
func (h *head) made() []randr.Mode {
	var ours []randr.Mode
	h.named(func(mode randr.Mode, name string) {
		if strings.HasPrefix(name, modePrefix) {
			ours = append(ours, mode)
		}
	})
	return ours
}

// makeMode makes a mode and gives it to the output. One of that name may be left from an attempt
// that failed.
func (d *Display) makeMode(h *head, size desktop.Size) (randr.Mode, error) {
	name := fmt.Sprintf("%s%dx%d", modePrefix, size.Width, size.Height)
	var mode randr.Mode
	h.named(func(m randr.Mode, n string) {
		if n == name {
			mode = m
		}
	})
	if mode == 0 {
		info := timings(size)
		info.NameLen = uint16(len(name))
		reply, err := randr.CreateMode(d.x, d.root, info, name).Reply()
		if err != nil {
			return 0, fmt.Errorf("making a mode of %dx%d: %w", size.Width, size.Height, err)
		}
		mode = reply.Mode
	}
	if err := randr.AddOutputModeChecked(d.x, h.output, mode).Check(); err != nil {
		return 0, fmt.Errorf("giving the display a mode of %dx%d: %w", size.Width, size.Height, err)
	}
	return mode, nil
}

// timings are those of CVT with reduced blanking (version 1) at 60 Hz.
func timings(size desktop.Size) randr.ModeInfo {
	const (
		rate                          = 60.0
		hBlank, hFront, hSync         = 160, 48, 32
		vFront, vSync, vBackLeast     = 3, 10, 6
		vBlankLeast, million, quarter = 460.0, 1e6, 250_000 // microseconds, and hertz
	)
	line := (million/rate - vBlankLeast) / float64(size.Height)
	vBlank := max(int(vBlankLeast/line)+1, vFront+vSync+vBackLeast)
	hTotal, vTotal := size.Width+hBlank, size.Height+vBlank
	clock := int64(rate * float64(hTotal) * float64(vTotal))
	return randr.ModeInfo{
		Width: uint16(size.Width), Height: uint16(size.Height),
		DotClock:   uint32(clock - clock%quarter),
		HsyncStart: uint16(size.Width + hFront), HsyncEnd: uint16(size.Width + hFront + hSync), Htotal: uint16(hTotal),
		VsyncStart: uint16(size.Height + vFront), VsyncEnd: uint16(size.Height + vFront + vSync), Vtotal: uint16(vTotal),
		ModeFlags: randr.ModeFlagHsyncPositive | randr.ModeFlagVsyncNegative,
	}
}

// show makes the display that size and the output show the mode. What an output shows must always
// lie within the display, so one that shows more is turned off in between.
func (d *Display) show(h *head, size desktop.Size, mode randr.Mode) error {
	crtc, err := randr.GetCrtcInfo(d.x, h.crtc, h.resources.ConfigTimestamp).Reply()
	if err != nil {
		return err
	}
	set := func(mode randr.Mode, outputs ...randr.Output) error {
		// Making a mode has changed the configuration's time.
		resources, err := randr.GetScreenResourcesCurrent(d.x, d.root).Reply()
		if err != nil {
			return err
		}
		reply, err := randr.SetCrtcConfig(d.x, h.crtc, xproto.TimeCurrentTime, resources.ConfigTimestamp, 0, 0, mode,
			randr.RotationRotate0, outputs).Reply()
		if err == nil && reply.Status != randr.SetConfigSuccess {
			err = desktop.Errorf(desktop.Conflict, "the X server refuses to make the display %dx%d", size.Width, size.Height)
		}
		return err
	}
	if crtc.Mode != 0 && (int(crtc.X)+int(crtc.Width) > size.Width || int(crtc.Y)+int(crtc.Height) > size.Height) {
		if err := set(0); err != nil {
			return err
		}
	}
	millimetres := func(pixels int) uint32 { return uint32(max(1, float64(pixels)*25.4/dotsPerInch+0.5)) }
	err = randr.SetScreenSizeChecked(d.x, d.root, uint16(size.Width), uint16(size.Height),
		millimetres(size.Width), millimetres(size.Height)).Check()
	if err != nil {
		return fmt.Errorf("making the display %dx%d: %w", size.Width, size.Height, err)
	}
	return set(mode, h.output)
}
