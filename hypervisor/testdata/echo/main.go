// Echo stands in for the agent in a real guest: it sends back what comes over the agent's port,
// and answers "who\n" with the guest's host name, machine id, size of its disk and whether its
// agent's disk is writable.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	port, err := os.OpenFile("/dev/virtio-ports/org.bureau.agent.0", os.O_RDWR, 0)
	if err != nil {
		log.Fatal(err)
	}
	buffer := make([]byte, 1<<16)
	for {
		n, err := port.Read(buffer)
		switch {
		case errors.Is(err, io.EOF): // nobody is connected on the host
			time.Sleep(10 * time.Millisecond)
			continue
		case err != nil:
			log.Fatal(err)
		}
		answer := buffer[:n]
		if string(answer) == "who\n" {
			answer = []byte(who())
		}
		if _, err := port.Write(answer); err != nil {
			log.Fatal(err)
		}
	}
}

func who() string {
	host, _ := os.Hostname()
	machine, _ := os.ReadFile("/etc/machine-id")
	size, _ := os.ReadFile("/sys/block/vda/size")
	readOnly, _ := os.ReadFile("/sys/block/vdb/ro")
	return fmt.Sprintln(host, strings.TrimSpace(string(machine)), strings.TrimSpace(string(size)), strings.TrimSpace(string(readOnly)))
}
