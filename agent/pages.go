package agent

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The agent is the host's whole binary, of which a guest uses a small part; but every package of it is
// prepared when it starts, and the pages that this touches would stay in the guest's memory.

// dropStart gives back the pages of the program's own code and constants. Those that are needed again are
// read again from its file, a few milliseconds' worth in all. It is a hint: a kernel that does not know
// it, before 5.4, changes nothing.
func dropStart() error {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	own, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[5] != own || strings.Contains(fields[1], "w") {
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil {
			return err
		}
		// No Go slice can name this memory, which is not Go's.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_PAGEOUT); errno != 0 {
			return errno
		}
	}
	return nil
}
