package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"bureau/desktop"
)

// open opens a database in a fresh folder whose name would break a careless data source name.
func open(t *testing.T) (*Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a folder?x=1&y#z%20", "bureau.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, path
}

// epoch is when everything in these tests began, with nanoseconds that must survive.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

func addUser(t *testing.T, s *Store, id string) desktop.User {
	t.Helper()
	u := desktop.User{ID: id, Email: id + "@Example.org", Role: desktop.RoleUser, Tier: "free", CreatedAt: epoch}
	if err := s.InsertUser(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	return u
}

func record(id, owner string, created time.Time) desktop.Record {
	return desktop.Record{ID: id, Owner: owner, Name: "Büro " + id, Tier: "pro", Image: "desktop", ImageDigest: "00ff",
		Network: desktop.NetworkNAT, VCPUs: 4, MemoryBytes: 8 << 30, DiskBytes: 40 << 30, KeepAlive: true,
		Approval: desktop.ApprovalPolicy{Shell: true, Patterns: []string{"rm"}}, Agent: desktop.ChatAgent{Kind: desktop.AgentCommand, Preset: desktop.PresetCodex},
		Wish: desktop.WishRun, Boot: desktop.BootRestart, Failure: "because", HasDisk: true, CreatedAt: created, UpdatedAt: created,
		Lease: desktop.LeaseRecord{TokenHash: "00ee", Lease: desktop.Lease{
			Holder: "Änne", UserID: "usr-1", KeyID: "key-1", TakenAt: epoch, ExpiresAt: epoch.Add(time.Minute)}}}
}

func wantCode(t *testing.T, err error, code desktop.Code) {
	t.Helper()
	var e *desktop.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("got error %v, want one of kind %s", err, code)
	}
}

