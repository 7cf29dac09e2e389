package desktop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Config is how a Manager works. Zero durations take the defaults.
type Config struct {
	Tiers        []Tier
	DefaultTier  string // of an administrator's draft that names none
	DefaultImage string
	Network      string // of a draft that names none

	StopGrace   time.Duration // for an orderly shutdown, then the machine is turned off
	BootTimeout time.Duration // after it a machine counts as running without its agent
	ScreenIdle  time.Duration // an unwatched display is let go after it
	// Boots is how many machines are turned on at the same time; more wait as pending.
	Boots int

	Capacity Capacity
	// IdleStop is how long nobody may use a desktop before it is stopped, unless it is kept alive; 0 is
	// for ever.
	IdleStop time.Duration
	Now      func() time.Time // by which idleness is measured; time.Now when nil
}

// Default durations of a Config.
const (
	DefaultStopGrace   = 30 * time.Second
	DefaultBootTimeout = 5 * time.Minute
	DefaultScreenIdle  = 30 * time.Second
	defaultBoots       = 4
)

// Manager makes what is wanted of desktops true and keeps it true.
//
// A request changes the desktop's record, durably, and wakes the desktop's keeper: one goroutine
// that compares record and machine and takes the next step towards the wish. It is woken also by the
// hypervisor's events, the agent's, and a slow timer, and it starts from nothing but those two
// truths. So a crash at any point is no special case: the keepers of the next process look and
// go on. Control requests do not pass through the keeper and never queue behind a boot.
type Manager struct {
	machines  Machines
	store     Store
	connector AgentConnector
	config    Config
	log       *slog.Logger
	boots     chan struct{} // a place for each machine that may be starting

	// ctx ends when the Manager is closed; it bounds everything the keepers do.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// admission is held by whoever makes sure that there is room for a desktop, until its wish is kept.
	// It is taken before any other lock.
	admission sync.Mutex

	mu        sync.Mutex
	keepers   map[string]*keeper
	strangers map[string]bool // machines without a record that the operator was told of
}

// NewManager makes a Manager and takes up all desktops of the store.
func NewManager(ctx context.Context, machines Machines, store Store, connector AgentConnector, config Config, log *slog.Logger) (*Manager, error) {
	if config.StopGrace == 0 {
		config.StopGrace = DefaultStopGrace
	}
	if config.BootTimeout == 0 {
		config.BootTimeout = DefaultBootTimeout
	}
	if config.ScreenIdle == 0 {
		config.ScreenIdle = DefaultScreenIdle
	}
	if config.Boots == 0 {
		config.Boots = defaultBoots
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	records, err := store.Desktops(ctx, Page{})
	if err != nil {
		return nil, fmt.Errorf("reading the desktops: %w", err)
	}
	m := &Manager{
		machines:  machines,
		store:     store,
		connector: connector,
		config:    config,
		log:       log,
		boots:     make(chan struct{}, config.Boots),
		keepers:   make(map[string]*keeper),
		strangers: make(map[string]bool),
	}
	look := m.look(ctx)
	m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	m.mu.Lock()
	for _, record := range records {
		m.keep(record, look(record.ID))
	}
	m.mu.Unlock()
	if config.IdleStop > 0 {
		if err := m.resumeUses(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("reading when the desktops were last used: %w", err), m.Close())
		}
		m.wg.Go(m.watchIdle)
	}
	m.wg.Go(m.watch)
	m.wg.Go(m.shareProcessors)
	m.wg.Go(m.reportStrangers)
	return m, nil
}

// Close stops managing and waits for what is under way. Machines that run go on running.
func (m *Manager) Close() error {
	m.cancel()
	m.wg.Wait()
	return nil
}

// look sees what all machines do, so that no desktop is said to be what its machine is not before
// its keeper has looked. While the hypervisor is away nothing is known.
func (m *Manager) look(ctx context.Context) func(id string) Machine {
	machines, err := m.machines.List(ctx)
	if err != nil {
		m.log.Warn("what the machines do is not known yet", "error", err)
		return func(string) Machine { return Machine{} }
	}
	seen := make(map[string]Machine, len(machines))
	for _, machine := range machines {
		seen[machine.ID] = machine
	}
	return func(id string) Machine {
		if machine, ok := seen[id]; ok {
			return machine
		}
		return Machine{ID: id, State: MachineAbsent}
	}
}

