package desktop

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// mouse is an agent's input: it notes whose action was done when, and can be held in the middle of one.
type mouse struct {
	mu    sync.Mutex // actions are never interleaved
	moved []int      // the X of each Move that was done, in order
	hold  atomic.Pointer[chan struct{}]
	began chan struct{} // receives when a held action has begun
}

func (m *mouse) act(ctx context.Context, actions ...Action) (Acted, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, action := range actions {
		if hold := m.hold.Load(); hold != nil {
			m.began <- struct{}{}
			select {
			case <-*hold:
			case <-ctx.Done():
				return Acted{}, &Error{Code: Unavailable, Message: "cut short", Details: map[string]any{"index": i, "done": i}}
			}
		}
		if action.Move != nil {
			m.moved = append(m.moved, action.Move.X)
		}
	}
	return Acted{Cursor: Point{1, 2}}, nil
}

func (m *mouse) log() []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]int{}, m.moved...)
}

func moveTo(x int) Action { return Action{Move: &Move{X: x}} }

// leased is an appliance with a desktop that is ready, whose input is a mouse.
func leased(t *testing.T) (*appliance, *mouse, string) {
	m := &mouse{began: make(chan struct{}, 10)}
	a := newApplianceWith(t, fakeAgents{act: m.act, exec: func(context.Context) (ExecResult, error) { return ExecResult{}, nil }})
	d := a.create(ann, Draft{Name: "one"})
	a.await(d.ID, ready)
	return a, m, d.ID
}

func (a *appliance) take(c Caller, id string) Caller {
	a.t.Helper()
	_, token, err := a.TakeLease(a.t.Context(), c, id, "", 0)
	if err != nil {
		a.t.Fatal(err)
	}
	c.Lease = token
	return c
}

