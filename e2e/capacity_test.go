package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// crampedPrefix is that of an appliance with little of everything, beside the one of the other tests.
const crampedPrefix = prefix + "-full"

// smallDisk mounts a file system of that many MiB, which belongs to the user that serve runs as or, with
// root, to root.
func smallDisk(t *testing.T, folder string, megabytes int, as *syscall.Credential) {
	t.Helper()
	options := fmt.Sprintf("size=%dm,mode=0711", megabytes)
	if as != nil {
		options += fmt.Sprintf(",uid=%d,gid=%d", as.Uid, as.Gid)
	}
	for _, command := range [][]string{{"mkdir", "-p", folder}, {"mount", "-t", "tmpfs", "-o", options, "tmpfs", folder}} {
		if out, err := asRoot(t.Context(), command...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := asRoot(context.Background(), "umount", "--lazy", folder).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", folder, err, out)
		}
		if out, err := asRoot(context.Background(), "rmdir", folder).CombinedOutput(); err != nil {
			t.Errorf("rmdir %s: %v: %s", folder, err, out)
		}
	})
}

// room is what is free of a small disk, and its size, in MiB.
func room(t *testing.T, folder string) (free, size int) {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(folder, &s); err != nil {
		t.Fatal(err)
	}
	return int(s.Bavail * uint64(s.Bsize) >> 20), int(s.Blocks * uint64(s.Bsize) >> 20)
}

// leave changes the size of a small disk so that so many MiB are free.
func leave(t *testing.T, folder string, megabytes int) {
	t.Helper()
	free, size := room(t, folder)
	out, err := asRoot(t.Context(), "mount", "-o", fmt.Sprintf("remount,size=%dm", size-free+megabytes), folder).CombinedOutput()
	if err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
}

// hostMemory is the host's, in MiB.
func hostMemory(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	var kilobytes int
	if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kilobytes); err != nil {
		t.Fatal(err)
	}
	return kilobytes >> 10
}

// cramped is an appliance with memory for one small desktop, and small disks for those of the desktops
// and for its database.
func cramped(t *testing.T) (a *appliance, pool, data string) {
	t.Helper()
	a = lab.sister(t, crampedPrefix, fmt.Sprintf(`tiers: {shared: {vcpus: 2, memory: 1GiB, disk: 6GiB, desktops: 3}}
idleStop: 1m
capacity: {memory: 1, memoryReserve: %dMiB, vcpusPerCPU: 0, disk: 0, diskReserve: 64MiB}
`, hostMemory(t)-1500))
	pool, data = "/var/lib/libvirt/"+crampedPrefix, filepath.Join(a.dir, "data")
	smallDisk(t, pool, 3000, nil)
	smallDisk(t, data, 8, a.as)
	a.live(t)
	return a, pool, data
}

// refused checks a refusal for want of room, and that it left nothing behind.
func (a *appliance) refused(t *testing.T, r reply, status int, resource string) {
	t.Helper()
	wantProblem(t, r, status)
	p := decode[struct {
		Resource     string
		Needed, Free int64
	}](t, r.body)
	if p.Resource != resource || p.Needed <= p.Free {
		t.Errorf("refused: %s", r)
	}
}

// things are the desktops, machines and disks that there are.
func (a *appliance) things(t *testing.T) string {
	t.Helper()
	var ids []string
	for _, d := range decode[[]state](t, a.call(t, http.MethodGet, "/v1/desktops", nil).body) {
		ids = append(ids, d.ID)
	}
	slices.Sort(ids)
	var machines []string
	for name := range strings.FieldsSeq(virsh(t, "list", "--all", "--name")) {
		if strings.HasPrefix(name, crampedPrefix) {
			machines = append(machines, name)
		}
	}
	slices.Sort(machines)
	virsh(t, "pool-refresh", crampedPrefix)
	return fmt.Sprintf("desktops %s, machines %s, volumes %s", ids, machines, strings.Fields(virsh(t, "vol-list", crampedPrefix)))
}