// keep starts a record's keeper and returns the desktop as it was before the first step. machine is
// what is known of its machine, the zero value when nothing is. m.mu must be held.
func (m *Manager) keep(record Record, machine Machine) Desktop {
	k := newKeeper(m, record)
	if machine.State != "" {
		k.see(machine)
	}
	d := k.desktop()
	m.keepers[record.ID] = k
	m.wg.Go(k.run)
	return d
}

// watch wakes the keepers whose machines changed, and tells of machines that have none.
func (m *Manager) watch() {
	for id := range m.machines.Watch(m.ctx) {
		m.mu.Lock()
		known := id == ""
		for keeperID, k := range m.keepers {
			if id == "" || id == keeperID {
				known = true
				k.wake()
			}
		}
		m.mu.Unlock()
		if id == "" {
			m.reportStrangers()
		} else if !known {
			m.reportStranger(id)
		}
	}
}

// find is the keeper of a desktop that the caller may know of.
func (m *Manager) find(caller Caller, id string) (*keeper, error) {
	m.mu.Lock()
	k := m.keepers[id]
	m.mu.Unlock()
	if k == nil || k.isGone() || !caller.Owns(k.record().Owner) {
		return nil, Errorf(NotFound, "there is no desktop %s", truncate(id, 64))
	}
	return k, nil
}

// List is a page of the caller's desktops, everybody's for the local operator, and whether more
// follow.
func (m *Manager) List(ctx context.Context, caller Caller, page Page) ([]Desktop, bool, error) {
	if !caller.Local {
		page.Owner = caller.User.ID
	}
	limit := page.Limit
	if limit > 0 {
		page.Limit++
	}
	records, err := m.store.Desktops(ctx, page)
	if err != nil {
		return nil, false, err
	}
	more := limit > 0 && len(records) > limit
	if more {
		records = records[:limit]
	}
	desktops := make([]Desktop, 0, len(records))
	for _, record := range records {
		if k, err := m.find(caller, record.ID); err == nil {
			desktops = append(desktops, k.desktop())
		}
	}
	return desktops, more, nil
}

// Get is one desktop.
func (m *Manager) Get(_ context.Context, caller Caller, id string) (Desktop, error) {
	k, err := m.find(caller, id)
	if err != nil {
		return Desktop{}, err
	}
	return k.desktop(), nil
}

// All is everybody's desktops as they are now, from memory.
func (m *Manager) All() []Desktop {
	m.mu.Lock()
	keepers := slices.Collect(maps.Values(m.keepers))
	m.mu.Unlock()
	list := make([]Desktop, 0, len(keepers))
	for _, k := range keepers {
		if !k.isGone() {
			list = append(list, k.desktop())
		}
	}
	return list
}

// Create keeps a new desktop and, unless the draft says otherwise, begins to boot it. Where the draft
// has a Prepare there is no desktop before that has succeeded, nor after it has failed. It is Exhausted
// when the host has no room for the desktop, Conflict when the owner may have no more.
func (m *Manager) Create(ctx context.Context, caller Caller, draft Draft) (Desktop, error) {
	record, tier, err := m.plan(ctx, caller, draft)
	if err != nil {
		return Desktop{}, err
	}
	// What is begun is not cut off by a caller who goes: it is done, or nothing is.
	if err := ctx.Err(); err != nil {
		return Desktop{}, err
	}
	d, err := m.admitNew(context.WithoutCancel(ctx), record, tier, draft.Prepare)
	if err == nil {
		m.log.Info("desktop created", "desktop", record.ID, "owner", record.Owner, "name", record.Name, "image", record.Image)
	}
	return d, err
}

// insert keeps a new record and starts its keeper, once everything that belongs to it is prepared.
func (m *Manager) insert(ctx context.Context, record Record, limit int, prepare func(ctx context.Context, id string) error) (Desktop, error) {
	wish, boot := record.Wish, record.Boot
	if prepare != nil {
		// Until everything is there it is on its way out: after a crash the next process undoes it.
		record.Wish, record.Boot = WishDestroy, BootNone
	}
	if err := m.store.InsertDesktop(ctx, record, limit); err != nil {
		return Desktop{}, err
	}
	if prepare != nil {
		if err := prepare(ctx, record.ID); err != nil {
			m.take(record, Machine{}) // which destroys it
			return Desktop{}, err
		}
		whole, err := m.store.UpdateDesktop(ctx, record.ID, func(r *Record) error {
			r.Wish, r.Boot = wish, boot
			return nil
		})
		if err != nil {
			m.take(record, Machine{})
			return Desktop{}, err
		}
		record = whole
	}
	d, ok := m.take(record, Machine{ID: record.ID, State: MachineAbsent})
	if !ok {
		return Desktop{}, errClosing // the next process takes the record up
	}
	return d, nil
}

