package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"io"
	"math"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bureau/desktop"
)

// display is a Display without X.
type display struct {
	size    atomic.Pointer[desktop.Size]
	act     func(ctx context.Context, actions []desktop.Action) (desktop.Acted, error)
	frame   *desktop.Frame
	changed chan struct{}
	done    chan struct{}

	releases atomic.Int32
	shown    func(context.Context) error
	bare     atomic.Bool // without a window manager
	windows  []desktop.Window
	told     func(what string, id uint32) error
	clip     func(text *string) (string, error) // text is what to set
}

func newDisplay() *display {
	d := &display{changed: make(chan struct{}, 1), done: make(chan struct{})}
	d.size.Store(&desktop.Size{Width: 1280, Height: 800})
	return d
}

func (d *display) Act(ctx context.Context, actions []desktop.Action) (desktop.Acted, error) {
	return d.act(ctx, actions)
}
func (d *display) Release(context.Context) error {
	d.releases.Add(1)
	return nil
}
func (d *display) Capture(context.Context) (*desktop.Frame, error) { return d.frame, nil }
func (d *display) Shown(ctx context.Context) error {
	if d.shown == nil {
		return nil
	}
	return d.shown(ctx)
}
func (d *display) Cursor(context.Context) (*desktop.Cursor, error)   { return d.frame.Cursor, nil }
func (d *display) Windows(context.Context) ([]desktop.Window, error) { return d.windows, nil }
func (d *display) ActivateWindow(_ context.Context, id uint32) error { return d.told("activate", id) }
func (d *display) CloseWindow(_ context.Context, id uint32) error    { return d.told("close", id) }
func (d *display) Clipboard(context.Context) (string, error)         { return d.clip(nil) }
func (d *display) SetClipboard(_ context.Context, text string) error {
	_, err := d.clip(&text)
	return err
}
func (d *display) Resize(_ context.Context, size desktop.Size) error {
	if size.Width == 1 {
		return desktop.Errorf(desktop.Invalid, "too small")
	}
	d.size.Store(&size)
	notify(d.changed)
	return nil
}
func (d *display) Managed() bool            { return !d.bare.Load() }
func (d *display) Size() desktop.Size       { return *d.size.Load() }
func (d *display) Changed() <-chan struct{} { return d.changed }
func (d *display) Done() <-chan struct{}    { return d.done }
func (d *display) Close() error             { return nil }

// pair connects a host with a guest that has displays, one after another.
func pair(t testing.TB, displays ...Display) desktop.Agent {
	t.Helper()
	p := newPort()
	var opened atomic.Int32
	startGuest(t, p, Options{OpenDisplay: func(context.Context) (Display, error) {
		n := int(opened.Add(1)) - 1
		if n >= len(displays) {
			return nil, errors.New("no\nserver")
		}
		return displays[n], nil
	}})
	return connect(t, &Connector{}, p.connect())
}

// status waits for a status that is as wanted.
func status(t testing.TB, a desktop.Agent, ok func(desktop.AgentStatus) bool) {
	t.Helper()
	for !ok(a.Status()) {
		wait(t, a.Changed(), fmt.Sprintf("a status other than %+v", a.Status()))
	}
}

func TestStatus(t *testing.T) {
	first, second := newDisplay(), newDisplay()
	a := pair(t, first, second)
	status(t, a, func(s desktop.AgentStatus) bool { return s.Ready && s.Display.Width == 1280 && s.Reason == "" })
	if s := a.Status(); s.Version != "test" || s.BootID == "" {
		t.Errorf("the status is %+v", s)
	}
	first.size.Store(&desktop.Size{Width: 1024, Height: 768})
	first.changed <- struct{}{}
	status(t, a, func(s desktop.AgentStatus) bool { return s.Ready && s.Display.Width == 1024 })
	close(first.done)
	status(t, a, func(s desktop.AgentStatus) bool { return s.Ready && s.Display.Width == 1280 })
	close(second.done)
	status(t, a, func(s desktop.AgentStatus) bool {
		return !s.Ready && s.Reason == "the display does not answer: no server"
	})
	_, err := a.Act(testContext(t))
	code(t, err, desktop.Unavailable, "not ready")
	_, err = a.Capture(testContext(t))
	code(t, err, desktop.Unavailable, "not ready")
}