func TestLease(t *testing.T) {
	a, m, id := leased(t)
	ctx := t.Context()
	if d, err := a.Get(ctx, ann, id); err != nil || d.Lease != nil {
		t.Fatalf("before: %+v, %v", d.Lease, err)
	}
	withKey := ann
	withKey.User.Email, withKey.Key = "ann@example.org", Key{ID: "key-1", Name: "browser"}
	lease, token, err := a.TakeLease(ctx, withKey, id, "", 0)
	if err != nil || lease.Holder != "ann@example.org (browser)" || lease.KeyID != "key-1" || lease.UserID != ann.User.ID ||
		lease.ExpiresAt.Sub(lease.TakenAt) != DefaultLease || !strings.HasPrefix(token, "lease_") {
		t.Fatalf("%+v, %q, %v", lease, token, err)
	}
	if d, _ := a.Get(ctx, ann, id); d.Lease == nil || *d.Lease != lease {
		t.Errorf("the desktop says %+v, want %+v", d.Lease, lease)
	}
	if r := a.store.record(id); strings.Contains(r.Lease.TokenHash, token) || r.Lease.TokenHash == "" {
		t.Errorf("kept: %+v", r.Lease)
	}

	// Everything that controls is refused without the token, with the same key, to the operator and
	// with a wrong token; looking is not.
	wrong := ann
	wrong.Lease = "lease_wrong"
	for name, c := range map[string]Caller{"same key": withKey, "no key": ann, "operator": local, "wrong token": wrong} {
		for what, do := range map[string]func() error{
			"Act":            func() error { _, err := a.Act(ctx, c, id, moveTo(9)); return err },
			"ActAndSee":      func() error { _, _, err := a.ActAndSee(ctx, c, id, 0, moveTo(9)); return err },
			"Exec":           func() error { _, err := a.Exec(ctx, c, id, Exec{Script: "true"}, nil); return err },
			"SetClipboard":   func() error { return a.SetClipboard(ctx, c, id, "x") },
			"ActivateWindow": func() error { return a.ActivateWindow(ctx, c, id, 1) },
			"CloseWindow":    func() error { return a.CloseWindow(ctx, c, id, 1) },
			"Resize":         func() error { return a.Resize(ctx, c, id, Size{640, 480}) },
			"TakeLease":      func() error { _, _, err := a.TakeLease(ctx, c, id, "me", 0); return err },
		} {
			var refusal *Error
			if err := do(); !errors.As(err, &refusal) || refusal.Code != Locked || refusal.Details["holder"] != lease.Holder ||
				refusal.Details["expiresAt"] != lease.ExpiresAt || !strings.Contains(refusal.Message, lease.Holder) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		for what, do := range map[string]func() error{
			"See":              func() error { _, err := a.See(ctx, c, id, 0); return err },
			"Act of no action": func() error { _, err := a.Act(ctx, c, id); return err },
			"Clipboard":        func() error { _, err := a.Clipboard(ctx, c, id); return err },
			"Update":           func() error { _, err := a.Update(ctx, c, id, Change{}); return err },
		} {
			if err := do(); err != nil {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
	holder := withKey
	holder.Lease = token
	if _, err := a.Act(ctx, holder, id, moveTo(1)); err != nil {
		t.Errorf("the holder's Act: %v", err)
	}
	if _, err := a.Exec(ctx, holder, id, Exec{}, nil); err != nil {
		t.Errorf("the holder's Exec: %v", err)
	}
	if got := m.log(); len(got) != 1 || got[0] != 1 {
		t.Errorf("the pointer was moved to %v", got)
	}

	// Others do not know of it, and cannot end it.
	if _, _, err := a.TakeLease(ctx, bob, id, "", 0); CodeOf(err) != NotFound {
		t.Errorf("a stranger's TakeLease: %v", err)
	}
	if err := a.ReleaseLease(ctx, bob, id); CodeOf(err) != NotFound {
		t.Errorf("a stranger's ReleaseLease: %v", err)
	}

	// The holder renews it; the token stays.
	renewed, again, err := a.TakeLease(ctx, holder, id, "", MaxLease)
	if err != nil || again != token || renewed.TakenAt != lease.TakenAt || !renewed.ExpiresAt.After(lease.ExpiresAt) {
		t.Errorf("renewed: %+v, %v", renewed, err)
	}

	// It survives the process.
	a.Close()
	a.open()
	a.await(id, ready)
	if _, err := a.Act(ctx, ann, id, moveTo(9)); CodeOf(err) != Locked {
		t.Errorf("Act in the next process: %v", err)
	}
	if _, err := a.Act(ctx, holder, id, moveTo(2)); err != nil {
		t.Errorf("the holder's Act in the next process: %v", err)
	}

	// The owner ends it, with any key, and it may be ended twice.
	for range 2 {
		if err := a.ReleaseLease(ctx, ann, id); err != nil {
			t.Fatal(err)
		}
	}
	if d, _ := a.Get(ctx, ann, id); d.Lease != nil {
		t.Errorf("after: %+v", d.Lease)
	}
	for _, c := range []Caller{ann, holder} { // an old token is no worse than none
		if _, err := a.Act(ctx, c, id, moveTo(3)); err != nil {
			t.Errorf("Act after the end: %v", err)
		}
	}
}

func TestLeaseIsBounded(t *testing.T) {
	a, _, id := leased(t)
	for _, duration := range []time.Duration{-1, MinLease - 1, MaxLease + 1} {
		if _, _, err := a.TakeLease(t.Context(), ann, id, "", duration); CodeOf(err) != Invalid {
			t.Errorf("for %s: %v", duration, err)
		}
	}
	for _, holder := range []string{strings.Repeat("x", MaxHolderLength+1), "a\nb", "\xff"} {
		if _, _, err := a.TakeLease(t.Context(), ann, id, holder, 0); CodeOf(err) != Invalid {
			t.Errorf("for %q: %v", holder, err)
		}
	}
}

func TestLeaseExpires(t *testing.T) {
	a, _, id := leased(t)
	holder := a.take(ann, id)
	_, err := a.store.UpdateDesktop(t.Context(), id, func(r *Record) error {
		r.Lease.ExpiresAt = now().Add(-time.Millisecond)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	a.open() // which takes up the lease as it is kept
	d := a.await(id, ready)
	if d.Lease != nil {
		t.Errorf("an expired lease is shown: %+v", d.Lease)
	}
	if _, err := a.Act(t.Context(), ann, id, moveTo(1)); err != nil {
		t.Errorf("Act after the lease has expired: %v", err)
	}
	if next := a.take(holder, id); next.Lease == holder.Lease {
		t.Error("an expired lease was renewed")
	}
	if _, err := a.Act(t.Context(), holder, id, moveTo(1)); CodeOf(err) != Locked {
		t.Errorf("Act with the token of the lease before: %v", err)
	}
}

// TestNothingMovesUnderALease lets ten clients move the pointer as fast as they can: once the lease
// is had, only its holder does.
func TestNothingMovesUnderALease(t *testing.T) {
	a, m, id := leased(t)
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var refused atomic.Int64
	for range 10 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if _, err := a.Act(ctx, ann, id, moveTo(0)); CodeOf(err) == Locked {
					refused.Add(1)
				}
			}
		})
	}
	eventually(t, func() bool { return len(m.log()) > 100 }, func() any { return len(m.log()) })
	for round := 1; round <= 20; round++ {
		holder := a.take(ann, id)
		before := len(m.log())
		for range 5 {
			if _, err := a.Act(ctx, holder, id, moveTo(round)); err != nil {
				t.Fatal(err)
			}
		}
		want := refused.Load() + 10
		eventually(t, func() bool { return refused.Load() > want }, func() any { return refused.Load() })
		for _, x := range m.log()[before:] {
			if x != round {
				t.Fatalf("round %d: somebody else moved the pointer", round)
			}
		}
		if err := a.ReleaseLease(ctx, ann, id); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { log := m.log(); return log[len(log)-1] == 0 }, func() any { return "given back" })
	}
	cancel()
	clients.Wait()
}

// TestLeaseStopsWhatIsBeingDone: input under way ends in its own time if that is short, and is
// stopped otherwise, which its caller is told.
func TestLeaseStopsWhatIsBeingDone(t *testing.T) {
	a, m, id := leased(t)
	for _, patient := range []bool{true, false} {
		hold := make(chan struct{})
		m.hold.Store(&hold)
		before := len(m.log())
		acted := make(chan error, 1)
		go func() {
			_, err := a.Act(t.Context(), ann, id, moveTo(7), moveTo(8))
			acted <- err
		}()
		<-m.began
		if patient {
			m.hold.Store(nil)
			close(hold)
		}
		holder := a.take(ann, id)
		m.hold.Store(nil)
		done := len(m.log()) - before
		switch err := <-acted; {
		case patient && (err != nil || done != 2):
			t.Errorf("%d actions were done, %v", done, err)
		case !patient:
			var stopped *Error
			if !errors.As(err, &stopped) || stopped.Code != Locked || stopped.Details["holder"] != ann.User.ID || stopped.Details["index"] != 0 || done != 0 {
				t.Errorf("%d actions were done, %v", done, err)
			}
		}
		if _, err := a.Act(t.Context(), holder, id, moveTo(1)); err != nil {
			t.Error(err)
		}
		if err := a.ReleaseLease(t.Context(), holder, id); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLeaseLeavesCommandsAlone: a command that runs is a program of the desktop.
func TestLeaseLeavesCommandsAlone(t *testing.T) {
	began, end := make(chan struct{}), make(chan struct{})
	a := newApplianceWith(t, fakeAgents{exec: func(ctx context.Context) (ExecResult, error) {
		close(began)
		select {
		case <-end:
			return ExecResult{ExitCode: 3}, nil
		case <-ctx.Done():
			return ExecResult{}, ctx.Err()
		}
	}})
	id := a.create(ann, Draft{Name: "one"}).ID
	a.await(id, ready)
	type outcome struct {
		ExecResult
		error
	}
	ran := make(chan outcome, 1)
	go func() {
		result, err := a.Exec(t.Context(), ann, id, Exec{}, nil)
		ran <- outcome{result, err}
	}()
	<-began
	a.take(ann, id)
	close(end)
	if got := <-ran; got.error != nil || got.ExitCode != 3 {
		t.Errorf("the command ended with %+v", got)
	}
}

// TestLeaseThatIsNotHad: whoever gives up waiting for it leaves no lease behind.
func TestLeaseThatIsNotHad(t *testing.T) {
	a, m, id := leased(t)
	hold := make(chan struct{})
	m.hold.Store(&hold)
	acted := make(chan error, 1)
	go func() {
		_, err := a.Act(t.Context(), ann, id, moveTo(7))
		acted <- err
	}()
	<-m.began
	ctx, cancel := context.WithCancel(t.Context())
	taken := make(chan error, 1)
	go func() {
		_, _, err := a.TakeLease(ctx, ann, id, "", 0)
		taken <- err
	}()
	a.await(id, func(d Desktop) bool { return d.Lease != nil })
	cancel()
	if err := <-taken; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if d, _ := a.Get(t.Context(), ann, id); d.Lease != nil {
		t.Errorf("left behind: %+v", d.Lease)
	}
	close(hold)
	if err := <-acted; err != nil {
		t.Errorf("the input ended with %v", err)
	}
}
