package api

import (
	"errors"
	"fmt"
	"image"
	"image/color"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"bureau/api/apitest"
	"bureau/desktop"
	"bureau/desktop/picture"
)

// countingAlbum counts what it renders; each picture is 100 bytes that name the frame's serial.
func countingAlbum(limit int) (*album, *atomic.Int32) {
	var count atomic.Int32
	return newAlbum(func(frame *desktop.Frame, o picture.Options) (picture.Picture, error) {
		count.Add(1)
		return picture.Picture{Bytes: fmt.Appendf(nil, "%-100d", frame.Serial), ContentType: "image/" + string(o.Format)}, nil
	}, limit), &count
}

func show(t *testing.T, a *album, id string, frame *desktop.Frame, how Picture) picture.Picture {
	t.Helper()
	p, err := a.picture(id, frame, how, how.plain())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// held checks the album's own accounts.
func (a *album) held(t *testing.T) (pictures, bytes int) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for e := a.recent.Front(); e != nil; e = e.Next() {
		s := e.Value.(*shot)
		if a.shots[s.key] != s || s.place != e {
			t.Error("the list and the map of pictures differ")
		}
		bytes += s.size
	}
	if bytes != a.size || len(a.shots) != a.recent.Len() {
		t.Errorf("%d bytes in %d pictures are %d and %d", bytes, a.recent.Len(), a.size, len(a.shots))
	}
	return len(a.shots), a.size
}

var asPNG, asJPEG = Picture{Format: "png"}, Picture{Format: "jpeg"}

func TestUnchangedDisplayIsEncodedOnce(t *testing.T) {
	a, count := countingAlbum(1 << 20)
	blue, red := color.RGBA{0, 0, 200, 255}, color.RGBA{200, 0, 0, 255}
	first := apitest.Frame(1, blue)
	want := func(n int32, what string) {
		t.Helper()
		if got := count.Load(); got != n {
			t.Errorf("%s: encoded %d times, want %d", what, got, n)
		}
	}
	for range 3 {
		show(t, a, "dt-1", first, asPNG)
	}
	want(1, "the same frame")
	settling := asPNG
	settling.SettleMs = 500
	show(t, a, "dt-1", first, settling)
	want(1, "the same after a wait")
	show(t, a, "dt-1", first, asJPEG)
	show(t, a, "dt-1", first, Picture{Format: "jpeg", Quality: picture.DefaultQuality})
	want(2, "another format")
	show(t, a, "dt-1", apitest.Frame(2, blue), asPNG)
	want(2, "the same picture in another frame")
	moved := apitest.Frame(3, blue)
	moved.Cursor.Position = image.Pt(50, 50)
	show(t, a, "dt-1", moved, asPNG)
	want(2, "another place of a cursor that is not drawn")
	withCursor := asPNG
	withCursor.Cursor = true
	show(t, a, "dt-1", first, withCursor)
	show(t, a, "dt-1", moved, withCursor)
	want(4, "two places of a cursor that is drawn")
	if got := show(t, a, "dt-1", apitest.Frame(4, red), asPNG); got.Bytes[0] != '4' {
		t.Errorf("the picture is of frame %s", got.Bytes)
	}
	want(5, "a display that has changed")
	show(t, a, "dt-1", first, asPNG)
	want(5, "a display that has changed back")
	if got := show(t, a, "dt-2", apitest.Frame(6, blue), asPNG); got.Bytes[0] != '6' {
		t.Error("a desktop was shown another's picture")
	}
	a.held(t)
}

