package apitest

import (
	"cmp"
	"context"
	"fmt"
	"image"
	"image/color"
	"slices"
	"strings"
	"sync"
	"time"

	"bureau/assistant/provider"
	"bureau/desktop"
)

// World is a domain in memory: desktops that do at once what is asked of them, users and keys. It
// is what the API's own tests talk to; it keeps what the domain promises the API, and no more.
type World struct {
	mu        sync.Mutex
	desktops  []desktop.Desktop // in the order of their making
	users     []desktop.User
	keys      map[string]desktop.Key // by secret
	providers []provider.Provider
	acted     []desktop.Action
	ran       []desktop.Exec
	settles   []time.Duration
	windows   []desktop.Window
	clip      string
	size      desktop.Size // of every desktop's display
	next      int
	leases    map[string]string // tokens, by desktop

	// Frames is what the display shows; set it anew, never change it.
	Shown *desktop.Frame
	// Restless is a display that never comes to rest.
	Restless bool
	// Fail, when not nil, is asked before each call, by the name of the method.
	Fail func(method string) error
	// Left is what no desktop owns.
	Left desktop.Orphans
	// OnExec, when not nil, stands in for a command's run.
	OnExec func(ctx context.Context, command desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error)
}

// Epoch is when everything in a World was made.
var Epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// DisplaySize is that of a World's desktops until it is changed.
var DisplaySize = desktop.Size{Width: 320, Height: 200}

// NewWorld makes an empty one.
func NewWorld() *World {
	return &World{keys: map[string]desktop.Key{}, leases: map[string]string{}, size: DisplaySize,
		windows: []desktop.Window{
			{ID: 7, Title: "Töpfe", Class: "Thunar", Kind: "normal", X: 10, Y: 20, Width: 100, Height: 80, Focused: true},
			{ID: 9, Title: "Desktop", Class: "Xfdesktop", Kind: "desktop", Width: 320, Height: 200, Workspace: -1},
		},
		Shown: Frame(1, color.RGBA{40, 80, 120, 255})}
}

// Frame is a display of one colour, with a pointer on it.
func Frame(serial uint64, c color.RGBA) *desktop.Frame {
	pixels := image.NewRGBA(image.Rect(0, 0, DisplaySize.Width, DisplaySize.Height))
	for i := 0; i < len(pixels.Pix); i += 4 {
		pixels.Pix[i], pixels.Pix[i+1], pixels.Pix[i+2], pixels.Pix[i+3] = c.R, c.G, c.B, c.A
	}
	pointer := image.NewRGBA(image.Rect(0, 0, 2, 2))
	for i := range pointer.Pix {
		pointer.Pix[i] = 255
	}
	return &desktop.Frame{Serial: serial, Pixels: pixels, Source: desktop.SourceDBus,
		Cursor: &desktop.Cursor{Image: pointer, Position: image.Pt(10, 10)}}
}

func (w *World) enter(method string) error {
	if w.Fail != nil {
		return w.Fail(method)
	}
	return nil
}

// AddUser makes a user.
func (w *World) AddUser(id string) desktop.User {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := desktop.User{ID: id, Email: id + "@example.org", Role: desktop.RoleUser, Tier: "free", CreatedAt: Epoch}
	w.users = append(w.users, u)
	return u
}

// AddKey makes a key of a user and returns its secret.
func (w *World) AddKey(user string, change func(*desktop.Key), capabilities ...desktop.Capability) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	secret := fmt.Sprintf("sk_live_%032d", w.next)
	k := desktop.Key{ID: fmt.Sprint("key-", w.next), UserID: user, Name: "test", Prefix: secret[:12],
		Capabilities: append([]desktop.Capability{}, capabilities...), CreatedAt: Epoch}
	if change != nil {
		change(&k)
	}
	w.keys[secret] = k
	return secret
}