// A display is ready once somebody's session is on it.
func TestReadyWithTheSession(t *testing.T) {
	d := newDisplay()
	d.bare.Store(true)
	a := pair(t, d)
	status(t, a, func(s desktop.AgentStatus) bool {
		return !s.Ready && s.Reason == "the display answers; its session has not begun"
	})
	_, err := a.Act(testContext(t))
	code(t, err, desktop.Unavailable, "not ready")
	d.bare.Store(false)
	status(t, a, func(s desktop.AgentStatus) bool { return s.Ready && s.Reason == "" })
}

func TestAct(t *testing.T) {
	d := newDisplay()
	a := pair(t, d)
	status(t, a, func(s desktop.AgentStatus) bool { return s.Ready })

	want := []desktop.Action{{Move: &desktop.Move{X: 3, Y: 4}}, {Type: &desktop.Type{Text: "häß\n"}}, {Sync: &desktop.Sync{MaxMs: 5}}}
	answer := desktop.Acted{Cursor: desktop.Point{X: 3, Y: 4}, Display: d.Size(), TookMs: 1.5, Synced: true}
	var busy atomic.Int32
	d.act = func(_ context.Context, got []desktop.Action) (desktop.Acted, error) {
		if busy.Add(1) != 1 {
			t.Error("two callers act at once")
		}
		defer busy.Add(-1)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v", got)
		}
		return answer, nil
	}
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			acted, err := a.Act(testContext(t), want...)
			took := acted.TookMs
			if acted.TookMs = answer.TookMs; err == nil && (acted != answer || took <= 0) {
				err = fmt.Errorf("answered %+v after %f ms", acted, took)
			}
			results <- err
		}()
	}
	for range cap(results) {
		if err := wait(t, results, "an answer"); err != nil {
			t.Error(err)
		}
	}

	d.act = func(context.Context, []desktop.Action) (desktop.Acted, error) {
		return desktop.Acted{}, &desktop.Error{Code: desktop.Invalid, Message: "outside", Details: map[string]any{
			"index": 1, "display": desktop.Size{Width: 7, Height: 8},
		}}
	}
	_, err := a.Act(testContext(t), want...)
	code(t, err, desktop.Invalid, "outside")
	var e *desktop.Error
	errors.As(err, &e)
	if want := map[string]any{"index": 1, "display": map[string]any{"width": 7, "height": 8}}; !reflect.DeepEqual(e.Details, want) {
		t.Errorf("details %#v", e.Details)
	}

	// When the caller goes away the display hears of it.
	began, ended := make(chan struct{}), make(chan struct{})
	d.act = func(ctx context.Context, _ []desktop.Action) (desktop.Acted, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return desktop.Acted{}, ctx.Err()
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-began; cancel() }()
	if _, err := a.Act(ctx, want...); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled, the error is %v", err)
	}
	wait(t, ended, "the display's hearing of it")
}

// What a host left pressed is let go of when its session ends.
func TestSessionEndReleases(t *testing.T) {
	d := newDisplay()
	a := pair(t, d)
	status(t, a, func(s desktop.AgentStatus) bool { return s.Ready })
	if n := d.releases.Load(); n != 0 {
		t.Errorf("released %d times within the session", n)
	}
	a.Close()
	poll(t, "the release", func() bool { return d.releases.Load() == 1 })
}

