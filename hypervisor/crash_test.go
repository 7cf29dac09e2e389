//go:build !fuzz

package hypervisor

// Left out of fuzzing, for which the vendors' clients that it leads to would be compiled anew.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"bureau/desktop"
	"bureau/desktop/desktoptest"
	"bureau/store"
)

// speechless is what connects to the agents of machines that have none.
type speechless struct{}

func (speechless) Connect(_ context.Context, _ string, stream io.ReadWriteCloser) (desktop.Agent, error) {
	stream.Close()
	return nil, errors.New("there is no agent in an empty machine")
}

// life is one process over the real store and the real libvirt.
type life struct {
	*desktop.Manager
	mortal *desktoptest.Mortal
	store  *store.Store
}

func beginLife(t *testing.T, h *Host, database string, mortal *desktoptest.Mortal) (*life, error) {
	t.Helper()
	kept, err := store.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	m, err := desktop.NewManager(t.Context(), desktoptest.Machines{Machines: h, M: mortal}, desktoptest.Store{Store: kept, M: mortal}, speechless{},
		desktop.Config{
			Tiers:       []desktop.Tier{{Name: "tiny", VCPUs: 1, MemoryBytes: 128 << 20, DiskBytes: 1 << 30}},
			DefaultTier: "tiny", DefaultImage: "empty", Network: desktop.NetworkIsolated,
			StopGrace: time.Millisecond, BootTimeout: time.Nanosecond,
		}, slog.New(slog.DiscardHandler))
	if err != nil {
		kept.Close()
		return nil, err
	}
	return &life{m, mortal, kept}, nil
}

func (l *life) end() {
	l.Close()
	l.store.Close()
}

var everything = desktop.Caller{Local: true}

// status is the one desktop's, "" when there is none.
func (l *life) status(ctx context.Context) (id string, status desktop.Status) {
	list, _, err := l.List(ctx, everything, desktop.Page{})
	if err != nil || len(list) == 0 {
		return "", ""
	}
	return list[0].ID, list[0].Status
}