// AddDesktop makes a desktop that runs and is ready.
func (w *World) AddDesktop(id, owner string) desktop.Desktop {
	w.mu.Lock()
	defer w.mu.Unlock()
	address := "192.0.2.10"
	d := desktop.Desktop{ID: id, Name: id, Owner: owner, Status: desktop.Running, Tier: "free", Image: "desktop",
		IPAddress: &address, AgentReady: true, BootStage: desktop.StageReady, Network: desktop.NetworkNAT, Acceleration: desktop.TCG,
		VCPUs: 2, MemoryBytes: 4 << 30, DiskBytes: 20 << 30, CreatedAt: Epoch, UpdatedAt: Epoch}
	w.desktops = append(w.desktops, d)
	return d
}

// SetStatus puts a desktop into another status.
func (w *World) SetStatus(id string, status desktop.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.desktops {
		if w.desktops[i].ID == id {
			w.desktops[i].Status, w.desktops[i].AgentReady = status, status == desktop.Running
		}
	}
}

// Acted is what input has been done so far.
func (w *World) Acted() []desktop.Action {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.acted)
}

// Ran is what commands have been run so far.
func (w *World) Ran() []desktop.Exec {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.ran)
}

// Settles are the times for which it was waited for the display to come to rest.
func (w *World) Settles() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.settles)
}

// find is a desktop that the caller may know of. The lock is held.
func (w *World) find(caller desktop.Caller, id string) (*desktop.Desktop, error) {
	for i := range w.desktops {
		if d := &w.desktops[i]; d.ID == id && caller.Owns(d.Owner) && d.Status != desktop.Destroyed {
			return d, nil
		}
	}
	return nil, desktop.Errorf(desktop.NotFound, "there is no desktop %s", id)
}

// usable is one that can be controlled now. The lock is held.
func (w *World) usable(caller desktop.Caller, id string) error {
	d, err := w.find(caller, id)
	if err != nil {
		return err
	}
	if d.Status != desktop.Running || !d.AgentReady {
		failure := desktop.Errorf(desktop.Unavailable, "desktop %s is %s", id, d.Status)
		failure.RetryAfter = 1500 * time.Millisecond
		return failure
	}
	return nil
}

// free is nil when the caller may use the desktop's input. The lock is held.
func (w *World) free(caller desktop.Caller, id string) error {
	d, err := w.find(caller, id)
	if err != nil || d.Lease == nil || caller.Lease == w.leases[id] {
		return err
	}
	failure := desktop.Errorf(desktop.Locked, "%s holds the desktop's input", d.Lease.Holder)
	failure.Details = map[string]any{"holder": d.Lease.Holder, "expiresAt": d.Lease.ExpiresAt}
	return failure
}

func (w *World) TakeLease(_ context.Context, caller desktop.Caller, id, holder string, duration time.Duration) (desktop.Lease, string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.enter("TakeLease"); err != nil {
		return desktop.Lease{}, "", err
	}
	if err := w.free(caller, id); err != nil {
		return desktop.Lease{}, "", err
	}
	d, err := w.find(caller, id)
	if err != nil {
		return desktop.Lease{}, "", err
	}
	if d.Lease == nil {
		w.next++
		w.leases[id] = fmt.Sprint("lease_", w.next)
		d.Lease = &desktop.Lease{Holder: cmp.Or(holder, caller.User.Email), UserID: caller.User.ID, KeyID: caller.Key.ID, TakenAt: Epoch}
	}
	lease := *d.Lease // which others may be reading
	lease.ExpiresAt = Epoch.Add(cmp.Or(duration, desktop.DefaultLease))
	d.Lease = &lease
	return lease, w.leases[id], nil
}

func (w *World) ReleaseLease(_ context.Context, caller desktop.Caller, id string) error {
	_, err := w.change("ReleaseLease", caller, id, func(d *desktop.Desktop) error {
		d.Lease = nil
		return nil
	})
	return err
}

