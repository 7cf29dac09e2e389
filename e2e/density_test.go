package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// BenchmarkEightDesktops is eight desktops of the minimal image at once: what they cost serve while
// nobody looks, and then each with a client that acts and sees in a loop for two minutes. Each guest
// paints a pattern of its own, so that a picture of another one's is found.
//
//	go test -tags libvirt_dlopen ./e2e -run xxx -bench EightDesktops -benchtime 1x -timeout 40m
func BenchmarkEightDesktops(b *testing.B) {
	const count, acting, idling = 8, 2 * time.Minute, time.Minute
	needMinimal(b)
	var guests []*guest
	began := time.Now()
	for i := range count {
		g, err := lab.create(b.Context(), map[string]any{"name": fmt.Sprintf("eighth %d", i+1), "image": "minimal", "tier": "small"})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			lab.send(ctx, http.MethodDelete, "/v1/desktops/"+g.id, nil)
		})
		guests = append(guests, g)
	}
	for _, g := range guests {
		g.watch(b)
		if err := g.readied(b.Context(), g.id); err != nil {
			b.Fatal(err)
		}
	}
	fmt.Printf("\neight desktops are ready %s after they were asked for\n", time.Since(began).Round(time.Second))
	want := make([]image.Image, count)
	region := image.Rect(300, 200, 500, 350)
	for i, g := range guests {
		if err := g.putProbe(b.Context()); err != nil {
			b.Fatal(err)
		}
		want[i] = rgba(g.paint(b, i+1).SubImage(region))
	}

	// Unwatched: the connections to the displays are let go after screenIdle, 30 s here.
	time.Sleep(40 * time.Second)
	used, clock := serveCPU(b), time.Now()
	time.Sleep(idling)
	idle := (serveCPU(b) - used).Seconds() / time.Since(clock).Seconds()
	fmt.Printf("eight idle, unwatched: serve uses %.2f %% of a processor, %d MiB resident\n", 100*idle, serveResident(b)>>20)
	b.ReportMetric(100*idle, "idle-cpu-%")

	var resident []int64
	rounds := make([]int, count)
	took := make([][]time.Duration, count)
	ctx, cancel := context.WithTimeout(b.Context(), acting)
	defer cancel()
	used, clock = serveCPU(b), time.Now()
	var clients sync.WaitGroup
	for i, g := range guests {
		clients.Go(func() {
			for ctx.Err() == nil {
				at := time.Now()
				err := actAndSee(ctx, g, 100+(37*rounds[i])%1000, 100+(53*rounds[i])%600, region, want[i])
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					b.Errorf("desktop %d, round %d: %v", i+1, rounds[i], err)
					return
				}
				rounds[i]++
				took[i] = append(took[i], time.Since(at))
			}
		})
	}
	for ctx.Err() == nil {
		resident = append(resident, serveResident(b)>>20)
		select {
		case <-time.After(10 * time.Second):
		case <-ctx.Done():
		}
	}
	clients.Wait()
	busy := (serveCPU(b) - used).Seconds() / time.Since(clock).Seconds()
	all := slices.Concat(took...)
	if len(all) == 0 {
		b.Fatal("no client did anything")
	}
	slices.Sort(all)
	fmt.Printf(`eight clients, act and see, %s on %d processors: %d rounds (each client %v), no error, no other's picture
a round takes %s in the median, %s at the 95th percentile; serve uses %.0f %% of a processor
serve's resident MiB, every 10 s: %v
`, acting, runtime.NumCPU(), len(all), rounds, all[len(all)/2].Round(time.Millisecond/10), all[len(all)*95/100].Round(time.Millisecond/10), 100*busy, resident)
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "round-ms")
}

// actAndSee clicks and looks in one request, and then looks once more in another.
func actAndSee(ctx context.Context, g *guest, x, y int, region image.Rectangle, want image.Image) error {
	part := fmt.Sprintf("%d,%d,%d,%d", region.Min.X, region.Min.Y, region.Dx(), region.Dy())
	r, err := g.send(ctx, http.MethodPost, g.path("click"), map[string]any{"x": x, "y": y,
		"screenshot": map[string]any{"region": part, "cursor": false}})
	if err != nil {
		return err
	}
	if r.status != http.StatusOK {
		return fmt.Errorf("click: %s", r)
	}
	var answer struct {
		Cursor     struct{ X, Y int }
		Screenshot struct{ Data []byte }
	}
	if err := json.Unmarshal(r.body, &answer); err != nil {
		return err
	}
	if answer.Cursor.X != x || answer.Cursor.Y != y {
		return fmt.Errorf("the pointer is at %v, not at %d,%d", answer.Cursor, x, y)
	}
	if err := shows(answer.Screenshot.Data, want); err != nil {
		return fmt.Errorf("the picture of the click: %w", err)
	}
	r, err = g.send(ctx, http.MethodGet, g.path("screenshot")+"?cursor=false&region="+part, nil)
	if err != nil {
		return err
	}
	if r.status != http.StatusOK {
		return fmt.Errorf("screenshot: %s", r)
	}
	return shows(r.body, want)
}

func shows(data []byte, want image.Image) error {
	m, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return differs(want, m, 0)
}

func servePID() int {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	return lab.process.Process.Pid
}

// serveCPU is the processor time that serve has used.
func serveCPU(t testing.TB) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", servePID()))
	if err != nil {
		t.Fatal(err)
	}
	// utime and stime are the 14th and 15th field, in hundredths of a second; the second is in brackets.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	var ticks int
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// serveResident is serve's resident memory in bytes.
func serveResident(t testing.TB) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", servePID()))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(data))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
