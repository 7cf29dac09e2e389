package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"net"

	"bureau/desktop"
	"bureau/hypervisor/screen"
)

var _ desktop.Machines = (*Host)(nil)

// OpenScreen mirrors a machine's display: over QEMU's D-Bus display, or over its VNC server where
// that one cannot be had. Calls for one machine must not overlap.
func (h *Host) OpenScreen(ctx context.Context, id string) (desktop.Screen, error) {
	log := h.log.With("desktop", id)
	mirror, err := screen.OpenDBus(ctx, func(ctx context.Context) (net.Conn, error) {
		return h.OpenGraphics(ctx, id, GraphicsDBus)
	}, log)
	if err == nil {
		return mirror, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	log.Debug("no D-Bus display; trying VNC", "error", err)
	conn, vncErr := h.OpenGraphics(ctx, id, GraphicsVNC)
	if vncErr != nil {
		return nil, fmt.Errorf("opening the display: %w", errors.Join(err, vncErr))
	}
	mirror, vncErr = screen.OpenRFB(ctx, conn, log)
	if vncErr != nil {
		return nil, fmt.Errorf("opening the display: %w", errors.Join(err, vncErr))
	}
	return mirror, nil
}
