package desktop

import (
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"maps"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of a lease.
const (
	DefaultLease    = 5 * time.Minute
	MinLease        = time.Second
	MaxLease        = time.Hour
	MaxHolderLength = 100
)

const (
	leasePrefix = "lease_"
	leaseBytes  = 25 // 200 random bits, as a key has

	// inputGrace is how long a new lease waits for input that is being done, before it stops it.
	inputGrace = 2 * time.Second
	// inputEnd is how long input that was stopped may take to end.
	inputEnd = 5 * time.Second
	// commandBegins is how long after its request a command has surely begun.
	commandBegins = time.Second
)

// Lease is somebody's right to be alone at a desktop's input until it expires: a person takes over
// from programs and agents. While it is held everybody else's input and commands are refused as
// Locked, those of the same key, too; pictures stay allowed. It is the lease's token that tells its
// holder from others, since a person's browser and the person's agent may have one key.
type Lease struct {
	Holder    string    `json:"holder" doc:"Who holds it, in words" example:"ada@example.org"`
	UserID    string    `json:"userId,omitempty" doc:"Id of the user who took it; absent for the operator"`
	KeyID     string    `json:"keyId,omitempty" doc:"Id of the key that it was taken with; absent for the operator"`
	TakenAt   time.Time `json:"takenAt"`
	ExpiresAt time.Time `json:"expiresAt" doc:"When it ends, unless it is renewed or ended before"`
}

// LeaseRecord is a lease as it is kept: its token as a hash, for the reasons that HashKey gives. The
// zero value is none.
type LeaseRecord struct {
	Lease
	TokenHash string
}

// heldAt tells whether it is a lease that has not expired.
func (l LeaseRecord) heldAt(t time.Time) bool { return l.TokenHash != "" && t.Before(l.ExpiresAt) }

// opens tells whether a token is the lease's own.
func (l LeaseRecord) opens(token string) bool {
	return token != "" && subtle.ConstantTimeCompare([]byte(hashLease(token)), []byte(l.TokenHash)) == 1
}

// hashLease is of a token, which is as random as a key is.
func hashLease(token string) string { return hex.EncodeToString(HashKey(token)) }

// locked is the refusal of everybody but the holder.
func (l LeaseRecord) locked() *Error {
	e := Errorf(Locked, "%s holds the desktop's input until %s", l.Holder, l.ExpiresAt.Format(time.RFC3339))
	e.Details = map[string]any{"holder": l.Holder, "expiresAt": l.ExpiresAt}
	return e
}

// TakeLease takes the lease of a desktop's input and returns it with its token, which is kept
// nowhere. It returns when nobody else's input is being done any more: what is under way has a moment
// to end and is then stopped. Commands that run go on, as all programs of the desktop do.
//
// A caller with the token of the present lease renews it, and the token stays. For all others it is
// Locked while it is held. An empty holder is named after the caller, a zero duration is DefaultLease.
func (m *Manager) TakeLease(ctx context.Context, caller Caller, id, holder string, duration time.Duration) (Lease, string, error) {
	k, err := m.find(caller, id)
	if err != nil {
		return Lease{}, "", err
	}
	if duration == 0 {
		duration = DefaultLease
	}
	if duration < MinLease || duration > MaxLease {
		return Lease{}, "", Errorf(Invalid, "a lease lasts from %s to %s", MinLease, MaxLease)
	}
	if holder == "" {
		holder = caller.name()
	}
	if utf8.RuneCountInString(holder) > MaxHolderLength {
		return Lease{}, "", Errorf(Invalid, "holder is longer than %d characters", MaxHolderLength)
	}
	if !utf8.ValidString(holder) || strings.ContainsFunc(holder, unicode.IsControl) {
		return Lease{}, "", Errorf(Invalid, "holder has control characters")
	}
	token, renewed := leasePrefix+randomBase32(leaseBytes), false
	var taken LeaseRecord
	err = k.change(ctx, func(r *Record) error {
		began := now()
		if r.Wish == WishDestroy {
			return Errorf(Conflict, "the desktop is being destroyed")
		}
		if renewed = r.Lease.heldAt(began) && r.Lease.opens(caller.Lease); renewed {
			r.Lease.ExpiresAt, token = began.Add(duration), caller.Lease
		} else if r.Lease.heldAt(began) {
			return r.Lease.locked()
		} else {
			r.Lease = LeaseRecord{
				Lease:     Lease{Holder: holder, UserID: caller.User.ID, KeyID: caller.Key.ID, TakenAt: began, ExpiresAt: began.Add(duration)},
				TokenHash: hashLease(token),
			}
		}
		taken = r.Lease
		return nil
	})
	if err != nil {
		return Lease{}, "", err
	}
	if !renewed {
		if err := k.clearInput(ctx, taken); err != nil {
			// Nobody will have the token: the lease would only be in the way.
			return Lease{}, "", errors.Join(err, k.endLease(context.WithoutCancel(ctx), taken.TokenHash))
		}
		k.log.Info("input lease taken", "user", taken.UserID, "key", taken.KeyID, "until", taken.ExpiresAt)
	}
	return taken.Lease, token, nil
}

// ReleaseLease ends the lease of a desktop's input, whoever holds it: the holder gives it back, and
// the desktop's owner can always have it back. Where there is none nothing happens.
func (m *Manager) ReleaseLease(ctx context.Context, caller Caller, id string) error {
	k, err := m.find(caller, id)
	if err != nil {
		return err
	}
	return k.endLease(ctx, k.record().Lease.TokenHash)
}

// endLease ends the lease of that token's hash; a later one stays.
func (k *keeper) endLease(ctx context.Context, hash string) error {
	return k.change(ctx, func(r *Record) error {
		if hash == "" || r.Lease.TokenHash != hash {
			return errUnchanged
		}
		r.Lease = LeaseRecord{}
		return nil
	})
}

// name is how a caller is called who gives no name.
func (c Caller) name() string {
	switch {
	case c.Local:
		return "the operator"
	case c.Key.Name != "":
		return cmp.Or(c.User.Email, c.User.ID) + " (" + c.Key.Name + ")"
	}
	return cmp.Or(c.User.Email, c.User.ID)
}

// underway is input, or a command's beginning, that is being done.
type underway struct {
	lease   string // hash of the token that it came with; "" without one
	command bool
	began   time.Time
	stop    context.CancelCauseFunc
	ended   chan struct{}
}

// input does something to a desktop's input, unless somebody else holds the lease. Whoever takes the
// lease meanwhile ends ctx; the error is Locked then.
func (k *keeper) input(ctx context.Context, caller Caller, do func(context.Context) error) error {
	return k.admit(ctx, caller, false, do)
}

// command runs something that a lease taken meanwhile leaves alone.
func (k *keeper) command(ctx context.Context, caller Caller, do func(context.Context) error) error {
	return k.admit(ctx, caller, true, do)
}

// admit looks at the lease and notes what begins in one step, so that a lease is taken either before,
// and is respected, or after, and waits: nothing slips in between.
func (k *keeper) admit(ctx context.Context, caller Caller, command bool, do func(context.Context) error) error {
	defer k.inUse()()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	began := time.Now()
	one := &underway{command: command, began: began, stop: stop, ended: make(chan struct{})}
	defer close(one.ended)

	k.mu.Lock()
	if lease := k.rec.Lease; lease.heldAt(began) {
		if !lease.opens(caller.Lease) {
			k.mu.Unlock()
			return lease.locked()
		}
		one.lease = lease.TokenHash
	}
	if k.inputs == nil {
		k.inputs = make(map[*underway]struct{})
	}
	k.inputs[one] = struct{}{}
	k.doings++
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		delete(k.inputs, one)
		k.doings++
		k.mu.Unlock()
	}()

	err := do(ctx)
	var locked *Error
	if err == nil || !errors.As(context.Cause(ctx), &locked) || locked.Code != Locked {
		return err
	}
	told := *locked
	told.Details = maps.Clone(locked.Details)
	var stopped *Error
	if errors.As(err, &stopped) { // where a batch was stopped
		maps.Copy(told.Details, stopped.Details)
	}
	return &told
}