// take starts a new record's keeper, unless the Manager is being closed. machine is as for keep.
func (m *Manager) take(record Record, machine Machine) (Desktop, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return Desktop{}, false
	}
	return m.keep(record, machine), true
}

var errClosing = &Error{Code: Unavailable, Message: "the appliance is shutting down", RetryAfter: 5 * time.Second}

// plan fills in a draft. The tier is the owner's, whose limits count.
func (m *Manager) plan(ctx context.Context, caller Caller, draft Draft) (record Record, ownerTier Tier, err error) {
	owner := caller.User
	if draft.Owner != "" {
		if !caller.Local {
			return Record{}, Tier{}, Errorf(Invalid, "owner can only be named on the administration socket")
		}
		if owner, err = findUser(ctx, m.store, draft.Owner); err != nil {
			if CodeOf(err) == NotFound {
				return Record{}, Tier{}, Errorf(Invalid, "owner: %w", err)
			}
			return Record{}, Tier{}, err
		}
	} else if caller.Local {
		if owner, err = firstAdmin(ctx, m.store); err != nil {
			return Record{}, Tier{}, err
		}
	}
	ownerTier, err = findTier(m.config.Tiers, owner.Tier)
	if err != nil {
		return Record{}, Tier{}, err
	}
	fallback := owner.Tier
	if owner.Role == RoleAdmin { // whose own tier is the largest, for the number of desktops
		fallback = m.config.DefaultTier
	}
	tier, err := findTier(m.config.Tiers, cmp.Or(draft.Tier, fallback))
	if err != nil {
		return Record{}, Tier{}, err
	}
	if !caller.Local && tier.exceeds(ownerTier) {
		return Record{}, Tier{}, Errorf(Invalid, "tier %s is larger than yours, which is %s", tier.Name, ownerTier.Name)
	}
	created := now()
	record = Record{
		ID:          NewID(),
		Owner:       owner.ID,
		Name:        draft.Name,
		Tier:        tier.Name,
		Image:       draft.Image,
		Network:     draft.Network,
		VCPUs:       tier.VCPUs,
		MemoryBytes: tier.MemoryBytes,
		DiskBytes:   tier.DiskBytes,
		KeepAlive:   draft.KeepAlive,
		Approval:    draft.Approval,
		Agent:       draft.Agent,
		Wish:        WishRun,
		Boot:        BootStart,
		CreatedAt:   created,
		UpdatedAt:   created,
	}
	if record.Name == "" {
		record.Name = "desktop-" + record.ID[len("dt-"):][:4]
	}
	for _, check := range []func() error{
		func() error { return CheckName(record.Name) }, record.Approval.Check, record.Agent.Check,
	} {
		if err := check(); err != nil {
			return Record{}, Tier{}, err
		}
	}
	if record.Image == "" {
		record.Image = m.config.DefaultImage
	}
	if record.Network == "" {
		record.Network = m.config.Network
	}
	if draft.Size != nil {
		if err := resize(&record, *draft.Size, tier, caller.Local); err != nil {
			return Record{}, Tier{}, err
		}
	}
	if draft.Start != nil && !*draft.Start {
		record.Wish, record.Boot = WishHalt, BootNone
	}
	image, err := m.machines.Image(ctx, record.Image)
	if err != nil {
		if CodeOf(err) == NotFound {
			return Record{}, Tier{}, Errorf(Invalid, "image: %w", err)
		}
		return Record{}, Tier{}, err
	}
	record.ImageDigest = image.Digest
	record.DiskBytes = max(record.DiskBytes, image.DiskBytes)
	return record, ownerTier, nil
}

const (
	minMemory = 256 << 20
	minDisk   = 1 << 30
)

// resize applies sizes that differ from the tier's. Only the local operator may exceed them.
func resize(record *Record, sizes Sizes, tier Tier, unlimited bool) error {
	for _, s := range []struct {
		name           string
		want, min, max int64
		set            func(int64)
	}{
		{"vcpus", int64(sizes.VCPUs), 1, int64(tier.VCPUs), func(n int64) { record.VCPUs = int(n) }},
		{"memoryBytes", sizes.MemoryBytes, minMemory, tier.MemoryBytes, func(n int64) { record.MemoryBytes = n }},
		{"diskBytes", sizes.DiskBytes, minDisk, tier.DiskBytes, func(n int64) { record.DiskBytes = n }},
	} {
		switch {
		case s.want == 0:
		case s.want < s.min:
			return Errorf(Invalid, "size.%s is less than %d", s.name, s.min)
		case s.want > s.max && !unlimited:
			return Errorf(Invalid, "size.%s is more than the %d of tier %s", s.name, s.max, tier.Name)
		default:
			s.set(s.want)
		}
	}
	return nil
}