func (w *World) List(_ context.Context, caller desktop.Caller, page desktop.Page) ([]desktop.Desktop, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.enter("List"); err != nil {
		return nil, false, err
	}
	var list []desktop.Desktop
	past := page.After == ""
	for _, d := range w.desktops {
		if past && caller.Owns(d.Owner) && d.Status != desktop.Destroyed {
			list = append(list, d)
		}
		past = past || d.ID == page.After && caller.Owns(d.Owner)
	}
	if !past {
		return nil, false, desktop.Errorf(desktop.Invalid, "after is not the id of a desktop: %s", page.After)
	}
	if page.Limit > 0 && len(list) > page.Limit {
		return list[:page.Limit], true, nil
	}
	return list, false, nil
}

// All implements api.Desktops.
func (w *World) All() []desktop.Desktop {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.desktops), func(d desktop.Desktop) bool { return d.Status == desktop.Destroyed })
}

// Change changes a desktop, as the appliance does of itself.
func (w *World) Change(id string, change func(*desktop.Desktop)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.desktops {
		if w.desktops[i].ID == id {
			change(&w.desktops[i])
		}
	}
}

func (w *World) Get(_ context.Context, caller desktop.Caller, id string) (desktop.Desktop, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.enter("Get"); err != nil {
		return desktop.Desktop{}, err
	}
	d, err := w.find(caller, id)
	if err != nil {
		return desktop.Desktop{}, err
	}
	return *d, nil
}

func (w *World) Create(ctx context.Context, caller desktop.Caller, draft desktop.Draft) (desktop.Desktop, error) {
	w.mu.Lock()
	err := w.enter("Create")
	w.next++
	id := fmt.Sprint("dt-new", w.next)
	w.mu.Unlock()
	if err != nil {
		return desktop.Desktop{}, err
	}
	owner := caller.User.ID
	if caller.Local {
		owner = draft.Owner
	}
	w.AddDesktop(id, owner)
	if draft.Prepare != nil {
		if err := draft.Prepare(ctx, id); err != nil {
			w.SetStatus(id, desktop.Destroyed)
			return desktop.Desktop{}, err
		}
	}
	return w.change("", caller, id, func(d *desktop.Desktop) error {
		d.Status, d.AgentReady, d.BootStage, d.IPAddress = desktop.Pending, false, "", nil
		d.KeepAlive, d.Approval, d.Agent = draft.KeepAlive, draft.Approval, draft.Agent
		if draft.Name != "" {
			d.Name = draft.Name
		}
		if draft.Start != nil && !*draft.Start {
			d.Status = desktop.Stopped
		}
		return nil
	})
}

// change is what all changes of one desktop have in common.
func (w *World) change(method string, caller desktop.Caller, id string, do func(*desktop.Desktop) error) (desktop.Desktop, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if method != "" {
		if err := w.enter(method); err != nil {
			return desktop.Desktop{}, err
		}
	}
	d, err := w.find(caller, id)
	if err != nil {
		return desktop.Desktop{}, err
	}
	if err := do(d); err != nil {
		return desktop.Desktop{}, err
	}
	return *d, nil
}

func (w *World) Update(_ context.Context, caller desktop.Caller, id string, change desktop.Change) (desktop.Desktop, error) {
	return w.change("Update", caller, id, func(d *desktop.Desktop) error {
		if change.Name != nil {
			d.Name = *change.Name
		}
		if change.KeepAlive != nil {
			d.KeepAlive = *change.KeepAlive
		}
		if change.Approval != nil {
			d.Approval = *change.Approval
		}
		if change.Agent != nil {
			d.Agent = *change.Agent
		}
		return nil
	})
}

// become puts a desktop into a status, unless it is on its way out.
func (w *World) become(method string, caller desktop.Caller, id string, status desktop.Status) (desktop.Desktop, error) {
	return w.change(method, caller, id, func(d *desktop.Desktop) error {
		if d.Status == desktop.Destroying {
			return desktop.Errorf(desktop.Conflict, "desktop %s is destroying", id)
		}
		d.Status, d.AgentReady = status, false
		return nil
	})
}

func (w *World) Start(_ context.Context, caller desktop.Caller, id string) (desktop.Desktop, error) {
	return w.become("Start", caller, id, desktop.Booting)
}