// clearInput returns when nothing is being done any more that came without the lease.
func (k *keeper) clearInput(ctx context.Context, lease LeaseRecord) error {
	k.mu.Lock()
	agent := k.agent
	var others []*underway
	for one := range k.inputs {
		if one.lease != lease.TokenHash {
			others = append(others, one)
		}
	}
	k.mu.Unlock()
	grace, stopped := time.Now().Add(inputGrace), false
	for _, one := range others {
		patience := grace
		if one.command {
			patience = one.began.Add(commandBegins)
		}
		ended, err := one.endsBy(ctx, patience)
		if err == nil && !ended && !one.command {
			one.stop(lease.locked())
			stopped = true
			ended, err = one.endsBy(ctx, time.Now().Add(inputEnd))
		}
		if err != nil {
			return err
		}
		if !ended && !one.command {
			return Errorf(Unavailable, "input that is being done on the desktop does not end; try again")
		}
	}
	if stopped && agent != nil {
		// The guest hears of it a moment later. It does one thing at a time: nothing comes after all.
		if _, err := agent.Act(ctx); err != nil {
			return err
		}
	}
	return nil
}

// endsBy waits for the end, and tells whether it came in time.
func (u *underway) endsBy(ctx context.Context, deadline time.Time) (bool, error) {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-u.ended:
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	case <-timer.C:
		return false, nil
	}
}
