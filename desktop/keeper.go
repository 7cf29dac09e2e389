package desktop

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

const (
	// glance is how often a keeper looks at its machine when nothing wakes it.
	glance = 30 * time.Second
	// addressGlance is how often while a running machine has no address yet.
	addressGlance = 2 * time.Second
	retryMin      = time.Second
	retryMax      = time.Minute
	// unavailableFor is what a caller of a desktop that is not ready is told to wait.
	unavailableFor = 2 * time.Second
)

// keeper owns one desktop's lifecycle: only its goroutine starts, stops and removes the machine.
// Everybody else reads the state under mu, or changes the record and wakes it.
type keeper struct {
	m    *Manager
	id   string
	log  *slog.Logger
	woke chan struct{} // capacity 1: a wake-up that is not yet heeded

	changing sync.Mutex // one change of the record at a time, so that rec is never older than the store

	mu        sync.Mutex
	rec       Record
	machine   Machine            // as last seen; State is "" before the first look
	starting  bool               // a place among the boots was had, the machine is being started
	bootedAt  time.Time          // when the machine was first seen running
	pausedAt  time.Time          // when it was first seen paused; zero while it is not
	agent     Agent              // nil while there is no session
	answered  bool               // an agent was ready since the machine was last off
	panics    int                // boots in a row that ended in a panic before that
	hindrance error              // why the last step failed; nil when it did not
	interrupt context.CancelFunc // ends the step under way, when there is one
	inputs    map[*underway]struct{}
	doings    uint64 // how many inputs and commands have begun or ended
	use       use

	session context.CancelFunc // ends the agent's session loop; the keeper's goroutine only
	ended   chan struct{}      // closed by the session loop when it has ended
	display display

	gone chan struct{} // closed when the desktop is destroyed
}

func newKeeper(m *Manager, record Record) *keeper {
	return &keeper{
		m:    m,
		id:   record.ID,
		log:  m.log.With("desktop", record.ID),
		rec:  record,
		woke: make(chan struct{}, 1),
		gone: make(chan struct{}),
		use:  use{last: m.config.Now()},
	}
}

// wake makes the keeper look at its desktop soon.
func (k *keeper) wake() {
	select {
	case k.woke <- struct{}{}:
	default:
	}
}

func (k *keeper) record() Record {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rec
}

// change changes the record, in the store first, and wakes the keeper. A step under way towards
// another wish is interrupted. errUnchanged from fn is success.
//
// A caller who goes while the store is writing does not cut that off: rec would be older than the
// store if the change had happened all the same.
func (k *keeper) change(ctx context.Context, fn func(*Record) error) error {
	k.changing.Lock()
	defer k.changing.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	record, err := k.m.store.UpdateDesktop(context.WithoutCancel(ctx), k.id, fn)
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if err != nil {
		return err
	}
	k.mu.Lock()
	if (record.Wish != k.rec.Wish || record.Boot != k.rec.Boot) && k.interrupt != nil {
		k.interrupt()
	}
	k.rec = record
	k.mu.Unlock()
	k.wake()
	return nil
}