func TestDesktopComesBackAsItWent(t *testing.T) {
	s, _ := open(t)
	addUser(t, s, "usr-1")
	want := record("dt-1", "usr-1", epoch.In(time.FixedZone("elsewhere", 3600)))
	if err := s.InsertDesktop(t.Context(), want, 0); err != nil {
		t.Fatal(err)
	}
	want.CreatedAt, want.UpdatedAt = epoch, epoch // the same moments, in UTC
	got, err := s.Desktop(t.Context(), "dt-1")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
	}

	changed, err := s.UpdateDesktop(t.Context(), "dt-1", func(r *desktop.Record) error {
		r.Name, r.KeepAlive, r.Boot, r.Failure, r.Wish = "other", false, desktop.BootNone, "", desktop.WishDestroy
		r.UpdatedAt, r.DestroyedAt, r.Lease = epoch.Add(time.Second), epoch.Add(2*time.Second), desktop.LeaseRecord{}
		r.ID, r.Owner = "dt-2", "usr-2" // which nobody may
		return nil
	})
	want.Name, want.KeepAlive, want.Boot, want.Failure, want.Wish = "other", false, desktop.BootNone, "", desktop.WishDestroy
	want.UpdatedAt, want.DestroyedAt, want.Lease = epoch.Add(time.Second), epoch.Add(2*time.Second), desktop.LeaseRecord{}
	if err != nil || !reflect.DeepEqual(changed, want) {
		t.Fatalf("got %+v, %v\nwant %+v", changed, err, want)
	}
	if got, err := s.Desktop(t.Context(), "dt-1"); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestRefusedChangeChangesNothing(t *testing.T) {
	s, _ := open(t)
	addUser(t, s, "usr-1")
	want := record("dt-1", "usr-1", epoch)
	if err := s.InsertDesktop(t.Context(), want, 0); err != nil {
		t.Fatal(err)
	}
	refusal := desktop.Errorf(desktop.Conflict, "not now")
	_, err := s.UpdateDesktop(t.Context(), "dt-1", func(r *desktop.Record) error {
		r.Name = "lost"
		return refusal
	})
	if err != error(refusal) {
		t.Errorf("got %v, want the very error of change", err)
	}
	if got, err := s.Desktop(t.Context(), "dt-1"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	_, err = s.UpdateDesktop(t.Context(), "dt-9", func(*desktop.Record) error { t.Error("called"); return nil })
	wantCode(t, err, desktop.NotFound)
	_, err = s.Desktop(t.Context(), "dt-9")
	wantCode(t, err, desktop.NotFound)
}

func TestDesktopsArePagedOldestFirst(t *testing.T) {
	s, _ := open(t)
	addUser(t, s, "usr-1")
	addUser(t, s, "usr-2")
	// b and c are of the same moment: the id decides. Inserted out of order on purpose.
	for _, d := range []struct {
		id, owner string
		age       time.Duration
	}{{"dt-c", "usr-1", 2}, {"dt-z", "usr-1", 1}, {"dt-b", "usr-1", 2}, {"dt-o", "usr-2", 2}, {"dt-a", "usr-1", 3}} {
		if err := s.InsertDesktop(t.Context(), record(d.id, d.owner, epoch.Add(d.age)), 0); err != nil {
			t.Fatal(err)
		}
	}
	list := func(page desktop.Page) string {
		t.Helper()
		records, err := s.Desktops(t.Context(), page)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, r := range records {
			ids = append(ids, r.ID)
		}
		return strings.Join(ids, " ")
	}
	check := func(page desktop.Page, want string) {
		t.Helper()
		if got := list(page); got != want {
			t.Errorf("%+v: got %q, want %q", page, got, want)
		}
	}
	check(desktop.Page{}, "dt-z dt-b dt-c dt-o dt-a")
	check(desktop.Page{Owner: "usr-1"}, "dt-z dt-b dt-c dt-a")
	check(desktop.Page{Owner: "usr-1", Limit: 2}, "dt-z dt-b")
	check(desktop.Page{Owner: "usr-1", After: "dt-b", Limit: 1}, "dt-c")
	check(desktop.Page{After: "dt-c"}, "dt-o dt-a")
	check(desktop.Page{Owner: "usr-3"}, "")

	// A destroyed desktop is in no list and still tells the place in it.
	if _, err := s.UpdateDesktop(t.Context(), "dt-b", func(r *desktop.Record) error {
		r.DestroyedAt = epoch
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	check(desktop.Page{Owner: "usr-1", After: "dt-b"}, "dt-c dt-a")
	check(desktop.Page{Owner: "usr-1"}, "dt-z dt-c dt-a")

	for _, page := range []desktop.Page{{After: "dt-9"}, {Owner: "usr-1", After: "dt-o"}} {
		_, err := s.Desktops(t.Context(), page)
		wantCode(t, err, desktop.Invalid)
	}
}

func TestLimitHoldsUnderConcurrency(t *testing.T) {
	s, _ := open(t)
	addUser(t, s, "usr-1")
	const limit, tries = 5, 40
	var (
		wait     sync.WaitGroup
		mu       sync.Mutex
		kept     []string
		conflict int
	)
	for i := range tries {
		wait.Go(func() {
			id := fmt.Sprintf("dt-%02d", i)
			err := s.InsertDesktop(t.Context(), record(id, "usr-1", epoch), limit)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				kept = append(kept, id)
			case desktop.CodeOf(err) == desktop.Conflict:
				conflict++
			default:
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if len(kept) != limit || conflict != tries-limit {
		t.Fatalf("%d kept and %d refused, want %d and %d", len(kept), conflict, limit, tries-limit)
	}
	// Destroying one makes room for one.
	if _, err := s.UpdateDesktop(t.Context(), kept[0], func(r *desktop.Record) error { r.DestroyedAt = epoch; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.InsertDesktop(t.Context(), record("dt-new", "usr-1", epoch), limit); err != nil {
		t.Error(err)
	}
	wantCode(t, s.InsertDesktop(t.Context(), record("dt-newer", "usr-1", epoch), limit), desktop.Conflict)
	wantCode(t, s.InsertDesktop(t.Context(), record("dt-new", "usr-1", epoch), 0), desktop.Conflict)
	wantCode(t, s.InsertDesktop(t.Context(), record("dt-orphan", "usr-9", epoch), 0), desktop.NotFound)
}

func TestConcurrentChangesAreNeverLost(t *testing.T) {
	s, _ := open(t)
	addUser(t, s, "usr-1")
	r := record("dt-1", "usr-1", epoch)
	r.VCPUs = 0
	if err := s.InsertDesktop(t.Context(), r, 0); err != nil {
		t.Fatal(err)
	}
	const writers, each = 8, 10
	var wait sync.WaitGroup
	for range writers {
		wait.Go(func() {
			for range each {
				if _, err := s.UpdateDesktop(t.Context(), "dt-1", func(r *desktop.Record) error { r.VCPUs++; return nil }); err != nil {
					t.Error(err)
				}
				if _, err := s.Desktops(t.Context(), desktop.Page{Owner: "usr-1"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if got, err := s.Desktop(t.Context(), "dt-1"); err != nil || got.VCPUs != writers*each {
		t.Errorf("got %d, %v, want %d", got.VCPUs, err, writers*each)
	}
}

func TestUsers(t *testing.T) {
	s, _ := open(t)
	one := addUser(t, s, "usr-1")
	two := addUser(t, s, "usr-2")
	if got, err := s.User(t.Context(), "usr-1"); err != nil || got != one {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := s.UserByEmail(t.Context(), "USR-2@example.ORG"); err != nil || got != two {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := s.Users(t.Context()); err != nil || !slices.Equal(got, []desktop.User{one, two}) {
		t.Errorf("got %+v, %v", got, err)
	}
	changed, err := s.UpdateUser(t.Context(), "usr-2", func(u *desktop.User) error {
		u.Role, u.Tier = desktop.RoleAdmin, "pro"
		return nil
	})
	two.Role, two.Tier = desktop.RoleAdmin, "pro"
	if got, _ := s.User(t.Context(), "usr-2"); err != nil || changed != two || got != two {
		t.Errorf("got %+v and %+v, %v", changed, got, err)
	}
	resign := func(u *desktop.User) error { u.Role = desktop.RoleUser; return nil }
	_, err = s.UpdateUser(t.Context(), "usr-2", resign)
	wantCode(t, err, desktop.Conflict)
	_, err = s.UpdateUser(t.Context(), "usr-2", func(u *desktop.User) error { u.Tier = "max"; return desktop.Errorf(desktop.Invalid, "no") })
	wantCode(t, err, desktop.Invalid)
	if got, _ := s.User(t.Context(), "usr-2"); got != two {
		t.Errorf("refused changes made it %+v", got)
	}
	_, err = s.UpdateUser(t.Context(), "usr-9", resign)
	wantCode(t, err, desktop.NotFound)
	again := one
	again.ID, again.Email = "usr-3", "usr-1@example.org"
	wantCode(t, s.InsertUser(t.Context(), again), desktop.Conflict)
	_, err = s.User(t.Context(), "usr-3")
	wantCode(t, err, desktop.NotFound)
	_, err = s.UserByEmail(t.Context(), "nobody@example.org")
	wantCode(t, err, desktop.NotFound)
}

func TestKeys(t *testing.T) {
	s, _ := open(t)
	user := addUser(t, s, "usr-1")
	addUser(t, s, "usr-2")
	expires := epoch.Add(time.Hour)
	key := desktop.Key{ID: "key-1", UserID: "usr-1", Name: "laptop", Prefix: "sk_live_abcd",
		Capabilities: []desktop.Capability{desktop.CanRead, desktop.CanControl}, CreatedAt: epoch, ExpiresAt: &expires}
	if err := s.InsertKey(t.Context(), key, []byte{1}); err != nil {
		t.Fatal(err)
	}
	bare := desktop.Key{ID: "key-2", UserID: "usr-2", Capabilities: []desktop.Capability{}, CreatedAt: epoch}
	if err := s.InsertKey(t.Context(), bare, []byte{2}); err != nil {
		t.Fatal(err)
	}
	show := func(k desktop.Key) string {
		at := func(t *time.Time) string {
			if t == nil {
				return "-"
			}
			return t.String()
		}
		return fmt.Sprint(k.ID, k.UserID, k.Name, k.Prefix, k.Capabilities, k.Capabilities == nil, k.CreatedAt,
			at(k.ExpiresAt), at(k.LastUsedAt), at(k.RevokedAt))
	}
	want := func(got, want desktop.Key) {
		t.Helper()
		if show(got) != show(want) {
			t.Errorf("got  %s\nwant %s", show(got), show(want))
		}
	}
	got, owner, err := s.KeyByHash(t.Context(), []byte{1})
	if err != nil || owner != user {
		t.Fatalf("got %+v, %v", owner, err)
	}
	want(got, key)
	_, _, err = s.KeyByHash(t.Context(), []byte{9})
	wantCode(t, err, desktop.NotFound)

	// The last use only moves forward.
	for _, at := range []time.Duration{5, 9, 7} {
		if err := s.TouchKey(t.Context(), "key-1", epoch.Add(at)); err != nil {
			t.Fatal(err)
		}
	}
	used := epoch.Add(9)
	key.LastUsedAt = &used
	// The first revocation counts.
	for _, at := range []time.Duration{20, 30} {
		got, err := s.RevokeKey(t.Context(), "key-1", epoch.Add(at))
		if err != nil {
			t.Fatal(err)
		}
		revoked := epoch.Add(20)
		key.RevokedAt = &revoked
		want(got, key)
	}
	got, _, err = s.KeyByHash(t.Context(), []byte{1})
	if err != nil {
		t.Fatal(err)
	}
	want(got, key)

	for user, ids := range map[string]string{"": "key-1 key-2", "usr-1": "key-1", "usr-2": "key-2", "usr-9": ""} {
		keys, err := s.Keys(t.Context(), user)
		if err != nil || keys == nil {
			t.Fatal(keys, err)
		}
		var got []string
		for _, k := range keys {
			got = append(got, k.ID)
		}
		if strings.Join(got, " ") != ids {
			t.Errorf("keys of %q: %v, want %s", user, got, ids)
		}
	}
	wantCode(t, s.InsertKey(t.Context(), desktop.Key{ID: "key-3", UserID: "usr-1"}, []byte{1}), desktop.Conflict)
	wantCode(t, s.InsertKey(t.Context(), desktop.Key{ID: "key-4", UserID: "usr-9"}, []byte{4}), desktop.NotFound)
	wantCode(t, s.TouchKey(t.Context(), "key-9", epoch), desktop.NotFound)
	_, err = s.RevokeKey(t.Context(), "key-9", epoch)
	wantCode(t, err, desktop.NotFound)
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	s, path := open(t)
	addUser(t, s, "usr-1") // so that there is a log
	for name, mode := range map[string]os.FileMode{
		filepath.Dir(path): 0o700 | os.ModeDir, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600,
	} {
		info, err := os.Stat(name)
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v, want %v", filepath.Base(name), info.Mode(), err, mode)
		}
	}
	// One that was left open is closed to others.
	loose := filepath.Join(t.TempDir(), "loose.db")
	if err := os.WriteFile(loose, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	other, err := Open(t.Context(), loose)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if info, err := os.Stat(loose); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestConnectionsAreSetAsPromised(t *testing.T) {
	s, _ := open(t)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000"} {
		var got string
		if err := s.writer.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v, want %s", pragma, got, err, want)
		}
	}
	if _, err := s.reader.Exec(`DELETE FROM users`); err == nil {
		t.Error("the readers can write")
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestReopenKeepsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bureau.db")
	for i := range 3 {
		s, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		addUser(t, s, fmt.Sprint("usr-", i))
		if users, err := s.Users(t.Context()); err != nil || len(users) != i+1 {
			t.Errorf("%d users, %v, want %d", len(users), err, i+1)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Ping(t.Context()); err == nil {
			t.Error("a closed store answers")
		}
	}
}

func TestNewerDatabaseIsRefusedUntouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bureau.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.writer.Exec(`PRAGMA user_version = 99`); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), path)
	if err == nil || !strings.Contains(err.Error(), "version 99") || !strings.Contains(err.Error(), "newer bureau") {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the refused database was changed (%v)", err)
	}
}

func TestForeignFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(path, []byte(strings.Repeat("these are not the rows you look for\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

func TestFailedMigrationLeavesTheVersionBefore(t *testing.T) {
	s, _ := open(t)
	bad := append(slices.Clone(migrations), migration{"migrations/0002_bad.sql", `CREATE TABLE half (a TEXT) STRICT; CREATE TABLE users (a TEXT);`})
	if err := migrate(t.Context(), s.writer, bad); err == nil || !strings.Contains(err.Error(), "0002_bad.sql") {
		t.Errorf("got %v", err)
	}
	var version, tables int
	if err := s.writer.QueryRow(`PRAGMA user_version`).Scan(&version); err != nil || version != len(migrations) {
		t.Errorf("version %d, %v", version, err)
	}
	if err := s.writer.QueryRow(`SELECT count(*) FROM sqlite_master WHERE name = 'half'`).Scan(&tables); err != nil || tables != 0 {
		t.Errorf("%d tables left behind, %v", tables, err)
	}
}

func TestMigrationsAreNumberedWithoutGaps(t *testing.T) {
	_, err := readMigrations(fstest.MapFS{"migrations/0001_a.sql": {}, "migrations/0003_c.sql": {}})
	if err == nil || !strings.Contains(err.Error(), "0003_c.sql is not number 2") {
		t.Errorf("got %v", err)
	}
}

func TestTwoProcessesOpenAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bureau.db")
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			s, err := Open(t.Context(), path)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

func TestEndedContextEndsTheCall(t *testing.T) {
	s, _ := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.InsertUser(ctx, desktop.User{ID: "usr-1", Email: "a@b", Role: desktop.RoleUser})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if users, err := s.Users(t.Context()); err != nil || len(users) != 0 {
		t.Errorf("%v, %v", users, err)
	}
}