func TestCapture(t *testing.T) {
	d := newDisplay()
	m := image.NewRGBA(image.Rect(0, 0, 300, 200))
	for i := range m.Pix {
		m.Pix[i] = byte(i * 7)
	}
	shape := image.NewRGBA(image.Rect(0, 0, 2, 1))
	shape.Set(1, 0, color.White)
	d.frame = &desktop.Frame{
		Pixels: m.SubImage(image.Rect(10, 10, 110, 60)).(*image.RGBA),
		Cursor: &desktop.Cursor{Image: shape, Hot: image.Pt(1, 0), Position: image.Pt(-3, 5)},
	}
	d.frame.Pixels = &image.RGBA{Pix: d.frame.Pixels.Pix, Stride: d.frame.Pixels.Stride, Rect: image.Rect(0, 0, 100, 50)}
	a := pair(t, d)
	status(t, a, func(s desktop.AgentStatus) bool { return s.Ready })
	f, err := a.Capture(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if f.Pixels.Rect != image.Rect(0, 0, 100, 50) || f.Source != desktop.SourceAgent {
		t.Errorf("got %v from %v", f.Pixels.Rect, f.Source)
	}
	want := m.RGBAAt(10+99, 10+49)
	want.A = 255
	if got := f.Pixels.RGBAAt(99, 49); got != want {
		t.Errorf("the last pixel is %v, want %v", got, want)
	}
	if c := f.Cursor; c == nil || c.Hot != image.Pt(1, 0) || c.Position != image.Pt(-3, 5) || c.Image.RGBAAt(1, 0).R != 255 {
		t.Errorf("the cursor is %+v", f.Cursor)
	}
	alone, err := a.Cursor(testContext(t))
	if err != nil || !reflect.DeepEqual(alone, f.Cursor) {
		t.Errorf("the cursor alone is %+v, %v", alone, err)
	}
	d.frame.Cursor = nil
	if alone, err = a.Cursor(testContext(t)); err != nil || alone != nil {
		t.Errorf("a hidden cursor is %+v, %v", alone, err)
	}
	again, err := a.Capture(testContext(t))
	if err != nil || again.Cursor != nil || again.Serial == f.Serial {
		t.Errorf("without a cursor: %+v, %v", again, err)
	}
}

func TestExecOverLink(t *testing.T) {
	a := pair(t)
	r, err := a.Exec(testContext(t), desktop.Exec{Script: `printf 'a\377b'; echo e >&2; exit 4`}, nil)
	if err != nil || r.Stdout != "a\uFFFDb" || r.Stderr != "e\n" || r.ExitCode != 4 {
		t.Errorf("got %+v, %v", r, err)
	}

	// Output comes while the command runs: it goes on only when told to, by what was heard.
	dir := t.TempDir()
	var heard strings.Builder
	r, err = a.Exec(testContext(t), desktop.Exec{Cwd: dir, Script: "mkfifo go; echo first; read x <go; echo $x"},
		func(s desktop.Stream, p []byte) {
			heard.Write(p)
			if heard.String() == "first\n" {
				go func() {
					if _, err := a.Exec(testContext(t), desktop.Exec{Cwd: dir, Script: "echo second >go"}, nil); err != nil {
						t.Error(err)
					}
				}()
			}
		})
	if err != nil || heard.String() != "first\nsecond\n" || r.Stdout != "" {
		t.Errorf("heard %q, %+v, %v", heard.String(), r, err)
	}

	r, err = a.Exec(testContext(t), desktop.Exec{Script: "head -c 10000000 /dev/zero"}, nil)
	if err != nil || len(r.Stdout) != desktop.MaxExecOutput || !r.Truncated {
		t.Errorf("%d bytes, truncated %v, %v", len(r.Stdout), r.Truncated, err)
	}
	_, err = a.Exec(testContext(t), desktop.Exec{Script: "true", User: "nosuchuser"}, nil)
	code(t, err, desktop.Invalid, "nosuchuser")

	// A caller who goes away ends the command.
	ctx, cancel := context.WithCancel(context.Background())
	var started []int
	_, err = a.Exec(ctx, desktop.Exec{Script: "setsid sh -c 'echo $$; exec sleep 1000' & wait"}, func(_ desktop.Stream, p []byte) {
		started = append(started, pids(t, string(p))...)
		cancel()
	})
	if !errors.Is(err, context.Canceled) || len(started) != 1 {
		t.Fatalf("the error is %v, started %v", err, started)
	}
	poll(t, "the command's end", func() bool { return !alive(started[0]) })
}

// What a command says comes after the display has shown what was drawn before. That it has ended is
// told at once, and Shown waits for what it drew. All of it comes also when the display is stuck.
func TestExecComesAfterItsPicture(t *testing.T) {
	d := newDisplay()
	var shown atomic.Int32
	ending := make(chan struct{})
	d.shown = func(context.Context) error {
		if shown.Load() > 0 {
			<-ending
		}
		shown.Add(1)
		return nil
	}
	a := pair(t, d)
	status(t, a, func(s desktop.AgentStatus) bool { return s.Ready })
	heard := int32(0)
	if _, err := a.Exec(testContext(t), desktop.Exec{Script: "echo one"}, func(desktop.Stream, []byte) { heard = shown.Load() }); err != nil {
		t.Fatal(err)
	}
	if heard != 1 || shown.Load() != 1 {
		t.Errorf("the display was asked %d times before the output, and %d times before the end", heard, shown.Load())
	}
	wantShown(t, a, ending)

	d = newDisplay()
	d.shown = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	a = pair(t, d)
	status(t, a, func(s desktop.AgentStatus) bool { return s.Ready })
	if r, err := a.Exec(testContext(t), desktop.Exec{Script: "echo one; echo two >&2"}, nil); err != nil || r.Stdout != "one\n" || r.Stderr != "two\n" {
		t.Errorf("with a display that is stuck: %+v, %v", r, err)
	}
	if err := a.Shown(testContext(t)); err != nil {
		t.Errorf("with a display that is stuck: %v", err)
	}
}

// An action is answered before what it drew is shown, and Shown waits for that.
func TestActIsShownLater(t *testing.T) {
	d := newDisplay()
	ending := make(chan struct{})
	d.shown = func(context.Context) error { <-ending; return nil }
	d.act = func(context.Context, []desktop.Action) (desktop.Acted, error) { return desktop.Acted{}, nil }
	a := pair(t, d)
	status(t, a, func(s desktop.AgentStatus) bool { return s.Ready })
	if err := a.Shown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Act(testContext(t), desktop.Action{Move: &desktop.Move{X: 1, Y: 2}}); err != nil {
		t.Fatal(err)
	}
	wantShown(t, a, ending)
}

// wantShown checks that Shown returns when the display has shown everything, and not before.
func wantShown(t *testing.T, a desktop.Agent, ending chan struct{}) {
	t.Helper()
	ended, cancel := context.WithCancel(testContext(t))
	cancel()
	if err := a.Shown(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Shown waits for nothing: %v", err)
	}
	close(ending)
	if err := a.Shown(testContext(t)); err != nil {
		t.Error(err)
	}
}

// hostile connects to a guest that shakes hands and then answers as it likes.
func hostile(t *testing.T, routes map[string]http.HandlerFunc) (desktop.Agent, *mux, error) {
	t.Helper()
	p := newPort()
	end := p.connect()
	w := newWire(p.open(), true, nil)
	t.Cleanup(w.close)
	muxes := make(chan *mux, 1)
	ctx := testContext(t)
	go func() {
		l := w.leg()
		if answer(ctx, l, peer{version: "evil\x1b[0m"}) != nil {
			return
		}
		m, err := newMux(l, false, testLog(t))
		if err != nil {
			return
		}
		t.Cleanup(m.close)
		muxes <- m
		m.serve(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if h := routes[r.URL.Path]; h != nil {
				h(w, r)
			} else if r.URL.Path == routeStatus {
				fmt.Fprintln(w, `{"version":"x"}`)
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}
		}), hostStreams, testLog(t))
	}()
	a, err := (&Connector{Log: testLog(t)}).Connect(ctx, testDesktop, end)
	if err == nil {
		t.Cleanup(func() { a.Close() })
	}
	return a, wait(t, muxes, "the guest"), err
}