func (w *World) Stop(_ context.Context, caller desktop.Caller, id string) (desktop.Desktop, error) {
	return w.become("Stop", caller, id, desktop.Stopping)
}

func (w *World) Restart(_ context.Context, caller desktop.Caller, id string) (desktop.Desktop, error) {
	return w.become("Restart", caller, id, desktop.Stopping)
}

func (w *World) Destroy(_ context.Context, caller desktop.Caller, id string) error {
	_, err := w.become("Destroy", caller, id, desktop.Destroyed)
	return err
}

func (w *World) Orphans(context.Context, desktop.Caller) (desktop.Orphans, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return desktop.Orphans{Machines: slices.Clone(w.Left.Machines), Volumes: slices.Clone(w.Left.Volumes)}, w.enter("Orphans")
}

func (w *World) RemoveOrphan(_ context.Context, _ desktop.Caller, volume string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.Left.Volumes, func(v desktop.Volume) bool { return v.Name == volume })
	if i < 0 {
		return desktop.Errorf(desktop.NotFound, "no volume %s is without an owner", volume)
	}
	w.Left.Volumes = slices.Delete(w.Left.Volumes, i, i+1)
	return w.enter("RemoveOrphan")
}

func (w *World) Adopt(_ context.Context, caller desktop.Caller, name, owner string) (desktop.Desktop, error) {
	w.mu.Lock()
	i := slices.IndexFunc(w.Left.Machines, func(s desktop.Stranger) bool { return s.DesktopID == name || s.Domain == name })
	if i < 0 {
		w.mu.Unlock()
		return desktop.Desktop{}, desktop.Errorf(desktop.NotFound, "no machine %s is without a record", name)
	}
	s := w.Left.Machines[i]
	w.Left.Machines = slices.Delete(w.Left.Machines, i, i+1)
	w.mu.Unlock()
	return w.AddDesktop(s.DesktopID, cmp.Or(owner, s.Owner)), nil
}

func (w *World) Act(_ context.Context, caller desktop.Caller, id string, actions ...desktop.Action) (desktop.Acted, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.enter("Act"); err != nil {
		return desktop.Acted{}, err
	}
	if err := w.usable(caller, id); err != nil {
		return desktop.Acted{}, err
	}
	if err := w.free(caller, id); err != nil && len(actions) > 0 {
		return desktop.Acted{}, err
	}
	at := desktop.Point{X: 10, Y: 10}
	for i, action := range actions {
		if action.Press != nil && slices.Contains(action.Press.Keys, "nokey") {
			failure := desktop.Errorf(desktop.Invalid, "there is no key nokey")
			if len(actions) > 1 {
				failure.Details = map[string]any{"index": i, "done": 0}
			}
			return desktop.Acted{}, failure
		}
		switch {
		case action.Click != nil && action.Click.X != nil:
			at = desktop.Point{X: *action.Click.X, Y: *action.Click.Y}
		case action.Move != nil:
			at = desktop.Point{X: action.Move.X, Y: action.Move.Y}
		}
		if at.X < 0 || at.Y < 0 || at.X >= w.size.Width || at.Y >= w.size.Height {
			failure := desktop.Errorf(desktop.Invalid, "%d,%d is outside the display, which is %dx%d", at.X, at.Y, w.size.Width, w.size.Height)
			failure.Details = map[string]any{"display": w.size}
			return desktop.Acted{}, failure
		}
	}
	w.acted = append(w.acted, actions...)
	return desktop.Acted{Cursor: at, Display: w.size, TookMs: 1.5}, nil
}

func (w *World) Exec(ctx context.Context, caller desktop.Caller, id string, command desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
	w.mu.Lock()
	err := w.enter("Exec")
	if err == nil {
		err = w.usable(caller, id)
	}
	if err == nil {
		err = w.free(caller, id)
	}
	if err == nil {
		w.ran = append(w.ran, command)
	}
	run := w.OnExec
	w.mu.Unlock()
	if err != nil {
		return desktop.ExecResult{}, err
	}
	if run != nil {
		return run(ctx, command, output)
	}
	result := desktop.ExecResult{Stdout: "out: " + command.Script + "\n", Stderr: "err\n", ExitCode: 3, DurationMs: 4.5}
	if output != nil {
		output(desktop.Stdout, []byte(result.Stdout))
		output(desktop.Stderr, []byte(result.Stderr))
		result.Stdout, result.Stderr = "", ""
	}
	return result, nil
}