// reaches waits until the one desktop has a status, or the process is dead.
func (l *life) reaches(t *testing.T, want desktop.Status) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !l.mortal.Dead() {
		id, status := l.status(t.Context())
		if status == want {
			if record, err := l.store.Desktop(t.Context(), id); id == "" || err == nil && record.Boot == desktop.BootNone {
				return // and nothing is left to be written
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the desktop is %q, not %q", status, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// crashHost is a host of the real libvirt with an image, and a database with a user.
func crashHost(t *testing.T) (h *Host, database string) {
	t.Helper()
	opts := testOptions(t)
	opts.Prefix = "hypervisor-crash"
	opts.Log = slog.New(slog.DiscardHandler)
	h = openTest(t, opts)
	importEmpty(t, h, "empty")
	database = filepath.Join(t.TempDir(), "bureau.db")
	kept, err := store.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.InsertUser(t.Context(), desktop.User{ID: "usr-1", Email: "a@b", Role: desktop.RoleAdmin, Tier: "tiny"}); err != nil {
		t.Fatal(err)
	}
	kept.Close()
	return h, database
}

// The appliance dies before and after each call with which it changes something, of the store or of
// the real libvirt, and the next process ends where it was asked to be.
func TestCrashes(t *testing.T) {
	h, database := crashHost(t)

	points := 0
	began := time.Now()
	for _, o := range []struct {
		name  string
		from  desktop.Status
		do    func(l *life, ctx context.Context, id string) error
		to    desktop.Status
		calls []string // the calls that change something, in their order
	}{
		{"create", "", func(l *life, ctx context.Context, _ string) error {
			_, err := l.Create(ctx, everything, desktop.Draft{Owner: "usr-1"})
			return err
		}, desktop.Running, []string{"InsertDesktop", "Start", "UpdateDesktop"}},
		{"restart", desktop.Running, func(l *life, ctx context.Context, id string) error {
			_, err := l.Restart(ctx, everything, id)
			return err
		}, desktop.Running, []string{"UpdateDesktop", "Stop", "UpdateDesktop", "Start", "UpdateDesktop"}},
		{"stop", desktop.Running, func(l *life, ctx context.Context, id string) error {
			_, err := l.Stop(ctx, everything, id)
			return err
		}, desktop.Stopped, []string{"UpdateDesktop", "Stop"}},
		{"start", desktop.Stopped, func(l *life, ctx context.Context, id string) error {
			_, err := l.Start(ctx, everything, id)
			return err
		}, desktop.Running, []string{"UpdateDesktop", "Start", "UpdateDesktop"}},
		{"destroy", desktop.Running, func(l *life, ctx context.Context, id string) error {
			return l.Destroy(ctx, everything, id)
		}, "", []string{"UpdateDesktop", "Remove", "UpdateDesktop"}},
	} {
		seen := map[string]int{}
		for _, call := range o.calls {
			seen[call]++
			for _, side := range []string{"before ", "after "} {
				moment, nth := side+call, seen[call]
				t.Run(fmt.Sprintf("%s, %s %d", o.name, moment, nth), func(t *testing.T) {
					arrange(t, h, database, o.from)
					mortal := desktoptest.NewMortal("", 0)
					first, err := beginLife(t, h, database, mortal)
					if err != nil {
						t.Fatal(err)
					}
					first.reaches(t, o.from)
					id, _ := first.status(t.Context())
					uptime := machineNumber(t, h, id)
					mortal.DieAt(moment, nth)
					ctx, cancel := context.WithCancel(t.Context())
					go func() {
						select {
						case <-mortal.Died():
							cancel()
						case <-t.Context().Done():
						}
					}()
					if err := o.do(first, ctx, id); err != nil && !mortal.Dead() {
						t.Fatal(err)
					}
					select {
					case <-mortal.Died():
					case <-time.After(time.Minute):
						t.Fatalf("it did not come to that: %v", mortal.Passed())
					}
					points++
					first.end()

					next, err := beginLife(t, h, database, desktoptest.NewMortal("", 0))
					if err != nil {
						t.Fatal(err)
					}
					defer next.end()
					// What was asked for and had been recorded is done by itself; the client asks again when
					// it had not.
					if o.name == "create" && moment == "before InsertDesktop" || o.name != "create" && moment == "before UpdateDesktop" && nth == 1 {
						next.reaches(t, o.from)
						if err := o.do(next, t.Context(), id); err != nil {
							t.Fatal(err)
						}
					}
					next.reaches(t, o.to)
					now, _ := next.status(t.Context())
					if id != "" && now != "" && now != id {
						t.Errorf("desktop %s has become %s", id, now)
					}
					agree(t, h, next, now, o.to)
					if turns := machineNumber(t, h, now); o.name == "restart" && turns == uptime {
						t.Error("the machine was not started anew")
					}
				})
			}
		}
	}
	t.Logf("%d crash points in %s", points, time.Since(began).Round(time.Second))
}

// machineNumber is libvirt's number of a running machine, another one after each start.
func machineNumber(t *testing.T, h *Host, id string) uint {
	t.Helper()
	if id == "" {
		return 0
	}
	number := uint(0)
	c, giveBack := borrow(t, h)
	defer giveBack()
	if _, err := h.withDomain(c, id, func(d *libvirt.Domain) error {
		number, _ = d.GetID() // fails for one that is off
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return number
}

// arrange brings the one desktop to a status, or removes it.
func arrange(t *testing.T, h *Host, database string, want desktop.Status) {
	t.Helper()
	l, err := beginLife(t, h, database, desktoptest.NewMortal("", 0))
	if err != nil {
		t.Fatal(err)
	}
	defer l.end()
	id, _ := l.status(t.Context())
	switch {
	case want == "" && id != "":
		err = l.Destroy(t.Context(), everything, id)
	case want != "" && id == "":
		_, err = l.Create(t.Context(), everything, desktop.Draft{Owner: "usr-1"})
	case want == desktop.Running:
		_, err = l.Start(t.Context(), everything, id)
	case want == desktop.Stopped:
		_, err = l.Stop(t.Context(), everything, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	if id == "" && want == desktop.Stopped {
		l.reaches(t, desktop.Running)
		id, _ = l.status(t.Context())
		if _, err := l.Stop(t.Context(), everything, id); err != nil {
			t.Fatal(err)
		}
	}
	l.reaches(t, want)
}

// agree compares libvirt's domains and volumes with what there should be.
func agree(t *testing.T, h *Host, l *life, id string, want desktop.Status) {
	t.Helper()
	c, giveBack := borrow(t, h)
	defer giveBack()
	var domains, disks []string
	err := h.eachDomain(c, func(_ string, d *libvirt.Domain) error {
		state, _, err := d.GetState()
		domains = append(domains, fmt.Sprintf("%s %d", domainName(d), state))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	volumes, err := h.listVolumes(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range volumes {
		if strings.HasPrefix(v.name, "desktop-") {
			disks = append(disks, v.name)
		}
	}
	var wantDomains, wantDisks []string
	if want != "" {
		state := libvirt.DOMAIN_RUNNING
		if want == desktop.Stopped {
			state = libvirt.DOMAIN_SHUTOFF
		}
		wantDomains = []string{fmt.Sprintf("%s %d", h.opts.domainName(id), state)}
		wantDisks = []string{overlayVolume(id)}
	}
	if !slices.Equal(domains, wantDomains) || !slices.Equal(disks, wantDisks) {
		t.Errorf("libvirt has %v and %v, want %v and %v", domains, disks, wantDomains, wantDisks)
	}
	if found, err := l.Orphans(t.Context(), everything); err != nil || len(found.Machines)+len(found.Volumes) != 0 {
		t.Errorf("without an owner are %+v, %v", found, err)
	}
}

// A process that dies within a call of this package leaves one of these, and the next call finishes
// it: a disk without a machine, a machine that was never on, a machine that is forgotten and its disk
// is not.
func TestHalfwayStates(t *testing.T) {
	opts := testOptions(t)
	opts.Prefix = "hypervisor-crash"
	h := openTest(t, opts)
	ctx := testContext(t)
	image := importEmpty(t, h, "empty")
	c, giveBack := borrow(t, h)
	defer giveBack()
	for name, halfway := range map[string]func(t *testing.T, spec desktop.Spec){
		"a disk without a machine": func(t *testing.T, spec desktop.Spec) {
			if _, _, made, err := h.ensureOverlay(ctx, c, spec); err != nil || !made {
				t.Fatal(made, err)
			}
		},
		"a machine that was never on": func(t *testing.T, spec desktop.Spec) {
			if err := h.Start(ctx, spec); err != nil {
				t.Fatal(err)
			}
			domain(t, h, spec.ID, (*libvirt.Domain).Destroy)
		},
		"a disk whose machine is forgotten": func(t *testing.T, spec desktop.Spec) {
			if err := h.Start(ctx, spec); err != nil {
				t.Fatal(err)
			}
			if err := h.undefine(c, spec.ID); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := testSpec(image)
			halfway(t, spec)
			if err := h.Start(ctx, spec); err != nil {
				t.Fatal("start:", err)
			}
			wantState(t, h, spec.ID, desktop.MachineRunning)
			if err := h.Remove(ctx, spec.ID); err != nil {
				t.Fatal("remove:", err)
			}
			halfway(t, spec)
			if err := h.Remove(ctx, spec.ID); err != nil {
				t.Fatal("remove halfway:", err)
			}
			wantState(t, h, spec.ID, desktop.MachineAbsent)
			wantUnused(t, h)
		})
	}
}

// Clients ask one machine of the real libvirt for different things at once; it ends as one of those
// wanted it that nobody asked after.
func TestContention(t *testing.T) {
	h, database := crashHost(t)
	arrange(t, h, database, desktop.Running)
	l, err := beginLife(t, h, database, desktoptest.NewMortal("", 0))
	if err != nil {
		t.Fatal(err)
	}
	defer l.end()
	id, _ := l.status(t.Context())

	type request struct {
		name         string
		begun, ended time.Time
		to           desktop.Status
	}
	var mu sync.Mutex
	var requests []request
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			for i := range 3 {
				r := request{begun: time.Now(), to: desktop.Running}
				var err error
				switch (client + i) % 3 {
				case 0:
					r.name = "start"
					_, err = l.Start(t.Context(), everything, id)
				case 1:
					r.name, r.to = "stop", desktop.Stopped
					_, err = l.Stop(t.Context(), everything, id)
				case 2:
					r.name = "restart"
					_, err = l.Restart(t.Context(), everything, id)
				}
				r.ended = time.Now()
				if err != nil {
					t.Errorf("%s: %v", r.name, err)
				}
				mu.Lock()
				requests = append(requests, r)
				mu.Unlock()
				// Somewhere within what libvirt is doing about it.
				time.Sleep(time.Duration(client*70+i*110) * time.Millisecond)
			}
		})
	}
	clients.Wait()
	record, err := l.store.Desktop(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	want := desktop.Stopped
	if record.Wish == desktop.WishRun {
		want = desktop.Running
	}
	explained := false
	for _, r := range requests {
		last := !slices.ContainsFunc(requests, func(other request) bool { return other.begun.After(r.ended) })
		explained = explained || last && r.to == want
	}
	if !explained {
		t.Errorf("it is to be %s, which no order of %+v explains", want, requests)
	}
	l.reaches(t, want)
	agree(t, h, l, id, want)
	if err := l.Destroy(t.Context(), everything, id); err != nil {
		t.Fatal(err)
	}
	agree(t, h, l, id, "")
}