func TestTagsTellPicturesApart(t *testing.T) {
	a, _ := countingAlbum(1 << 20)
	blue := color.RGBA{0, 0, 200, 255}
	frame := apitest.Frame(1, blue)
	one := apitest.Frame(1, blue)
	one.Pixels.SetRGBA(319, 199, color.RGBA{0, 0, 201, 255})
	wide := apitest.Frame(1, blue)
	wide.Pixels = image.NewRGBA(image.Rect(0, 0, 200, 320))
	copy(wide.Pixels.Pix, frame.Pixels.Pix)
	pointed := apitest.Frame(1, blue)
	pointed.Cursor.Image.SetRGBA(1, 1, color.RGBA{1, 2, 3, 4})
	hidden := apitest.Frame(1, blue)
	hidden.Cursor = nil
	region := Picture{Format: "png", Region: Region(image.Rect(0, 0, 1, 1))}
	drawn := Picture{Format: "png", Cursor: true}
	seen := map[string]string{}
	for what, tag := range map[string]string{
		"plain": a.tag("dt-1", frame, asPNG), "JPEG": a.tag("dt-1", frame, asJPEG), "region": a.tag("dt-1", frame, region),
		"cursor": a.tag("dt-1", frame, drawn), "one pixel": a.tag("dt-1", one, asPNG), "another shape": a.tag("dt-1", wide, asPNG),
		"another cursor": a.tag("dt-1", pointed, drawn), "no cursor": a.tag("dt-1", hidden, drawn),
	} {
		if before, twice := seen[tag]; twice {
			t.Errorf("%s and %s have the tag %s", what, before, tag)
		}
		seen[tag] = what
	}
}

func TestPixelsAreHashedOnce(t *testing.T) {
	a, _ := countingAlbum(1 << 20)
	first := apitest.Frame(1, color.RGBA{0, 0, 200, 255})
	moved := *first
	moved.Cursor = &desktop.Cursor{Image: first.Cursor.Image, Position: image.Pt(50, 50)}
	tag := a.tag("dt-1", first, asPNG)
	first.Pixels.Pix[0]++ // which nobody does; it would show
	if a.tag("dt-1", first, asPNG) != tag {
		t.Error("the pixels of a frame were hashed twice")
	}
	if a.tag("dt-1", &moved, asPNG) != tag {
		t.Error("pixels were hashed again for a cursor that moved")
	}
	other := moved
	other.Pixels = image.NewRGBA(first.Pixels.Rect)
	copy(other.Pixels.Pix, first.Pixels.Pix)
	if a.tag("dt-1", &other, asPNG) == tag {
		t.Error("other pixels have the same tag")
	}
}

func TestConcurrentRequestsShareOneEncoding(t *testing.T) {
	var count atomic.Int32
	began, goOn := make(chan struct{}), make(chan struct{})
	a := newAlbum(func(*desktop.Frame, picture.Options) (picture.Picture, error) {
		if count.Add(1) == 1 {
			close(began)
		}
		<-goOn
		return picture.Picture{Bytes: []byte("x")}, nil
	}, 1<<20)
	frame := apitest.Frame(1, color.RGBA{A: 255})
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if p, err := a.picture("dt-1", frame, asPNG, asPNG.plain()); err != nil || string(p.Bytes) != "x" {
				t.Errorf("got %v, %v", p, err)
			}
		})
	}
	<-began
	close(goOn)
	all.Wait()
	if count.Load() != 1 {
		t.Errorf("encoded %d times", count.Load())
	}
}

func TestAlbumIsBounded(t *testing.T) {
	a, count := countingAlbum(1000)
	for i := range 50 {
		show(t, a, fmt.Sprint("dt-", i%5), apitest.Frame(uint64(i), color.RGBA{uint8(i), 0, 0, 255}), asPNG)
		if pictures, bytes := a.held(t); pictures > 10 || bytes > 1000 {
			t.Fatalf("%d pictures of %d bytes are held", pictures, bytes)
		}
	}
	// The oldest have gone, the newest have not.
	before := count.Load()
	show(t, a, "dt-4", apitest.Frame(0, color.RGBA{49, 0, 0, 255}), asPNG)
	if count.Load() != before {
		t.Error("the newest picture was let go")
	}
	b, _ := countingAlbum(1 << 20)
	for i := range 50 {
		show(t, b, "dt-1", apitest.Frame(uint64(i), color.RGBA{uint8(i), 0, 0, 255}), asPNG)
	}
	if pictures, _ := b.held(t); pictures != shotsPerDesktop {
		t.Errorf("one desktop has %d pictures", pictures)
	}
	// One that is larger than all that may be held is answered with all the same.
	small, _ := countingAlbum(50)
	if p := show(t, small, "dt-1", apitest.Frame(7, color.RGBA{A: 255}), asPNG); p.Bytes[0] != '7' {
		t.Errorf("got %s", p.Bytes)
	}
	if pictures, bytes := small.held(t); pictures != 0 || bytes != 0 {
		t.Errorf("%d pictures of %d bytes are held", pictures, bytes)
	}
}

