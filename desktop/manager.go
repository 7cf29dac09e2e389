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

	mu      sync.Mutex
	keepers map[string]*keeper
}

// NewManager makes a Manager and takes up all desktops of the store. It returns at once; the
// desktops' states become known as their keepers look.
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
	}
	m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	m.mu.Lock()
	for _, record := range records {
		m.keep(record)
	}
	m.mu.Unlock()
	m.wg.Go(m.watch)
	m.wg.Go(m.reportStrangers)
	return m, nil
}

// Close stops managing and waits for what is under way. Machines that run go on running.
func (m *Manager) Close() error {
	m.cancel()
	m.wg.Wait()
	return nil
}

// keep starts a record's keeper and returns the desktop as it was before the first step. m.mu must
// be held.
func (m *Manager) keep(record Record) Desktop {
	k := newKeeper(m, record)
	d := k.desktop()
	m.keepers[record.ID] = k
	m.wg.Go(k.run)
	return d
}

// watch wakes the keepers whose machines changed.
func (m *Manager) watch() {
	for id := range m.machines.Watch(m.ctx) {
		m.mu.Lock()
		for keeperID, k := range m.keepers {
			if id == "" || id == keeperID {
				k.wake()
			}
		}
		m.mu.Unlock()
	}
}

// reportStrangers tells the operator of machines that carry a desktop's id but have no record: a
// lost database, or another appliance's. They are left alone.
func (m *Manager) reportStrangers() {
	machines, err := m.machines.List(m.ctx)
	if err != nil {
		m.log.Warn("listing the machines failed", "error", err)
		return
	}
	for _, machine := range machines {
		m.mu.Lock()
		_, known := m.keepers[machine.ID]
		m.mu.Unlock()
		if !known {
			m.log.Warn("a machine has no record here and is left alone",
				"desktop", machine.ID, "owner", machine.Owner, "name", machine.Name, "state", machine.State)
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

// Create keeps a new desktop and, unless the draft says otherwise, begins to boot it.
func (m *Manager) Create(ctx context.Context, caller Caller, draft Draft) (Desktop, error) {
	record, limit, err := m.plan(ctx, caller, draft)
	if err != nil {
		return Desktop{}, err
	}
	if err := m.store.InsertDesktop(ctx, record, limit); err != nil {
		return Desktop{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return Desktop{}, errClosing // the next process takes the record up
	}
	m.log.Info("desktop created", "desktop", record.ID, "owner", record.Owner, "name", record.Name, "image", record.Image)
	return m.keep(record), nil
}

var errClosing = &Error{Code: Unavailable, Message: "the appliance is shutting down", RetryAfter: 5 * time.Second}

// plan fills in a draft. The limit is how many desktops the owner may have.
func (m *Manager) plan(ctx context.Context, caller Caller, draft Draft) (record Record, limit int, err error) {
	owner := caller.User
	if draft.Owner != "" {
		if !caller.Local {
			return Record{}, 0, Errorf(Invalid, "owner can only be named on the administration socket")
		}
		if owner, err = findUser(ctx, m.store, draft.Owner); err != nil {
			if CodeOf(err) == NotFound {
				return Record{}, 0, Errorf(Invalid, "owner: %w", err)
			}
			return Record{}, 0, err
		}
	} else if caller.Local {
		if owner, err = firstAdmin(ctx, m.store); err != nil {
			return Record{}, 0, err
		}
	}
	ownerTier, err := findTier(m.config.Tiers, owner.Tier)
	if err != nil {
		return Record{}, 0, err
	}
	fallback := owner.Tier
	if owner.Role == RoleAdmin { // whose own tier is the largest, for the number of desktops
		fallback = m.config.DefaultTier
	}
	tier, err := findTier(m.config.Tiers, cmp.Or(draft.Tier, fallback))
	if err != nil {
		return Record{}, 0, err
	}
	if !caller.Local && tier.exceeds(ownerTier) {
		return Record{}, 0, Errorf(Invalid, "tier %s is larger than yours, which is %s", tier.Name, ownerTier.Name)
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
			return Record{}, 0, err
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
			return Record{}, 0, err
		}
	}
	if draft.Start != nil && !*draft.Start {
		record.Wish, record.Boot = WishHalt, BootNone
	}
	image, err := m.machines.Image(ctx, record.Image)
	if err != nil {
		if CodeOf(err) == NotFound {
			return Record{}, 0, Errorf(Invalid, "image: %w", err)
		}
		return Record{}, 0, err
	}
	record.ImageDigest = image.Digest
	record.DiskBytes = max(record.DiskBytes, image.DiskBytes)
	return record, ownerTier.Desktops, nil
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
	return m.request(ctx, caller, id, func(r *Record) error {
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

// Start asks for a desktop to run. One that does, or is about to, is left as it is.
func (m *Manager) Start(ctx context.Context, caller Caller, id string) (Desktop, error) {
	return m.request(ctx, caller, id, func(r *Record) error {
		if r.Wish == WishRun && r.Failure == "" {
			return errUnchanged
		}
		r.Wish, r.Boot, r.Failure = WishRun, BootStart, ""
		return nil
	})
}

// Stop asks for an orderly shutdown, forced after the grace period.
func (m *Manager) Stop(ctx context.Context, caller Caller, id string) (Desktop, error) {
	return m.request(ctx, caller, id, func(r *Record) error {
		if r.Wish == WishHalt && r.Failure == "" {
			return errUnchanged
		}
		r.Wish, r.Boot, r.Failure = WishHalt, BootNone, ""
		return nil
	})
}

// Restart asks for a stop and then a start.
func (m *Manager) Restart(ctx context.Context, caller Caller, id string) (Desktop, error) {
	return m.request(ctx, caller, id, func(r *Record) error {
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
func (m *Manager) request(ctx context.Context, caller Caller, id string, change func(*Record) error) (Desktop, error) {
	k, err := m.find(caller, id)
	if err != nil {
		return Desktop{}, err
	}
	err = k.change(ctx, func(r *Record) error {
		if r.Wish == WishDestroy {
			return Errorf(Conflict, "the desktop is %s", k.desktop().Status)
		}
		if err := change(r); err != nil {
			return err
		}
		r.UpdatedAt = now()
		return nil
	})
	if err != nil {
		return Desktop{}, err
	}
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