// Update changes what may be changed of a desktop in any state.
func (m *Manager) Update(ctx context.Context, caller Caller, id string, change Change) (Desktop, error) {
	if change.Name != nil {
		if err := CheckName(*change.Name); err != nil {
			return Desktop{}, err
		}
	}
	if change.Approval != nil {
		if err := change.Approval.Check(); err != nil {
			return Desktop{}, err
		}
	}
	if change.Agent != nil {
		if err := change.Agent.Check(); err != nil {
			return Desktop{}, err
		}
	}
	return m.request(ctx, caller, id, func(_ *keeper, r *Record) error {
		if change.Approval != nil {
			r.Approval = *change.Approval
		}
		if change.Agent != nil {
			r.Agent = *change.Agent
		}
		if change.Name != nil {
			r.Name = *change.Name
		}
		if change.KeepAlive != nil {
			r.KeepAlive = *change.KeepAlive
		}
		return nil
	})
}

// Start asks for a desktop to run. One that does, or is about to, is left as it is; one that is paused
// goes on. A shutdown that the guest was asked for cannot be taken back: it is waited for, and the
// desktop started then. It is Exhausted when the host has no room for it.
func (m *Manager) Start(ctx context.Context, caller Caller, id string) (Desktop, error) {
	return m.requestRun(ctx, caller, id, func(k *keeper, r *Record) error {
		if r.Wish == WishRun && r.Failure == "" && !k.paused() {
			return errUnchanged
		}
		boot := BootStart
		if r.Wish == WishHalt && !k.isOff() {
			boot = BootRestart
		}
		r.Wish, r.Boot, r.Failure = WishRun, boot, ""
		return nil
	})
}

// Stop asks for an orderly shutdown, forced after the grace period.
func (m *Manager) Stop(ctx context.Context, caller Caller, id string) (Desktop, error) {
	return m.request(ctx, caller, id, func(_ *keeper, r *Record) error {
		if r.Wish == WishHalt && r.Failure == "" {
			return errUnchanged
		}
		r.Wish, r.Boot, r.Failure = WishHalt, BootNone, ""
		return nil
	})
}

// Restart asks for a stop and then a start.
func (m *Manager) Restart(ctx context.Context, caller Caller, id string) (Desktop, error) {
	return m.requestRun(ctx, caller, id, func(_ *keeper, r *Record) error {
		r.Wish, r.Boot, r.Failure = WishRun, BootRestart, ""
		return nil
	})
}

// destroyWait bounds how long Destroy waits.
const destroyWait = time.Minute

// Destroy turns a desktop off, deletes its disk, and returns when both are done. When that takes
// long the error is Unavailable; then, and when ctx ends first, it happens all the same.
func (m *Manager) Destroy(ctx context.Context, caller Caller, id string) error {
	k, err := m.find(caller, id)
	if err != nil {
		return err
	}
	err = k.change(ctx, func(r *Record) error {
		if r.Wish == WishDestroy && r.Failure == "" {
			return errUnchanged
		}
		r.Wish, r.Boot, r.Failure = WishDestroy, BootNone, ""
		return nil
	})
	if err != nil {
		return err
	}
	return k.awaitDestroyed(ctx)
}

// errUnchanged leaves a record as it is; the request succeeds.
var errUnchanged = errors.New("unchanged")

// request changes a desktop's record and wakes its keeper.
func (m *Manager) request(ctx context.Context, caller Caller, id string, change func(*keeper, *Record) error) (Desktop, error) {
	k, err := m.find(caller, id)
	if err != nil {
		return Desktop{}, err
	}
	err = k.change(ctx, func(r *Record) error {
		if r.Wish == WishDestroy {
			return Errorf(Conflict, "the desktop is %s", k.desktop().Status)
		}
		if err := change(k, r); err != nil {
			return err
		}
		r.UpdatedAt = now()
		return nil
	})
	if err != nil {
		return Desktop{}, err
	}
	k.asked()
	return k.desktop(), nil
}