func (w *World) See(_ context.Context, caller desktop.Caller, id string, settle time.Duration) (desktop.Sight, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.enter("See"); err != nil {
		return desktop.Sight{}, err
	}
	if err := w.usable(caller, id); err != nil {
		return desktop.Sight{}, err
	}
	w.settles = append(w.settles, settle)
	sight := desktop.Sight{Frame: w.Shown}
	if settle > 0 {
		sight.Settled, sight.Waited = !w.Restless, min(settle, 120*time.Millisecond)
		sight.Changed = time.Now().Add(-sight.Waited)
		if w.Restless {
			sight.Waited, sight.Changed = settle, time.Time{}
		}
	}
	return sight, nil
}

func (w *World) ActAndSee(ctx context.Context, caller desktop.Caller, id string, settle time.Duration, actions ...desktop.Action) (*desktop.Acted, desktop.Sight, error) {
	acted, err := w.Act(ctx, caller, id, actions...)
	if err != nil {
		return nil, desktop.Sight{}, err
	}
	sight, err := w.See(ctx, caller, id, settle)
	return &acted, sight, err
}

// session does something in a desktop's session.
func (w *World) session(method string, caller desktop.Caller, id string, do func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.enter(method); err != nil {
		return err
	}
	if err := w.usable(caller, id); err != nil {
		return err
	}
	if err := w.free(caller, id); err != nil && method != "Windows" && method != "Clipboard" {
		return err
	}
	return do()
}

// window is one by its id. The lock is held.
func (w *World) window(id uint32) (int, error) {
	for i := range w.windows {
		if w.windows[i].ID == id {
			return i, nil
		}
	}
	return 0, desktop.Errorf(desktop.NotFound, "there is no window %d", id)
}

func (w *World) Windows(_ context.Context, caller desktop.Caller, id string) (list []desktop.Window, err error) {
	err = w.session("Windows", caller, id, func() error {
		list = slices.Clone(w.windows)
		return nil
	})
	return list, err
}

func (w *World) ActivateWindow(_ context.Context, caller desktop.Caller, id string, window uint32) error {
	return w.session("ActivateWindow", caller, id, func() error {
		at, err := w.window(window)
		for i := range w.windows {
			w.windows[i].Focused = err == nil && i == at
		}
		return err
	})
}

func (w *World) CloseWindow(_ context.Context, caller desktop.Caller, id string, window uint32) error {
	return w.session("CloseWindow", caller, id, func() error {
		at, err := w.window(window)
		if err == nil {
			w.windows = slices.Delete(w.windows, at, at+1)
		}
		return err
	})
}

func (w *World) Clipboard(_ context.Context, caller desktop.Caller, id string) (text string, err error) {
	err = w.session("Clipboard", caller, id, func() error {
		text = w.clip
		return nil
	})
	return text, err
}

func (w *World) SetClipboard(_ context.Context, caller desktop.Caller, id, text string) error {
	return w.session("SetClipboard", caller, id, func() error {
		w.clip = text
		return nil
	})
}

func (w *World) Resize(_ context.Context, caller desktop.Caller, id string, size desktop.Size) error {
	return w.session("Resize", caller, id, func() error {
		if size.Width%8 != 0 {
			return desktop.Errorf(desktop.Invalid, "this display's width is a multiple of 8")
		}
		w.size = size
		return nil
	})
}

func (w *World) Ready(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.enter("Ready")
}