func TestFailedPictureIsTriedAgain(t *testing.T) {
	fail := errors.New("no memory")
	a := newAlbum(func(*desktop.Frame, picture.Options) (picture.Picture, error) {
		if fail != nil {
			return picture.Picture{}, fail
		}
		return picture.Picture{Bytes: []byte("x")}, nil
	}, 1<<20)
	frame := apitest.Frame(1, color.RGBA{A: 255})
	if _, err := a.picture("dt-1", frame, asPNG, asPNG.plain()); !errors.Is(err, fail) {
		t.Errorf("got %v", err)
	}
	fail = nil
	show(t, a, "dt-1", frame, asPNG)
	if pictures, bytes := a.held(t); pictures != 1 || bytes != 1 {
		t.Errorf("%d pictures of %d bytes are held", pictures, bytes)
	}

	panics := newAlbum(func(*desktop.Frame, picture.Options) (picture.Picture, error) { panic("out of range") }, 1<<20)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		panics.picture("dt-1", frame, asPNG, asPNG.plain())
	}()
	if pictures, _ := panics.held(t); pictures != 0 {
		t.Error("a picture that was never taken is held")
	}
}

// noisy is a display of 1280x800 that is full of detail.
func noisy(seed uint64) *desktop.Frame {
	random := rand.New(rand.NewPCG(seed, 1))
	pixels := image.NewRGBA(image.Rect(0, 0, 1280, 800))
	for i := 0; i < len(pixels.Pix); i += 4 {
		x, y := i/4%1280, i/4/1280
		noise := uint8(random.IntN(4))
		pixels.Pix[i], pixels.Pix[i+1], pixels.Pix[i+2], pixels.Pix[i+3] = uint8(x/5)+noise, uint8(y/4), uint8((x+y)/9)+noise, 255
	}
	return &desktop.Frame{Serial: seed, Pixels: pixels, Source: desktop.SourceDBus}
}

// BenchmarkScreenshot is the host's whole path of GET screenshot, with the real encoder: of a
// display that changes each time, of one that does not, and of one that the caller has seen.
func BenchmarkScreenshot(b *testing.B) {
	world := apitest.NewWorld()
	world.AddUser("usr-1")
	world.AddDesktop("dt-1", "usr-1")
	key := world.AddKey("usr-1", nil, desktop.CanControl)
	server := New(Options{Desktops: world, Accounts: world})
	get := func(b *testing.B, status int, tag string) string {
		request := httptest.NewRequest(http.MethodGet, "/v1/desktops/dt-1/screenshot", nil)
		request.Header.Set("Authorization", "Bearer "+key)
		if tag != "" {
			request.Header.Set("If-None-Match", tag)
		}
		w := httptest.NewRecorder()
		server.Handler().ServeHTTP(w, request)
		if w.Code != status {
			b.Fatalf("%d: %s", w.Code, w.Body)
		}
		return w.Header().Get("ETag")
	}
	frames := make([]*desktop.Frame, shotsPerDesktop+1) // one more than are remembered
	for i := range frames {
		frames[i] = noisy(uint64(i))
	}
	b.Run("changed", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			f := *frames[i%len(frames)]
			world.Shown = &f
			get(b, http.StatusOK, "")
		}
	})
	world.Shown = noisy(0)
	tag := get(b, http.StatusOK, "")
	b.Run("unchanged", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			get(b, http.StatusOK, "")
		}
	})
	b.Run("not modified", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			get(b, http.StatusNotModified, tag)
		}
	})
}
