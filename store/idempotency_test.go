package store

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"bureau/desktop"
)

func claim(caller, key, request string) desktop.Claim {
	return desktop.Claim{Caller: caller, KeyHash: []byte("hash of " + key), Fingerprint: []byte("hash of " + request)}
}

func take(t *testing.T, s *Store, c desktop.Claim, want desktop.Past) {
	t.Helper()
	got, err := s.Take(t.Context(), c, time.Now())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func finish(t *testing.T, s *Store, c desktop.Claim, answer *desktop.Answer) {
	t.Helper()
	if err := s.Finish(t.Context(), c, answer); err != nil {
		t.Fatal(err)
	}
}

// reopen is the store in the next process.
func reopen(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestClaims(t *testing.T) {
	s, path := open(t)
	c := claim("key-1", "a", "request")
	take(t, s, c, desktop.Past{})
	take(t, s, c, desktop.Past{InFlight: true})
	take(t, s, claim("key-1", "a", "another request"), desktop.Past{Differs: true})
	take(t, s, claim("key-2", "a", "another request"), desktop.Past{})

	// One that came to nothing is forgotten.
	finish(t, s, c, nil)
	take(t, s, c, desktop.Past{})

	// A process that dies leaves one that another takes over, as nothing was done.
	next := reopen(t, path)
	take(t, next, c, desktop.Past{})
	take(t, next, c, desktop.Past{InFlight: true})

	answer := &desktop.Answer{Status: 201, Header: map[string]string{"Location": "/x"}, Body: []byte(`{"a":1}`)}
	finish(t, next, c, answer)
	for _, store := range []*Store{next, reopen(t, path)} {
		take(t, store, c, desktop.Past{Answer: answer})
		take(t, store, claim("key-1", "a", "another request"), desktop.Past{Differs: true})
	}
}

// What a request makes is noted when it is made, and only then.
func TestEffects(t *testing.T) {
	s, path := open(t)
	addUser(t, s, "usr-1")
	c := claim("key-1", "a", "request")
	take(t, s, c, desktop.Past{})
	ctx := desktop.WithClaim(t.Context(), c)
	if err := s.InsertDesktop(ctx, record("dt-1", "usr-nobody", epoch), 0); err == nil {
		t.Fatal("a desktop of nobody was made")
	}
	refused := fmt.Errorf("no")
	if err := s.InsertDesktop(t.Context(), record("dt-0", "usr-1", epoch), 0); err != nil { // of another request
		t.Fatal(err)
	}
	if _, err := s.UpdateDesktop(ctx, "dt-0", func(*desktop.Record) error { return refused }); err != refused {
		t.Fatal(err)
	}
	beingMade := record("dt-1", "usr-1", epoch)
	beingMade.Wish = desktop.WishDestroy
	if err := s.InsertDesktop(ctx, beingMade, 0); err != nil {
		t.Fatal(err)
	}
	next := reopen(t, path)
	take(t, next, c, desktop.Past{})
	if _, err := next.UpdateDesktop(ctx, "dt-1", func(r *desktop.Record) error { r.Wish = desktop.WishRun; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := next.InsertUser(ctx, desktop.User{ID: "usr-2", Email: "b@b", Role: desktop.RoleUser, CreatedAt: epoch}); err != nil { // the first counts
		t.Fatal(err)
	}
	for range 2 {
		next = reopen(t, path)
		take(t, next, c, desktop.Past{Effect: "dt-1"})
		take(t, next, c, desktop.Past{InFlight: true})
		finish(t, next, c, nil) // what was done is not forgotten
	}
	take(t, next, c, desktop.Past{Effect: "dt-1"})
	answer := &desktop.Answer{Status: 201, Header: map[string]string{}, Body: []byte("{}")}
	finish(t, next, c, answer)
	take(t, next, c, desktop.Past{Effect: "dt-1", Answer: answer})

	for i, insert := range []func(context.Context) error{
		func(ctx context.Context) error {
			return next.InsertUser(ctx, desktop.User{ID: "made-0", Email: "c@c", Role: desktop.RoleUser, CreatedAt: epoch})
		},
		func(ctx context.Context) error {
			return next.InsertKey(ctx, desktop.Key{ID: "made-1", UserID: "usr-1", CreatedAt: epoch}, []byte("hash"))
		},
	} {
		c := claim("key-1", fmt.Sprint("insert", i), "request")
		take(t, next, c, desktop.Past{})
		if err := insert(desktop.WithClaim(t.Context(), c)); err != nil {
			t.Fatal(err)
		}
		finish(t, next, c, nil)
		take(t, next, c, desktop.Past{Effect: fmt.Sprint("made-", i)})
	}
}

func TestClaimsEnd(t *testing.T) {
	s, path := open(t)
	c := claim("key-1", "a", "request")
	began := time.Now()
	if past, err := s.Take(t.Context(), c, began.Add(-desktop.ClaimTime)); err != nil || !reflect.DeepEqual(past, desktop.Past{}) {
		t.Fatal(past, err)
	}
	finish(t, s, c, &desktop.Answer{Status: 201, Body: []byte("old")})
	count := func(s *Store) (n int) {
		t.Helper()
		if err := s.reader.QueryRow(`SELECT count(*) FROM idempotency`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(reopen(t, path)); n != 0 {
		t.Errorf("%d claims are left after their time", n)
	}
	take(t, s, c, desktop.Past{}) // anew, also for another request
	if _, err := s.Take(t.Context(), claim("key-2", "b", "x"), began.Add(desktop.ClaimTime+time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n := count(s); n != 1 {
		t.Errorf("there are %d claims, want the last alone", n)
	}
}

func TestClaimsAreBounded(t *testing.T) {
	s, _ := open(t)
	now := time.Now()
	_, err := s.writer.Exec(`INSERT INTO idempotency (caller, key_hash, fingerprint, process, effect, status, header, body, created_at, expires_at)
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
		SELECT 'key-1', CAST(i AS BLOB), x'', '', '', 0, '{}', x'', ?, ? FROM n`, claimsLimit, moment(now), moment(now.Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Take(t.Context(), claim("key-1", "one more", "x"), now)
	wantCode(t, err, desktop.RateLimited)
	take(t, s, claim("key-2", "another's", "x"), desktop.Past{})
}

// Of many who send the same request at once, one does it.
func TestConcurrentClaims(t *testing.T) {
	s, _ := open(t)
	c := claim("key-1", "a", "request")
	var mu sync.Mutex
	var taken, inFlight int
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			past, err := s.Take(t.Context(), c, time.Now())
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case past.InFlight:
				inFlight++
			default:
				taken++
			}
		})
	}
	wg.Wait()
	if taken != 1 || inFlight != 19 {
		t.Errorf("%d have it, %d are told that it is being done", taken, inFlight)
	}
}

// A desktop of a database from before that was kept: one that has been started has a disk.
func TestHasDiskOfFormerRecords(t *testing.T) {
	for _, test := range []struct {
		wish, boot, failure string
		want                bool
	}{
		{"run", "", "", true}, {"run", "start", "", false}, {"halt", "", "", false}, {"run", "", "no image", false},
	} {
		t.Run(strings.Join([]string{test.wish, test.boot, test.failure}, " "), func(t *testing.T) {
			path := t.TempDir() + "/bureau.db"
			db, err := connect(path, "_txlock", "immediate")
			if err != nil {
				t.Fatal(err)
			}
			if err := migrate(t.Context(), db, migrations[:4]); err != nil {
				t.Fatal(err)
			}
			_, err = db.Exec(`INSERT INTO users VALUES ('usr-1', 'a@b', 'user', 'free', 1);
				INSERT INTO desktops (id, owner, name, tier, image, image_digest, network, vcpus, memory_bytes, disk_bytes, keep_alive, approval, agent,
					wish, boot, failure, created_at, updated_at) VALUES ('dt-1', 'usr-1', 'n', 'free', 'i', 'd', 'nat', 1, 1, 1, 0, '{}', '{}', ?, ?, ?, 1, 1)`,
				test.wish, test.boot, test.failure)
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if r, err := reopen(t, path).Desktop(t.Context(), "dt-1"); err != nil || r.HasDisk != test.want {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}
