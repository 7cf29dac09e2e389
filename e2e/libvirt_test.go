package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// libvirt's own tools tell what there is, and play the operator whose guests bureau leaves alone.

func runVirsh(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("virsh %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

func virsh(t testing.TB, args ...string) string {
	t.Helper()
	out, err := runVirsh(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// asRoot is a command run as root, by way of sudo where the tests are not.
func asRoot(ctx context.Context, args ...string) *exec.Cmd {
	if os.Getuid() != 0 {
		args = append([]string{"sudo", "-n"}, args...)
	}
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

// foreign is an operator's guest. Its name is close to those of the tests' desktops.
const foreign = prefix + "er-own-guest"

const foreignXML = `<domain type='qemu'>
  <name>` + foreign + `</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
</domain>`

func defineForeign(ctx context.Context) error {
	// An interrupted run's may be there, on or off.
	runVirsh(ctx, "destroy", foreign)
	runVirsh(ctx, "undefine", foreign)
	c := exec.CommandContext(ctx, "virsh", "-q", "-c", "qemu:///system", "define", "/dev/stdin")
	c.Stdin = strings.NewReader(foreignXML)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("defining another's guest: %w: %s", err, out)
	}
	_, err := runVirsh(ctx, "start", "--paused", foreign)
	return err
}

// removeForeign fails if the guest is not there as it was left.
func removeForeign(ctx context.Context) error {
	state, err := runVirsh(ctx, "domstate", foreign)
	if err == nil && state != "paused" {
		err = fmt.Errorf("another's guest was paused and is now %s", state)
	}
	if err == nil || state != "" {
		_, destroyed := runVirsh(ctx, "destroy", foreign)
		_, undefined := runVirsh(ctx, "undefine", foreign)
		err = errors.Join(err, destroyed, undefined)
	}
	return err
}

// nothingLeft checks that libvirt has nothing of the tests' any more.
func nothingLeft(ctx context.Context) error {
	var left []string
	for _, list := range []string{"list --all --name", "net-list --all --name", "pool-list --all --name", "nwfilter-list"} {
		names, err := runVirsh(ctx, strings.Fields(list)...)
		if err != nil {
			return err
		}
		for name := range strings.FieldsSeq(names) {
			if name == prefix || strings.HasPrefix(name, prefix+"-") {
				left = append(left, list+": "+name)
			}
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("the purge has left %s", strings.Join(left, ", "))
	}
	return nil
}