func (w *World) Authenticate(_ context.Context, secret string) (desktop.Caller, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.enter("Authenticate"); err != nil {
		return desktop.Caller{}, err
	}
	k, ok := w.keys[secret]
	if !ok || k.RevokedAt != nil || k.ExpiresAt != nil && !k.ExpiresAt.After(time.Now()) {
		return desktop.Caller{}, desktop.Errorf(desktop.Unauthenticated, "the key is unknown, revoked or expired")
	}
	u, err := w.user(k.UserID)
	return desktop.Caller{User: u, Key: k}, err
}

// user finds one by id or e-mail address. The lock is held.
func (w *World) user(name string) (desktop.User, error) {
	for _, u := range w.users {
		if u.ID == name || strings.EqualFold(u.Email, name) {
			return u, nil
		}
	}
	return desktop.User{}, desktop.Errorf(desktop.NotFound, "there is no user %s", name)
}

func (w *World) CreateUser(_ context.Context, email string, role desktop.Role, tier string) (desktop.User, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.enter("CreateUser"); err != nil {
		return desktop.User{}, err
	}
	if _, err := w.user(email); err == nil {
		return desktop.User{}, desktop.Errorf(desktop.Conflict, "there is a user %s already", email)
	}
	w.next++
	u := desktop.User{ID: fmt.Sprint("usr-new", w.next), Email: email, Role: role, Tier: tier, CreatedAt: Epoch}
	w.users = append(w.users, u)
	return u, nil
}

func (w *World) UpdateUser(_ context.Context, user string, change desktop.UserChange) (desktop.User, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.enter("UpdateUser"); err != nil {
		return desktop.User{}, err
	}
	u, err := w.user(user)
	if err != nil {
		return desktop.User{}, err
	}
	if change.Role != nil {
		u.Role = *change.Role
	}
	if change.Tier != nil {
		u.Tier = *change.Tier
	}
	w.users[slices.IndexFunc(w.users, func(other desktop.User) bool { return other.ID == u.ID })] = u
	return u, nil
}

func (w *World) Users(context.Context) ([]desktop.User, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.users), w.enter("Users")
}

func (w *World) CreateKey(_ context.Context, user, name string, capabilities []desktop.Capability, expiresAt *time.Time) (desktop.Key, string, error) {
	w.mu.Lock()
	u, err := w.user(user)
	w.mu.Unlock()
	if err != nil {
		return desktop.Key{}, "", err
	}
	secret := w.AddKey(u.ID, func(k *desktop.Key) { k.Name, k.ExpiresAt = name, expiresAt }, capabilities...)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.keys[secret], secret, w.enter("CreateKey")
}

func (w *World) Keys(_ context.Context, user string) ([]desktop.Key, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := ""
	if user != "" {
		u, err := w.user(user)
		if err != nil {
			return nil, err
		}
		id = u.ID
	}
	var list []desktop.Key
	for _, k := range w.keys {
		if id == "" || k.UserID == id {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, func(a, b desktop.Key) int { return strings.Compare(a.ID, b.ID) })
	return list, w.enter("Keys")
}

func (w *World) RevokeKey(_ context.Context, id string) (desktop.Key, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.enter("RevokeKey"); err != nil {
		return desktop.Key{}, err
	}
	for secret, k := range w.keys {
		if k.ID == id {
			if k.RevokedAt == nil {
				now := Epoch
				k.RevokedAt = &now
				w.keys[secret] = k
			}
			return k, nil
		}
	}
	return desktop.Key{}, desktop.Errorf(desktop.NotFound, "there is no key %s", id)
}

// HostState is what a World's host has.
var HostState = func() desktop.HostState {
	of := func(n int64) *int64 { return &n }
	return desktop.HostState{
		Memory:   desktop.Resource{Total: 16 << 30, Available: of(9 << 30), Limit: of(23 << 30), Reserved: 4 << 30, Free: of(19 << 30)},
		VCPUs:    desktop.Resource{Total: 4, Limit: of(32), Reserved: 2, Free: of(30)},
		Disk:     desktop.Resource{Total: 1 << 40, Available: of(1 << 39), Reserved: 20 << 30},
		Desktops: 1, Running: 1,
	}
}()

func (w *World) Host(context.Context) (desktop.HostState, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return HostState, w.enter("Host")
}