func TestHostileStatus(t *testing.T) {
	for name, body := range map[string]string{
		"endless line": strings.Repeat("x", maxStatus+10),
		"no JSON":      "hello\n",
		"nothing":      "",
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := hostile(t, map[string]http.HandlerFunc{routeStatus: func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, body)
			}})
			if err == nil {
				t.Error("it was believed")
			}
		})
	}
	a, _, err := hostile(t, map[string]http.HandlerFunc{routeStatus: func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(desktop.AgentStatus{
			Reason: strings.Repeat("é", 5000) + "\x00", Version: "\x1b\xff", Display: desktop.Size{Width: -1, Height: 1 << 40},
			Addresses: make([]string, 1000),
		})
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}})
	if err != nil {
		t.Fatal(err)
	}
	s := a.Status()
	if len(s.Reason) > maxMessage || s.Version != " \uFFFD" || s.Display.Width != 0 || s.Display.Height != maxDisplaySide || len(s.Addresses) != maxAddress {
		t.Errorf("the status is %+v", s)
	}
}

func TestHostileAnswers(t *testing.T) {
	fail := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			io.WriteString(w, body)
		}
	}
	raw := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.Write(b) }
	}
	capture := func(numbers ...int) http.HandlerFunc {
		var b []byte
		for _, n := range numbers {
			b = binary.BigEndian.AppendUint32(b, uint32(n))
		}
		return raw(b)
	}
	flood := func(w http.ResponseWriter, _ *http.Request) {
		for range 200 {
			if writeChunk(w, chunkStdout, make([]byte, maxChunk)) != nil {
				return
			}
		}
		writeChunk(w, chunkExit, []byte(`{"exitCode":0}`))
	}
	act := func(a desktop.Agent) error { _, err := a.Act(context.Background()); return err }
	look := func(a desktop.Agent) error { _, err := a.Capture(context.Background()); return err }
	point := func(a desktop.Agent) error { _, err := a.Cursor(context.Background()); return err }
	run := func(a desktop.Agent) error {
		_, err := a.Exec(context.Background(), desktop.Exec{Script: "x"}, nil)
		return err
	}
	for name, c := range map[string]struct {
		route   string
		handler http.HandlerFunc
		call    func(desktop.Agent) error
		code    desktop.Code
		message string
	}{
		"a code it may not use":  {routeAct, fail(`{"code":"forbidden","message":"m"}`), act, desktop.Internal, "agent: m"},
		"an error without shape": {routeAct, fail(`<html>`), act, desktop.Internal, "cannot be read"},
		"an endless error":       {routeAct, fail(strings.Repeat(" ", maxAnswer+1)), act, desktop.Internal, "more than"},
		"an endless answer":      {routeAct, raw(make([]byte, maxAnswer+1)), act, desktop.Unavailable, "more than"},
		"a display too large":    {routeCapture, capture(1<<20, 1<<20, 0, 0, 0, 0, 0, 0), look, desktop.Unavailable, "a display of"},
		"a negative display":     {routeCapture, capture(-4, -4, 0, 0, 0, 0, 0, 0), look, desktop.Unavailable, "a display of"},
		"a picture cut short":    {routeCapture, capture(2560, 1600, 0, 0, 0, 0, 0, 0, 1, 2), look, desktop.Unavailable, "EOF"},
		"a cursor out of place":  {routeCapture, capture(1, 1, 1, 1, 5, 5, 0, 0, 0), look, desktop.Unavailable, "out of place"},
		"a cursor too large":     {routeCursor, capture(513, 1, 0, 0, 0, 0), point, desktop.Unavailable, "a cursor of"},
		"a cursor cut short":     {routeCursor, capture(2, 2, 0, 0, 0, 0, 7), point, desktop.Unavailable, "EOF"},
		"a chunk too large":      {routeExec, raw([]byte{1, 0xff, 0, 0, 0}), run, desktop.Unavailable, "a chunk of"},
		"a chunk of no kind":     {routeExec, raw([]byte{9, 0, 0, 0, 0}), run, desktop.Unavailable, "unknown kind"},
		"no ending":              {routeExec, raw([]byte{1, 0, 0, 0, 1, 'x'}), run, desktop.Unavailable, "EOF"},
		"more output than asked": {routeExec, flood, func(a desktop.Agent) error {
			r, err := a.Exec(context.Background(), desktop.Exec{Script: "x"}, nil)
			if err == nil {
				return desktop.Errorf(desktop.TooLarge, "%d %v", len(r.Stdout), r.Truncated)
			}
			return err
		}, desktop.TooLarge, fmt.Sprintf("%d true", desktop.MaxExecOutput)},
	} {
		t.Run(name, func(t *testing.T) {
			a, _, err := hostile(t, map[string]http.HandlerFunc{c.route: c.handler})
			if err != nil {
				t.Fatal(err)
			}
			code(t, c.call(a), c.code, c.message)
		})
	}
}

