package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// opKind is something that a client does.
type opKind string

const (
	opCreate   opKind = "create"
	opStart    opKind = "start"
	opStop     opKind = "stop"
	opRestart  opKind = "restart"
	opPatch    opKind = "patch"
	opDestroy  opKind = "destroy"
	opPowerOff opKind = "poweroff" // the guest shuts itself down
	opGet      opKind = "get"
)

// killKind is a process that is killed.
type killKind string

const (
	killServe   killKind = "serve"
	killLibvirt killKind = "libvirtd"
	killQEMU    killKind = "qemu"
	// killHost is the end of everything at once, as when the host loses its power.
	killHost killKind = "host"
)

// op is one operation of a client. Slots are places for desktops: what is done to "slot 3" is done
// to the desktop that was created there last.
type op struct {
	Kind opKind
	Slot int
	Wait time.Duration // after the client's operation before
	// of a create
	Image string
	Start bool
	Lost  bool // the client hangs up without waiting for the answer, and asks again
}

func (o op) String() string {
	detail := ""
	if o.Kind == opCreate {
		detail = fmt.Sprintf(" %s start=%t", o.Image, o.Start)
	}
	if o.Lost {
		detail += " lost"
	}
	return fmt.Sprintf("+%dms %s slot %d%s", o.Wait.Milliseconds(), o.Kind, o.Slot, detail)
}

// kill is one SIGKILL.
type kill struct {
	Kind killKind
	At   time.Duration // since the round began
	Down time.Duration // until the process is started again
	Pick int           // which of the machines that run then, of a killQEMU
}

func (k kill) String() string {
	return fmt.Sprintf("@%dms kill %s (pick %d, back after %dms)", k.At.Milliseconds(), k.Kind, k.Pick, k.Down.Milliseconds())
}

// round is what happens between two looks of the checker.
type round struct {
	Number  int
	Clients [][]op
	Kills   []kill
}

func (r round) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "round %d\n", r.Number)
	for i, ops := range r.Clients {
		for _, o := range ops {
			fmt.Fprintf(&b, "  client %d %s\n", i, o)
		}
	}
	for _, k := range r.Kills {
		fmt.Fprintf(&b, "  %s\n", k)
	}
	return b.String()
}

// The images that desktops are made of.
const (
	imageObedient = "obedient" // shuts down when asked to
	imageDeaf     = "deaf"     // has to be turned off
)

// planner makes up rounds. It supposes that everything succeeds, so that most of what it plans can
// be done; what is not so when the time comes is left out then.
type planner struct {
	random  *rand.Rand
	slots   []bool // whether a desktop should be there
	clients int
	rounds  int
}

func newPlanner(seed uint64, slots, clients int) *planner {
	return &planner{random: rand.New(rand.NewPCG(seed, 0x50a4)), slots: make([]bool, slots), clients: clients}
}

func (p *planner) upTo(limit time.Duration) time.Duration {
	return time.Duration(p.random.Int64N(int64(limit))).Truncate(time.Millisecond)
}

// moment is when a kill comes: at any time of the round, or just after an operation has begun, when it
// is in the middle of what it does.
func (p *planner) moment(r round) time.Duration {
	if p.random.IntN(2) == 0 {
		return p.upTo(killMost)
	}
	at := p.upTo(strikeMost)
	ops := r.Clients[p.random.IntN(len(r.Clients))]
	for _, o := range ops[:1+p.random.IntN(len(ops))] {
		at += o.Wait
	}
	return at
}

// weighted picks by weight.
func weighted[T any](random *rand.Rand, choices []choice[T]) T {
	total := 0
	for _, c := range choices {
		total += c.weight
	}
	at := random.IntN(total)
	for _, c := range choices {
		if at -= c.weight; at < 0 {
			return c.value
		}
	}
	panic("unreachable")
}

type choice[T any] struct {
	value  T
	weight int
}

var opWeights = []choice[opKind]{
	{opStart, 24}, {opStop, 22}, {opRestart, 16}, {opDestroy, 14}, {opPatch, 10}, {opPowerOff, 8}, {opGet, 6},
}

var killWeights = []choice[killKind]{{killServe, 38}, {killLibvirt, 30}, {killQEMU, 26}, {killHost, 6}}

// Most kills fall into the time in which operations are under way; a round is not much longer.
const (
	waitMost   = 900 * time.Millisecond
	killMost   = 2500 * time.Millisecond
	strikeMost = 300 * time.Millisecond
	downMost   = 800 * time.Millisecond
)

// next is the round that follows.
func (p *planner) next() round {
	p.rounds++
	r := round{Number: p.rounds, Clients: make([][]op, p.clients)}
	created := map[int]bool{}
	contended := -1 // a slot that all clients want something of
	if p.random.IntN(4) == 0 {
		contended = p.random.IntN(len(p.slots))
	}
	for client := range r.Clients {
		for range 1 + p.random.IntN(3) {
			slot := p.random.IntN(len(p.slots))
			if contended >= 0 {
				slot = contended
			}
			o := op{Slot: slot, Wait: p.upTo(waitMost)}
			switch {
			case p.slots[slot] && !created[slot]:
				o.Kind = weighted(p.random, opWeights)
			case created[slot]: // it may be there by then
				o.Kind = weighted(p.random, opWeights[:3])
			default:
				o.Kind = opCreate
				o.Image = weighted(p.random, []choice[string]{{imageObedient, 3}, {imageDeaf, 1}})
				o.Start = p.random.IntN(5) > 0
				o.Lost = p.random.IntN(6) == 0
				created[slot] = true
			}
			r.Clients[client] = append(r.Clients[client], o)
		}
	}
	for _, ops := range r.Clients {
		for _, o := range ops {
			switch o.Kind {
			case opCreate:
				p.slots[o.Slot] = true
			case opDestroy:
				p.slots[o.Slot] = false
			}
		}
	}
	// The later ones of several may fall into the recovery from the first.
	for range weighted(p.random, []choice[int]{{1, 50}, {2, 30}, {3, 20}}) {
		r.Kills = append(r.Kills, kill{
			Kind: weighted(p.random, killWeights),
			At:   p.moment(r),
			Down: p.upTo(downMost),
			Pick: p.random.IntN(1000),
		})
	}
	return r
}
