package hypervisor

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"bureau/desktop"
)

// Names of libvirt's objects. UUID and MAC address follow from the desktop's id alone: whatever
// goes wrong, the same desktop cannot be defined twice, nor run twice on one network.

var (
	validID    = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$`)
	validImage = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	validHex   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func checkID(id string) error {
	if !validID.MatchString(id) {
		return desktop.Errorf(desktop.Invalid, "%q is not a desktop's id", id)
	}
	return nil
}

// machineUUID is a UUID of version 8 (RFC 9562): 122 bits of a hash of the id.
func machineUUID(id string) [16]byte { return hashUUID("bureau desktop uuid\x00" + id) }

// filterUUID makes the definition of a filter replace the one of that name.
func filterUUID(name string) [16]byte { return hashUUID("bureau filter uuid\x00" + name) }

func hashUUID(text string) [16]byte {
	sum := sha256.Sum256([]byte(text))
	u := [16]byte(sum[:16])
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u
}

func formatUUID(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// machineMAC is an address in QEMU's own range.
func machineMAC(id string) string {
	sum := sha256.Sum256([]byte("bureau desktop mac\x00" + id))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
}

// hostName makes a host name of an owner's name for a desktop, or of its id when nothing usable
// is left of it.
func hostName(name, id string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(name) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	host := b.String()
	if len(host) > 63 {
		host = host[:63]
	}
	if host = strings.Trim(host, "-"); host == "" {
		return id
	}
	return host
}

func (o *Options) domainName(id string) string { return o.Prefix + "-" + id }

// machineID is the desktop's id that a domain's name and UUID belong to, "" for a foreign domain.
// The UUID is what tells "bureau-test-X", X of prefix "bureau-test", from "test-X" of "bureau".
func (o *Options) machineID(name, uuid string) string {
	id, ours := strings.CutPrefix(name, o.Prefix+"-")
	if !ours || checkID(id) != nil || formatUUID(machineUUID(id)) != uuid {
		return ""
	}
	return id
}

func (o *Options) networkName(network string) string { return o.Prefix + "-" + network }

// bridgeName fits the 15 characters that Linux allows an interface's name.
func (o *Options) bridgeName(network string) string {
	name := o.networkName(network)
	if len(name) <= 15 {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "br" + hex.EncodeToString(sum[:6])
}

// Volumes of the pool.
func overlayVolume(id string) string    { return "desktop-" + id + ".qcow2" }
func agentVolume(digest string) string  { return "agent-" + digest[:16] + ".img" }
func manifestVolume(name string) string { return "image-" + name + ".json" }

// contentVolume is a part of an image: "qcow2", "vmlinuz", "initrd", and "json", which is written
// last and so says that the others are complete.
func contentVolume(digest, part string) string { return "content-" + digest + "." + part }

var ourVolume = regexp.MustCompile(`^(desktop-.+\.qcow2|agent-[0-9a-f]{16}\.img|image-.+\.json|content-[0-9a-f]{64}\.(qcow2|vmlinuz|initrd|json))$`)