func TestErrorMembersAreBounded(t *testing.T) {
	deep := any("x")
	for range 50 {
		deep = map[string]any{"d": deep}
	}
	details := map[string]any{"deep": deep, "n": 1.5, "list": []any{1.0, nil, "\x00"}}
	for i := range 100 {
		details[fmt.Sprint("k", i)] = strings.Repeat("v", 5000)
	}
	var e *desktop.Error
	if !errors.As(failure{Code: desktop.Invalid, Message: strings.Repeat("m", 5000), Details: details}.err(), &e) {
		t.Fatal("no desktop.Error")
	}
	if len(e.Message) > maxMessage || len(e.Details) > 16 {
		t.Errorf("%d characters, %d members", len(e.Message), len(e.Details))
	}
	encoded, err := json.Marshal(e.Details)
	if err != nil || len(encoded) > 20*maxMessage {
		t.Errorf("%d bytes of members, %v", len(encoded), err)
	}
}

// A flood of pings, each of which costs a goroutine, ends the session.
func TestPingFlood(t *testing.T) {
	a, m, err := hostile(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for range 1000 {
			if _, err := m.session.Ping(); err != nil {
				return
			}
		}
	}()
	wait(t, a.Done(), "the session's end")
}

// A guest may open many streams; what is beyond the limits waits or is turned away, and the rest
// of the session goes on.
func TestManyStreams(t *testing.T) {
	a, m, err := hostile(t, map[string]http.HandlerFunc{routeAct: func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"tookMs":1}`)
	}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 * guestStreams {
		go func() {
			if s, err := m.session.OpenStream(); err == nil {
				s.Write([]byte("GET "))
			}
		}()
	}
	for range 20 {
		if _, err := a.Act(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExecDeadlineOfTheHost(t *testing.T) {
	ctx, cancel := within(context.Background(), time.Nanosecond, "the command")
	defer cancel()
	<-ctx.Done()
	code(t, context.Cause(ctx), desktop.Unavailable, "did not finish the command")
}

func FuzzCapture(f *testing.F) {
	f.Add(binary.BigEndian.AppendUint32(nil, 1))
	f.Add(append([]byte{0, 0, 0, 1, 0, 0, 0, 1}, make([]byte, 28)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		frame, err := readCapture(strings.NewReader(string(in)))
		if err == nil && len(frame.Pixels.Pix) > len(in) {
			t.Fatal("more pixels than were sent")
		}
	})
}

func FuzzChunks(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 1, 'x'})
	f.Fuzz(func(t *testing.T, in []byte) {
		r, buf := strings.NewReader(string(in)), make([]byte, maxChunk)
		for {
			if _, content, err := readChunk(r, buf); err != nil || len(content) > len(in) {
				return
			}
		}
	})
}

func TestStreamNumbers(t *testing.T) {
	for _, c := range []struct {
		name  string
		given []uint32
		ok    []bool
	}{
		{"in order", []uint32{2, 4, 6}, []bool{true, true, true}},
		{"announced in another order", []uint32{6, 2, 4, 8}, []bool{true, true, true, true}},
		{"had before", []uint32{2, 4, 4, 2, 6}, []bool{true, true, false, false, true}},
		{"had before, and early", []uint32{6, 6, 2, 4, 6}, []bool{true, false, true, true, false}},
		{"the host's to give", []uint32{1, 3, 0}, []bool{false, false, false}},
		{"the last there is", []uint32{math.MaxUint32 - 1, math.MaxUint32}, []bool{true, false}},
	} {
		var n numbers
		for i, id := range c.given {
			if n.take(id) != c.ok[i] {
				t.Errorf("%s: %d is taken: %t", c.name, id, !c.ok[i])
			}
		}
	}
	var n numbers
	for id := uint32(4); id < 4+4*mostEarly; id += 2 { // 2 never comes
		if !n.take(id) {
			t.Fatalf("%d is not taken", id)
		}
	}
	if len(n.early) > mostEarly || n.take(2) {
		t.Errorf("%d numbers are remembered", len(n.early))
	}
}