// run looks and takes steps until the desktop is destroyed or the Manager closed.
func (k *keeper) run() {
	defer k.endSession()
	defer k.display.close()
	retry := retryMin
	for {
		again, err := k.step()
		k.setHindrance(err)
		switch {
		case k.m.ctx.Err() != nil:
			return
		case errors.Is(err, errInterrupted):
			again = 0
		case err != nil:
			k.log.Warn("desktop not as wanted yet", "error", err, "again", retry)
			again, retry = retry, min(2*retry, retryMax)
		default:
			retry = retryMin
		}
		if k.isGone() {
			k.m.mu.Lock()
			delete(k.m.keepers, k.id)
			k.m.mu.Unlock()
			return
		}
		timer := time.NewTimer(again)
		select {
		case <-k.m.ctx.Done():
			timer.Stop()
			return
		case <-k.woke:
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (k *keeper) isGone() bool {
	select {
	case <-k.gone:
		return true
	default:
		return false
	}
}

// errInterrupted is a step's end when a newer wish made it pointless.
var errInterrupted = errors.New("interrupted by a newer wish")

// step takes the next step towards the wish; a change of the wish interrupts it.
func (k *keeper) step() (time.Duration, error) {
	ctx, cancel := context.WithCancel(k.m.ctx)
	defer cancel()
	k.mu.Lock()
	record := k.rec
	k.interrupt = cancel
	k.mu.Unlock()
	again, err := k.approach(ctx, record)
	k.mu.Lock()
	k.interrupt = nil
	k.mu.Unlock()
	if err != nil && ctx.Err() != nil {
		err = errInterrupted
	}
	return again, err
}

// approach compares the wish with the machine and does the next thing that brings them together.
// It returns how long to wait for the next look when nothing happens before.
func (k *keeper) approach(ctx context.Context, record Record) (time.Duration, error) {
	machine, err := k.m.machines.Inspect(ctx, k.id)
	if err != nil {
		return 0, err
	}
	rebooted := k.see(machine)
	off := machine.State == MachineOff || machine.State == MachineAbsent
	if off {
		k.display.close()
	}
	if off || rebooted { // the agent that answered is no more
		k.endSession()
	}

	switch {
	case record.Wish == WishDestroy:
		return 0, k.destroy(ctx)
	case machine.State != MachineAbsent && !record.HasDisk && record.Boot == BootNone:
		return 0, k.settle(func(r *Record) { r.HasDisk = true }, record) // of a record that did not tell yet
	case record.Failure != "":
		return glance, nil
	case record.Wish == WishHalt:
		switch {
		case machine.State == MachineAbsent && record.HasDisk:
			return 0, k.fail(record, gone(machine))
		case off:
			return glance, nil
		}
		return 0, k.stop(ctx)
	case record.Boot == BootRestart:
		if !off {
			return 0, k.stop(ctx)
		}
		return 0, k.settle(func(r *Record) { r.Boot = BootStart }, record)
	case k.goesOn(record, machine):
		return k.goOn(ctx, record, machine)
	case record.Boot == BootStart && off:
		return 0, k.start(ctx, record)
	case record.Boot == BootStart:
		return 0, k.settle(func(r *Record) { r.Boot, r.HasDisk = BootNone, true }, record)
	case off:
		return 0, k.explainOff(ctx, record, machine)
	}
	k.beginSession()
	if machine.Address == "" && time.Since(k.booted()) < k.m.config.BootTimeout {
		return addressGlance, nil
	}
	return glance, nil
}

// gone says what is left of a desktop whose machine is absent though it had one.
func gone(machine Machine) string {
	if machine.DiskGone {
		return "Its machine and its disk are gone from the host, and nothing is left to start. Only destroy leads on."
	}
	return "Its machine is gone from the hypervisor; start makes it again from its disk."
}

// see takes note of what the machine is doing, and tells whether its guest has rebooted since the
// last look.
func (k *keeper) see(machine Machine) (rebooted bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	rebooted = k.machine.State == MachineRunning && machine.State == MachineRunning && machine.Reboots != k.machine.Reboots
	if rebooted {
		k.log.Info("the guest reboots")
		k.bootedAt, k.answered = time.Now(), false
	}
	if k.answered {
		k.panics = 0
	} else if k.machine.on() && machine.Cause == causePanicked {
		k.panics++
	}
	switch machine.State {
	case MachineOff, MachineAbsent:
		k.bootedAt, k.answered = time.Time{}, false
	default:
		if k.bootedAt.IsZero() {
			k.bootedAt = time.Now()
		}
		// A machine that an earlier process started is taken to be up already.
		if k.machine.State == "" && k.rec.Boot == BootNone {
			k.answered = true
		}
	}
	switch {
	case machine.State != MachinePaused:
		k.pausedAt = time.Time{}
	case k.pausedAt.IsZero():
		k.pausedAt = time.Now()
	}
	if k.machine.State != machine.State {
		k.log.Info("machine", "state", machine.State, "cause", machine.Cause, "before", k.machine.State)
	}
	k.machine = machine
	return rebooted
}

// isOff tells whether the machine was off when it was last looked at.
func (k *keeper) isOff() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.machine.State == MachineOff || k.machine.State == MachineAbsent
}

func (k *keeper) booted() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bootedAt
}

// settle changes the record as a step's result. A request that came in between wins: the record it
// wrote stays, and the next look starts from that.
func (k *keeper) settle(change func(*Record), since Record) error {
	return k.change(k.m.ctx, func(r *Record) error {
		if r.Wish != since.Wish || r.Boot != since.Boot || !r.UpdatedAt.Equal(since.UpdatedAt) {
			return errUnchanged
		}
		change(r)
		return nil
	})
}

// start turns the machine on once there is a place among the boots.
func (k *keeper) start(ctx context.Context, record Record) error {
	select {
	case k.m.boots <- struct{}{}:
		defer func() { <-k.m.boots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	k.setStarting(true)
	defer k.setStarting(false)
	began := time.Now()
	err := k.mayStart(ctx, record)
	if err == nil {
		err = k.m.machines.Start(ctx, record.spec())
	}
	if err != nil {
		if ctx.Err() != nil || CodeOf(err) == Unavailable { // the hypervisor is away; it will be back
			return err
		}
		if CodeOf(err) == NotFound && !record.HasDisk {
			// Nothing is based on the image yet, so the one that has its name now does as well.
			image, findErr := k.m.machines.Image(ctx, record.Image)
			if findErr == nil && image.Digest != record.ImageDigest {
				k.log.Info("the image was replaced before the first start", "image", image.Name, "digest", image.Digest)
				return k.settle(func(r *Record) {
					r.ImageDigest, r.DiskBytes = image.Digest, max(r.DiskBytes, image.DiskBytes)
				}, record)
			}
		}
		return k.fail(record, "The machine could not be started: "+err.Error())
	}
	k.log.Info("machine started", "took", time.Since(began))
	k.wake()
	return k.settle(func(r *Record) { r.Boot, r.HasDisk = BootNone, true }, record)
}

func (k *keeper) setStarting(starting bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.starting = starting
}

// setHindrance keeps what the owner is told while the keeper tries again.
func (k *keeper) setHindrance(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hindrance = err; errors.Is(err, errInterrupted) {
		k.hindrance = nil
	}
}

// fail gives up on the wish until the next request.
func (k *keeper) fail(record Record, reason string) error {
	k.log.Warn("desktop failed", "reason", reason) // a fault of the guest or its host, and none of serve
	return k.settle(func(r *Record) { r.Failure, r.Boot = reason, BootNone }, record)
}

// stop turns the machine off in an orderly way.
func (k *keeper) stop(ctx context.Context) error {
	k.endSession()
	if err := k.m.machines.Stop(ctx, k.id, k.m.config.StopGrace); err != nil {
		return err
	}
	k.wake()
	return nil
}

// destroy removes the machine and its disk and takes the record out of the listing.
func (k *keeper) destroy(ctx context.Context) error {
	k.endSession()
	k.display.close()
	if err := k.m.machines.Remove(ctx, k.id); err != nil {
		return err
	}
	err := k.change(ctx, func(r *Record) error {
		r.DestroyedAt = now()
		return nil
	})
	if err != nil {
		return err
	}
	k.log.Info("desktop destroyed")
	close(k.gone)
	return nil
}

// awaitDestroyed returns when the desktop is gone or ctx done.
func (k *keeper) awaitDestroyed(ctx context.Context) error {
	select {
	case <-k.gone:
		return nil
	case <-k.m.ctx.Done():
		return errClosing
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(destroyWait):
		e := Errorf(Unavailable, "the desktop is still being destroyed; that goes on by itself")
		e.RetryAfter = unavailableFor
		return e
	}
}

const causePanicked = "panicked"

// bootsAgain tells whether a panic was one of the rare ones that end a boot and none of those after
// it: emulated processors on a busy host now and then run code that another has just replaced.
func (k *keeper) bootsAgain() bool {
	const most = 2 // in a row
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.panics > most {
		k.panics = 0 // whoever starts it again gets as many
	}
	return k.panics > 0
}

// explainOff deals with a machine that was started and is off although it should run.
func (k *keeper) explainOff(ctx context.Context, record Record, machine Machine) error {
	switch {
	case machine.State == MachineAbsent:
		return k.fail(record, gone(machine))
	case machine.Cause == causePanicked && k.bootsAgain():
		k.log.Warn("the guest's kernel panicked while it booted; booting it again")
		return k.start(ctx, record)
	case machine.Cause == causePanicked:
		return k.fail(record, "The guest's kernel panicked, which turned the machine off; start boots it again from its disk.")
	case machine.Cause == "shutdown":
		k.log.Info("the guest has shut itself down")
		return k.settle(func(r *Record) { r.Wish = WishHalt }, record)
	case machine.Cause == "":
		k.log.Info("the machine was off, as after a restart of the host; starting it again")
		return k.start(ctx, record)
	default:
		return k.fail(record, "The machine ended unexpectedly ("+machine.Cause+"); start boots it again from its disk.")
	}
}

// readyAgent is the agent, when the desktop can be controlled.
func (k *keeper) readyAgent() (Agent, error) {
	k.mu.Lock()
	agent := k.agent
	k.mu.Unlock()
	d := k.desktop()
	if d.Status == Running && d.AgentReady {
		return agent, nil
	}
	e := Errorf(Unavailable, "the desktop is %s", d.Status)
	switch {
	case d.Status == Running || d.Status == Booting:
		e = Errorf(Unavailable, "the desktop is %s and its agent is not ready yet", d.Status)
	case d.Status == Stopped || d.Status == Failed:
		e = Errorf(Unavailable, "the desktop is %s; start it first", d.Status)
	}
	e.RetryAfter = unavailableFor
	e.Details = map[string]any{"desktopStatus": d.Status}
	return nil, e
}

// desktop is what a caller sees of the desktop now.
func (k *keeper) desktop() Desktop {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.rec
	d := Desktop{
		ID:          r.ID,
		Name:        r.Name,
		Owner:       r.Owner,
		Tier:        r.Tier,
		Image:       r.Image,
		KeepAlive:   r.KeepAlive,
		Approval:    r.Approval,
		Agent:       r.Agent.named(),
		Network:     r.Network,
		VCPUs:       r.VCPUs,
		MemoryBytes: r.MemoryBytes,
		DiskBytes:   r.DiskBytes,
		CreatedAt:   r.CreatedAt,
		UpdatedAt:   r.UpdatedAt,
	}
	var agent AgentStatus
	if k.agent != nil {
		agent = k.agent.Status()
	}
	if lease := r.Lease; lease.heldAt(time.Now()) {
		d.Lease = &lease.Lease
	}
	d.Status, d.Reason, d.BootStage = k.status(agent)
	if k.hindrance != nil && d.Status != Failed {
		d.Reason = "It is tried again: " + k.hindrance.Error()
	}
	switch d.Status {
	case Booting, Running, Stopping:
		d.Acceleration = k.machine.Acceleration
		d.IPAddress = address(k.machine.Address, agent.Addresses)
	}
	d.AgentReady = d.Status == Running && agent.Ready && k.machine.State != MachinePaused
	if d.Status == Running {
		d.Warning = agent.Models
	}
	return d
}

// status derives a desktop's status from its record, its machine and its agent. k.mu must be held.
func (k *keeper) status(agent AgentStatus) (status Status, reason string, stage Stage) {
	r, on := k.rec, k.machine.on()
	if k.machine.State == "" {
		on = r.Wish == WishHalt // it is not known to be off
	}
	switch {
	case !r.DestroyedAt.IsZero():
		return Destroyed, "", ""
	case r.Wish == WishDestroy:
		return Destroying, "", ""
	case r.Failure != "":
		return Failed, r.Failure, ""
	case r.Wish == WishHalt && !on && !k.starting: // whose place is free
		return Stopped, k.use.why(k.m.config.IdleStop), ""
	case r.Wish == WishHalt, k.use.leaving, r.Boot == BootRestart && on:
		return Stopping, "", ""
	case !on && k.starting:
		return Booting, "", StageDisk
	case !on:
		return Pending, "", ""
	case k.machine.State == MachinePaused && k.machine.Cause == CauseUnknown && time.Since(k.pausedAt) < pauseExplained:
		return Running, "The machine stands still, and it is not known yet why.", stageOf(k.agent)
	case k.machine.State == MachinePaused:
		return Failed, pausedReason(k.machine.Cause), ""
	case agent.Ready:
		return Running, "", StageReady
	case k.answered:
		return Running, waiting(k.agent, agent), stageOf(k.agent)
	case time.Since(k.bootedAt) > k.m.config.BootTimeout:
		return Running, waiting(k.agent, agent), stageOf(k.agent)
	}
	return Booting, waiting(k.agent, agent), stageOf(k.agent)
}

// waiting says what an agent that is not ready waits for.
func waiting(agent Agent, status AgentStatus) string {
	if agent == nil {
		return "The agent in the guest has not answered yet."
	}
	return status.Reason
}

func stageOf(agent Agent) Stage {
	if agent == nil {
		return StageMachine
	}
	return StageAgent
}

// address is the lease's, or else the first good one of those that the guest claims.
func address(lease string, claimed []string) *string {
	for _, s := range append([]string{lease}, claimed...) {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Is4() && !ip.IsLoopback() {
			s = ip.String()
			return &s
		}
	}
	return nil
}
