// Command hostile is what a guest can do to its host: it takes the agent's place at the port to the
// host, and the desktop's user's at its X server, and behaves as badly as it can. The end-to-end tests
// run it in a real guest and look at what it costs the host. It shares no code with bureau: what it
// speaks of the link's protocol is what agent/doc.go says.
//
//	hostile link SECONDS [ATTACK…]    each attack for so long; the agent has been stopped before
//	hostile screen SECONDS [ATTACK…]
package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// attack goes on until the time is over. An error is no success of the host's: it has only ended what
// was going on, and the attack begins anew.
type attack struct {
	name string
	do   func(until time.Time) error
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "hostile: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: hostile link|screen SECONDS [ATTACK…]")
	}
	attacks := map[string][]attack{"link": linkAttacks, "screen": screenAttacks}[args[0]]
	seconds, err := strconv.ParseFloat(args[1], 64)
	if err != nil || attacks == nil {
		return fmt.Errorf("hostile %s %s: no such thing", args[0], args[1])
	}
	if args[0] == "link" {
		if err := learn(); err != nil {
			return err
		}
	}
	for _, a := range attacks {
		if len(args) > 2 && !slices.Contains(args[2:], a.name) {
			continue
		}
		if args[0] == "link" {
			if err := meet(); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
		}
		until := time.Now().Add(time.Duration(seconds * float64(time.Second)))
		var last error
		rounds := 0
		for ; time.Now().Before(until); rounds++ {
			if last = a.do(until); last != nil {
				time.Sleep(20 * time.Millisecond)
			}
		}
		fmt.Printf("%s: %d rounds, the last ended with %v\n", a.name, rounds, last)
	}
	return nil
}