// A host with too little of everything refuses what there is no room for and leaves nothing of it; a
// guest that fills the disk waits, visibly, and goes on by itself; one that nobody uses is stopped.
func TestCrampedHost(t *testing.T) {
	own(t)
	a, pool, data := cramped(t)
	post := func(path string, body any) reply {
		t.Helper()
		r, err := a.send(t.Context(), http.MethodPost, path, body)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	none := a.things(t)

	leave(t, pool, 32)
	a.refused(t, post("/v1/desktops", map[string]any{}), http.StatusInsufficientStorage, "disk")
	wantProblem(t, post("/v1/desktops", map[string]any{"image": "nowhere"}), http.StatusBadRequest, "nowhere")
	if got := a.things(t); got != none {
		t.Errorf("there were %s\nand are %s", none, got)
	}
	out, err := a.output(t.Context(), "desktop", "create", "more")
	if err == nil || len(out) > 0 || !strings.Contains(err.Error(), "exit status 6") || !strings.Contains(err.Error(), "bureau: the host's disk is full: 64 MiB have to be free") {
		t.Errorf("the command line says %q, %v", out, err)
	}
	leave(t, pool, 800)

	g, err := a.create(t.Context(), map[string]any{"name": "writer", "keepAlive": true})
	if err != nil {
		t.Fatal(err)
	}
	off := decode[state](t, a.call(t, http.MethodPost, "/v1/desktops", map[string]any{"name": "off", "start": false}).body)
	if err := a.readied(t.Context(), g.id); err != nil {
		t.Fatal(err)
	}
	boot := g.bootID(t)

	t.Run("memory", func(t *testing.T) {
		before := a.things(t)
		a.refused(t, post("/v1/desktops", map[string]any{}), http.StatusInsufficientStorage, "memory")
		a.refused(t, post("/v1/desktops/"+off.ID+"/start", nil), http.StatusInsufficientStorage, "memory")
		a.refused(t, post("/v1/desktops/"+off.ID+"/restart", nil), http.StatusInsufficientStorage, "memory")
		if got := a.things(t); got != before {
			t.Errorf("there were %s\nand are %s", before, got)
		}
		if s, err := a.desktop(t.Context(), off.ID); err != nil || s.Status != "stopped" || s.Reason != "" {
			t.Errorf("%+v, %v", s, err)
		}
		third := decode[state](t, a.call(t, http.MethodPost, "/v1/desktops", map[string]any{"start": false}).body)
		a.refused(t, post("/v1/desktops", map[string]any{"start": false}), http.StatusConflict, "desktops")
		a.call(t, http.MethodDelete, "/v1/desktops/"+third.ID, nil)
		text, err := a.output(t.Context(), "host")
		if err != nil || !strings.Contains(string(text), "1 of 2 desktops run.") {
			t.Errorf("bureau host: %s, %v", text, err)
		}
		t.Logf("bureau host:\n%s", text)
	})

	t.Run("a disk that fills up under a guest", func(t *testing.T) {
		leave(t, pool, 80)
		// It writes twice what there is room for, and goes on to tell what it wrote.
		const text = "yes 'this must not be lost' | head -c 160M"
		g.root(t, "setsid sh -c \""+text+" >/root/much && sync /root/much && sha256sum </root/much >/root/sum\" </dev/null >/dev/null 2>&1 &")
		began := time.Now()
		eventually(t, 3*time.Minute, func() error {
			s, err := a.desktop(t.Context(), g.id)
			if err == nil && (s.Status != "error" || s.AgentReady || !strings.Contains(s.Reason, "disk is full")) {
				free, _ := room(t, pool)
				err = fmt.Errorf("it is %s (%s), %d MiB are free", s.Status, s.Reason, free)
			}
			return err
		})
		t.Logf("paused after %s", time.Since(began).Round(time.Second/10))
		if got := virsh(t, "domstate", "--reason", g.domain()); got != "paused (I/O error)" {
			t.Errorf("libvirt says %q", got)
		}
		wantProblem(t, post(g.path("exec"), map[string]any{"command": "true"}), http.StatusServiceUnavailable)
		a.refused(t, post("/v1/desktops/"+off.ID+"/start", nil), http.StatusInsufficientStorage, "memory")

		leave(t, pool, 400)
		began = time.Now()
		if err := until(t.Context(), 2*time.Minute, func(ctx context.Context) error {
			s, err := a.desktop(ctx, g.id)
			if err == nil && (s.Status != "running" || !s.AgentReady) {
				err = fmt.Errorf("it is %s (%s), agentReady %t", s.Status, s.Reason, s.AgentReady)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Logf("goes on, and can be used, after %s", time.Since(began).Round(time.Second/10))
		if now := g.bootID(t); now != boot {
			t.Error("it has booted again")
		}
		want := g.root(t, text+" | sha256sum")
		eventually(t, 2*time.Minute, func() error {
			got, err := g.trySh(t.Context(), "root", "cat /root/sum")
			if err == nil && got != want {
				err = fmt.Errorf("what it wrote is %q, not %q", got, want)
			}
			return err
		})
	})

	t.Run("a full disk of the database", func(t *testing.T) {
		filler := filepath.Join(data, "filler")
		out, err := asRoot(t.Context(), "dd", "if=/dev/zero", "of="+filler, "bs=4k").CombinedOutput()
		if err == nil {
			t.Fatalf("the disk is not full: %s", out)
		}
		// What fits into what its log has already may still be done.
		pattern := strings.Repeat("x", 500)
		large := map[string]any{"patterns": slices.Repeat([]string{pattern}, 32)}
		change := func(i int) (name string, r reply) {
			t.Helper()
			name = fmt.Sprint("name-", i)
			r, err := a.send(t.Context(), http.MethodPatch, "/v1/desktops/"+off.ID, map[string]any{"name": name, "approval": large})
			if err != nil {
				t.Fatal(err)
			}
			return name, r
		}
		kept := "off"
		var r reply
		for i := range 1000 {
			var name string
			if name, r = change(i); r.status != http.StatusOK {
				break
			}
			kept = name
		}
		wantProblem(t, r, http.StatusServiceUnavailable, "database is full")
		if after, err := strconv.Atoi(r.header.Get("Retry-After")); err != nil || after < 1 {
			t.Errorf("Retry-After is %q", r.header.Get("Retry-After"))
		}
		before := a.things(t)
		wantProblem(t, post("/v1/desktops", map[string]any{"start": false}), http.StatusServiceUnavailable, "database is full")
		if got := a.things(t); got != before {
			t.Errorf("there were %s\nand are %s", before, got)
		}
		if s, err := a.desktop(t.Context(), off.ID); err != nil || s.Name != kept {
			t.Errorf("it has the name %s, not %s: %v", s.Name, kept, err)
		}
		g.sh(t, "true") // what changes nothing goes on
		if out, err := asRoot(t.Context(), "rm", filler).CombinedOutput(); err != nil {
			t.Fatalf("rm: %v: %s", err, out)
		}
		if name, r := change(1000); r.status != http.StatusOK || decode[state](t, r.body).Name != name {
			t.Errorf("with room again: %s", r)
		}
	})

	t.Run("nobody uses it", func(t *testing.T) {
		a.call(t, http.MethodPatch, "/v1/desktops/"+g.id, map[string]any{"keepAlive": false})
		began := time.Now()
		eventually(t, 3*time.Minute, func() error {
			s, err := a.desktop(t.Context(), g.id)
			if err == nil && s.Status != "stopped" {
				err = fmt.Errorf("it is %s", s.Status)
			}
			if err == nil && !strings.Contains(s.Reason, "nobody had used it") {
				err = permanent(fmt.Errorf("it does not say why: %+v", s))
			}
			return err
		})
		if took := time.Since(began); took < time.Minute {
			t.Errorf("it was stopped after %s", took)
		}
		log, err := os.ReadFile(a.log)
		if err != nil || !bytes.Contains(log, []byte("a desktop that nobody uses is stopped")) {
			t.Errorf("the log does not tell: %v", err)
		}
		// Its place is free.
		a.call(t, http.MethodPost, "/v1/desktops/"+off.ID+"/start", nil)
	})
}
