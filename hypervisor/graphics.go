package hypervisor

import (
	"context"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

// OpenGraphics connects to a display of a machine, GraphicsVNC or GraphicsDBus: QEMU is handed one
// end of a pair of sockets and this is the other. A machine that is not running is Unavailable; one
// without that display is NotFound.
func (h *Host) OpenGraphics(ctx context.Context, id string, index int) (net.Conn, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	ours := os.NewFile(uintptr(pair[0]), "display")
	defer ours.Close() // FileConn makes a copy
	conn, err := net.FileConn(ours)
	if err != nil {
		unix.Close(pair[1])
		return nil, fmt.Errorf("use a pair of sockets: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "display of QEMU")
	_, err = run(ctx, h, queryTime, "open the display", func(ctx context.Context, c *libvirt.Connect) (struct{}, error) {
		defer theirs.Close()
		found, err := h.withDomain(c, id, func(d *libvirt.Domain) error {
			active, err := d.IsActive()
			if err != nil {
				return err
			}
			if !active {
				return desktop.Errorf(desktop.Unavailable, "the machine is not running")
			}
			err = d.OpenGraphics(uint(index), *theirs, 0)
			if isCode(err, libvirt.ERR_INTERNAL_ERROR, libvirt.ERR_INVALID_ARG, libvirt.ERR_CONFIG_UNSUPPORTED) {
				return desktop.Errorf(desktop.NotFound, "the machine has no such display: %w", err)
			}
			return err
		})
		if err == nil && !found {
			err = desktop.Errorf(desktop.NotFound, "there is no machine %s", id)
		}
		return struct{}{}, err
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
