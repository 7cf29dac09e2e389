package hypervisor

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bureau/desktop"
)

// The test of a real guest takes the image in the folder BUREAU_TEST_IMAGE_DIR, as `bureau image
// build` leaves it: disk.qcow2, vmlinuz and initrd. The guest's agent is a program that echoes.

func buildEcho(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "echo")
	command := exec.Command("go", "build", "-o", path, "./testdata/echo")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, output)
	}
	return path
}

func TestRealGuest(t *testing.T) {
	folder := os.Getenv("BUREAU_TEST_IMAGE_DIR")
	if folder == "" {
		t.Skip("BUREAU_TEST_IMAGE_DIR is not set")
	}
	opts := testOptions(t)
	opts.AgentBinary = buildEcho(t)
	h := openTest(t, opts)
	ctx := testContext(t)
	began := time.Now()
	image, err := h.ImportImage(ctx, ImageFiles{
		Name: "guest", Boot: "kernel", Disk: filepath.Join(folder, "disk.qcow2"),
		Kernel: filepath.Join(folder, "vmlinuz"), Initrd: filepath.Join(folder, "initrd"),
	}, nil)
	if err != nil {
		t.Fatal("import:", err)
	}
	t.Logf("imported %d MiB in %s", image.SizeBytes>>20, time.Since(began).Round(time.Millisecond))

	spec := testSpec(image)
	spec.Name, spec.VCPUs, spec.MemoryBytes, spec.DiskBytes = "My Désk 7", 2, 2<<30, 12<<30
	began = time.Now()
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	t.Logf("started in %s", time.Since(began).Round(time.Millisecond))
	stream, err := h.OpenAgent(ctx, spec.ID)
	if err != nil {
		t.Fatal("open the agent:", err)
	}
	defer stream.Close()

	// The guest answers as soon as its agent runs.
	answer := make([]byte, 200)
	stream.(*channel).SetDeadline(time.Now().Add(3 * time.Minute))
	if _, err := stream.Write([]byte("who\n")); err != nil {
		t.Fatal(err)
	}
	n, err := stream.Read(answer)
	if err != nil {
		t.Fatal("no answer from the guest:", err)
	}
	t.Logf("the agent answers after %s", time.Since(began).Round(time.Millisecond))
	uuid := machineUUID(spec.ID)
	if got, want := string(answer[:n]), fmt.Sprintf("my-d-sk-7 %x %d 1\n", uuid[:], max(spec.DiskBytes, image.DiskBytes)/512); got != want {
		t.Errorf("guest says %q, want %q", got, want)
	}

	t.Run("round trips", func(t *testing.T) {
		var times []time.Duration
		for range 300 {
			sent := time.Now()
			if _, err := stream.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(stream, answer[:4]); err != nil || string(answer[:4]) != "ping" {
				t.Fatalf("%q, %v", answer[:4], err)
			}
			times = append(times, time.Since(sent))
		}
		slices.Sort(times)
		t.Logf("median %s, p99 %s", times[150], times[297])
	})

	t.Run("bulk", func(t *testing.T) {
		data := make([]byte, 16<<20)
		rand.Read(data)
		sent := time.Now()
		failed := make(chan error, 1)
		go func() {
			_, err := stream.Write(data)
			failed <- err
		}()
		back := make([]byte, len(data))
		if _, err := io.ReadFull(stream, back); err != nil {
			t.Fatal(err)
		}
		if err := <-failed; err != nil || !bytes.Equal(back, data) {
			t.Fatalf("not the same came back: %v", err)
		}
		t.Logf("16 MiB there and back in %s", time.Since(sent).Round(time.Millisecond))
	})

	t.Run("a flood that nobody reads", func(t *testing.T) {
		stream.(*channel).SetWriteDeadline(time.Now().Add(3 * time.Second))
		var total int
		for {
			n, err := stream.Write(make([]byte, 1<<20))
			if total += n; err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("write:", err)
				}
				break
			}
		}
		if total > 32<<20 {
			t.Errorf("%d bytes are on their way", total)
		}
		began := time.Now()
		wantState(t, h, spec.ID, desktop.MachineRunning)
		t.Logf("%d KiB are on their way; meanwhile Inspect takes %s", total>>10, time.Since(began).Round(time.Microsecond))
	})

	t.Run("the newest opener wins", func(t *testing.T) {
		newer, err := h.OpenAgent(ctx, spec.ID)
		if err != nil {
			t.Fatal(err)
		}
		defer newer.Close()
		if _, err := stream.Write([]byte("x")); err == nil {
			t.Error("the former stream still works")
		}
		// Stale bytes come first, the echo after them.
		newer.(*channel).SetDeadline(time.Now().Add(time.Minute))
		token := make([]byte, 16)
		rand.Read(token)
		if _, err := newer.Write(token); err != nil {
			t.Fatal(err)
		}
		var got []byte
		buffer := make([]byte, 1<<16)
		for !bytes.Contains(got, token) {
			n, err := newer.Read(buffer)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got[max(0, len(got)-len(token)):], buffer[:n]...)
		}
	})

	t.Run("address", func(t *testing.T) {
		deadline := time.Now().Add(time.Minute)
		for {
			m := wantState(t, h, spec.ID, desktop.MachineRunning)
			if strings.Count(m.Address, ".") == 3 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("address is %q", m.Address)
			}
			time.Sleep(500 * time.Millisecond)
		}
	})

	t.Run("orderly stop", func(t *testing.T) {
		began := time.Now()
		if err := h.Stop(ctx, spec.ID, 3*time.Minute); err != nil {
			t.Fatal(err)
		}
		t.Logf("stopped in %s", time.Since(began).Round(time.Millisecond))
		if m := wantState(t, h, spec.ID, desktop.MachineOff); m.Cause != "shutdown" {
			t.Errorf("cause is %q", m.Cause)
		}
	})
}
