package main

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// figures count what happened.
type figures struct {
	mu       sync.Mutex
	kills    map[killKind]int
	ops      map[opKind]map[outcome]int
	settled  []time.Duration // how long each round took from the end of its operations to soundness
	readings int
}

func newFigures() *figures {
	return &figures{kills: map[killKind]int{}, ops: map[opKind]map[outcome]int{}}
}

func (f *figures) kill(k killKind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kills[k]++
}

func (f *figures) killed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	total := 0
	for _, n := range f.kills {
		total += n
	}
	return total
}

func (f *figures) operation(k opKind, o outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ops[k] == nil {
		f.ops[k] = map[outcome]int{}
	}
	f.ops[k][o]++
}

func (f *figures) look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readings++
}

func (f *figures) settle(took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settled = append(f.settled, took)
}

func (f *figures) lastSettling() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.settled) == 0 {
		return 0
	}
	return f.settled[len(f.settled)-1]
}

// print writes the figures as a table.
func (f *figures) print(w io.Writer, took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(w, "\nkills        serve %d, libvirtd %d, qemu %d, all at once %d\n",
		f.kills[killServe], f.kills[killLibvirt], f.kills[killQEMU], f.kills[killHost])
	fmt.Fprintf(w, "%-12s %8s %8s %8s %8s\n", "operation", done, refused, unknown, skipped)
	total := map[outcome]int{}
	outcomes := []outcome{done, refused, unknown, skipped}
	for _, k := range []opKind{opCreate, opStart, opStop, opRestart, opPatch, opDestroy, opPowerOff, opGet} {
		fmt.Fprintf(w, "%-12s", k)
		for _, o := range outcomes {
			fmt.Fprintf(w, " %8d", f.ops[k][o])
			total[o] += f.ops[k][o]
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%-12s", "all")
	for _, o := range outcomes {
		fmt.Fprintf(w, " %8d", total[o])
	}
	fmt.Fprintln(w)
	sorted := slices.Sorted(slices.Values(f.settled))
	if n := len(sorted); n > 0 {
		fmt.Fprintf(w, "rounds       %d, sound after %s in the median, %s at the 90th percentile, %s at most\n", n,
			sorted[n/2].Round(10*time.Millisecond), sorted[n*9/10].Round(10*time.Millisecond), sorted[n-1].Round(10*time.Millisecond))
	}
	fmt.Fprintf(w, "readings     %d of the checker\n", f.readings)
	fmt.Fprintf(w, "took         %s\n\n", took.Round(time.Second))
}