// Act does actions on a desktop, as Agent.Act does.
func (m *Manager) Act(ctx context.Context, caller Caller, id string, actions ...Action) (Acted, error) {
	k, agent, err := m.ready(caller, id)
	if err != nil {
		return Acted{}, err
	}
	if len(actions) == 0 { // which only tells where the pointer is
		return agent.Act(ctx)
	}
	var acted Acted
	err = k.input(ctx, caller, func(ctx context.Context) (err error) {
		acted, err = agent.Act(ctx, actions...)
		return err
	})
	return acted, err
}

// Exec runs a command on a desktop, as Agent.Exec does.
func (m *Manager) Exec(ctx context.Context, caller Caller, id string, command Exec, output func(Stream, []byte)) (ExecResult, error) {
	k, agent, err := m.ready(caller, id)
	if err != nil {
		return ExecResult{}, err
	}
	var result ExecResult
	err = k.command(ctx, caller, func(ctx context.Context) (err error) {
		result, err = agent.Exec(ctx, command, output)
		return err
	})
	return result, err
}

// Windows lists a desktop's windows, as Agent.Windows does.
func (m *Manager) Windows(ctx context.Context, caller Caller, id string) ([]Window, error) {
	_, agent, err := m.ready(caller, id)
	if err != nil {
		return nil, err
	}
	return agent.Windows(ctx)
}

// ActivateWindow gives a window of a desktop the focus, as Agent.ActivateWindow does.
func (m *Manager) ActivateWindow(ctx context.Context, caller Caller, id string, window uint32) error {
	k, agent, err := m.ready(caller, id)
	if err != nil {
		return err
	}
	return k.input(ctx, caller, func(ctx context.Context) error { return agent.ActivateWindow(ctx, window) })
}

// CloseWindow asks for a window of a desktop to be closed, as Agent.CloseWindow does.
func (m *Manager) CloseWindow(ctx context.Context, caller Caller, id string, window uint32) error {
	k, agent, err := m.ready(caller, id)
	if err != nil {
		return err
	}
	return k.input(ctx, caller, func(ctx context.Context) error { return agent.CloseWindow(ctx, window) })
}

// Clipboard is the text on a desktop's clipboard, as Agent.Clipboard gives it.
func (m *Manager) Clipboard(ctx context.Context, caller Caller, id string) (string, error) {
	_, agent, err := m.ready(caller, id)
	if err != nil {
		return "", err
	}
	return agent.Clipboard(ctx)
}

// SetClipboard puts a text on a desktop's clipboard, as Agent.SetClipboard does.
func (m *Manager) SetClipboard(ctx context.Context, caller Caller, id, text string) error {
	k, agent, err := m.ready(caller, id)
	if err != nil {
		return err
	}
	return k.input(ctx, caller, func(ctx context.Context) error { return agent.SetClipboard(ctx, text) })
}

// Resize gives a desktop's display a size, as Agent.Resize does.
func (m *Manager) Resize(ctx context.Context, caller Caller, id string, size Size) error {
	if size.Width > MaxDisplaySide || size.Height > MaxDisplaySide || size.Width*size.Height > MaxDisplayPixels {
		return Errorf(Invalid, "a display of %dx%d is too large: it may have %d pixels", size.Width, size.Height, MaxDisplayPixels)
	}
	k, agent, err := m.ready(caller, id)
	if err != nil {
		return err
	}
	return k.input(ctx, caller, func(ctx context.Context) error { return agent.Resize(ctx, size) })
}

// Frame is the present picture of a desktop whose machine is on, also before its agent is ready.
func (m *Manager) Frame(ctx context.Context, caller Caller, id string) (*Frame, error) {
	k, err := m.find(caller, id)
	if err != nil {
		return nil, err
	}
	return k.frame(ctx)
}

// ready is the keeper and the agent of a desktop that can be controlled; Unavailable otherwise.
func (m *Manager) ready(caller Caller, id string) (*keeper, Agent, error) {
	k, err := m.find(caller, id)
	if err != nil {
		return nil, nil, err
	}
	agent, err := k.readyAgent()
	if err == nil {
		k.touch()
	}
	return k, agent, err
}

// Ready tells whether the appliance can serve: its store and its hypervisor answer.
func (m *Manager) Ready(ctx context.Context) error {
	if _, err := m.store.Users(ctx); err != nil {
		return fmt.Errorf("the store: %w", err)
	}
	if _, err := m.machines.List(ctx); err != nil {
		return fmt.Errorf("the hypervisor: %w", err)
	}
	return nil
}
