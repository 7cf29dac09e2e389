package screen

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bureau/desktop"
)

// These tests run against a QEMU of their own: no guest system, only a boot sector that draws.

// bootSector switches to 320x200 pixels of 256 colours and fills them with a pattern, and with
// another one after every key.
var bootSector = []byte{
	0xb8, 0x13, 0x00, //  mov ax, 0x13
	0xcd, 0x10, //        int 0x10      set the video mode
	0x68, 0x00, 0xa0, //  push 0xa000
	0x07,       //        pop es
	0x31, 0xdb, //        xor bx, bx
	0x31, 0xff, //  draw: xor di, di
	0xb9, 0x00, 0xfa, //  mov cx, 64000
	0x89, 0xf8, //  next: mov ax, di
	0x00, 0xe0, //        add al, ah
	0x00, 0xd8, //        add al, bl
	0xaa,       //        stosb
	0xe2, 0xf7, //        loop next
	0x31, 0xc0, //        xor ax, ax
	0xcd, 0x16, //        int 0x16      wait for a key
	0x43,       //        inc bx
	0xeb, 0xeb, //        jmp draw
}

// machine is a running QEMU.
type machine struct {
	t   testing.TB
	qmp *net.UnixConn
	in  *bufio.Scanner
	dir string
}

// startMachine starts QEMU with its processor halted.
func startMachine(t testing.TB) *machine {
	t.Helper()
	dir := t.TempDir()
	disk := make([]byte, 64<<10)
	copy(disk, bootSector)
	disk[510], disk[511] = 0x55, 0xaa
	if err := os.WriteFile(filepath.Join(dir, "disk"), disk, 0o600); err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	qemu := exec.Command("qemu-system-x86_64", "-S", "-nodefaults", "-no-user-config",
		"-accel", "tcg", "-m", "32", "-vga", "std",
		"-drive", "if=ide,format=raw,file="+filepath.Join(dir, "disk"),
		"-display", "dbus,p2p=yes", "-vnc", "unix:"+filepath.Join(dir, "vnc"),
		"-qmp", "unix:"+filepath.Join(dir, "qmp")+",server=on,wait=off")
	qemu.Stdout, qemu.Stderr = &output, &output
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- qemu.Wait() }()
	t.Cleanup(func() {
		qemu.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("QEMU said: %s", output.String())
		}
	})
	m := &machine{t: t, dir: dir}
	eventually(t, "QEMU's monitor", func() bool {
		conn, err := net.Dial("unix", filepath.Join(dir, "qmp"))
		if err != nil {
			return false
		}
		m.qmp = conn.(*net.UnixConn)
		return true
	})
	t.Cleanup(func() { m.qmp.Close() })
	m.in = bufio.NewScanner(m.qmp)
	m.in.Scan() // its greeting
	m.command("qmp_capabilities", nil)
	return m
}

func (m *machine) command(name string, arguments any) {
	m.t.Helper()
	m.commandWithFile(name, arguments, nil)
}

func (m *machine) commandWithFile(name string, arguments any, file *os.File) {
	m.t.Helper()
	call := map[string]any{"execute": name}
	if arguments != nil {
		call["arguments"] = arguments
	}
	line, err := json.Marshal(call)
	if err != nil {
		m.t.Fatal(err)
	}
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	m.qmp.SetDeadline(time.Now().Add(30 * time.Second))
	if _, _, err := m.qmp.WriteMsgUnix(line, rights, nil); err != nil {
		m.t.Fatal(err)
	}
	for m.in.Scan() {
		var reply struct {
			Return *json.RawMessage `json:"return"`
			Error  *struct{ Desc string }
		}
		if err := json.Unmarshal(m.in.Bytes(), &reply); err != nil {
			m.t.Fatal(err)
		}
		if reply.Error != nil {
			m.t.Fatalf("%s: %s", name, reply.Error.Desc)
		}
		if reply.Return != nil {
			return
		}
	}
	m.t.Fatalf("%s: %v", name, m.in.Err())
}

func (m *machine) press(key string) {
	m.t.Helper()
	m.command("send-key", map[string]any{"keys": []any{map[string]string{"type": "qcode", "data": key}}})
}

// dial is what virDomainOpenGraphics does.
func (m *machine) dial(context.Context) (net.Conn, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	m.commandWithFile("getfd", map[string]string{"fdname": "display"}, theirs)
	m.command("add_client", map[string]any{"protocol": "@dbus-display", "fdname": "display"})
	return ours, nil
}

func (m *machine) openDBus(ctx context.Context) *Screen {
	m.t.Helper()
	s, err := OpenDBus(ctx, m.dial, slog.New(slog.DiscardHandler))
	if err != nil {
		m.t.Fatalf("open the D-Bus display: %v", cause(err))
	}
	m.t.Cleanup(func() { s.Close() })
	return s
}

func (m *machine) openRFB(ctx context.Context) *Screen {
	m.t.Helper()
	conn, err := net.Dial("unix", filepath.Join(m.dir, "vnc"))
	if err != nil {
		m.t.Fatal(err)
	}
	s, err := OpenRFB(ctx, conn, slog.New(slog.DiscardHandler))
	if err != nil {
		m.t.Fatalf("open the RFB display: %v", cause(err))
	}
	m.t.Cleanup(func() { s.Close() })
	return s
}

// dump is what QEMU itself says is on the display.
func (m *machine) dump() *image.RGBA {
	m.t.Helper()
	path := filepath.Join(m.dir, "dump.ppm")
	m.command("screendump", map[string]string{"filename": path})
	file, err := os.Open(path)
	if err != nil {
		m.t.Fatal(err)
	}
	defer file.Close()
	in := bufio.NewReader(file)
	var width, height int
	if _, err := fmt.Fscanf(in, "P6\n%d %d\n255\n", &width, &height); err != nil {
		m.t.Fatal(err)
	}
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	data := make([]byte, 3*width*height)
	if _, err := io.ReadFull(in, data); err != nil {
		m.t.Fatal(err)
	}
	for i := range width * height {
		copy(img.Pix[4*i:], data[3*i:3*i+3])
		img.Pix[4*i+3] = 0xff
	}
	return img
}

func cause(err error) error {
	if e, ok := err.(*desktop.Error); ok && e.Err != nil {
		return fmt.Errorf("%w: %w", err, e.Err)
	}
	return err
}

func eventually(t testing.TB, what string, ready func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ready(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

func frameOf(t *testing.T, ctx context.Context, s *Screen) *desktop.Frame {
	t.Helper()
	frame, err := s.Frame(ctx)
	if err != nil {
		t.Fatalf("frame: %v", cause(err))
	}
	return frame
}

func same(a, b *image.RGBA) bool { return a.Rect == b.Rect && bytes.Equal(a.Pix, b.Pix) }

// pattern tells whether a frame has the boot sector's resolution, doubled by some versions of QEMU.
func pattern(frame *desktop.Frame) bool {
	size := frame.Pixels.Rect.Size()
	return size == image.Pt(320, 200) || size == image.Pt(640, 400)
}

func TestQEMU(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	m := startMachine(t)
	dbus, rfb := m.openDBus(ctx), m.openRFB(ctx)

	// Nothing has run yet; the display shows QEMU's own notice.
	before := frameOf(t, ctx, dbus)
	if before.Source != desktop.SourceDBus || frameOf(t, ctx, rfb).Source != desktop.SourceRFB {
		t.Error("a frame names the wrong source")
	}
	if !same(before.Pixels, m.dump()) || !same(frameOf(t, ctx, rfb).Pixels, m.dump()) {
		t.Error("the notice differs from QEMU's own dump")
	}
	m.command("cont", nil)
	eventually(t, "the boot sector's resolution", func() bool { return pattern(frameOf(t, ctx, dbus)) })

	agree := func() *desktop.Frame {
		t.Helper()
		var frame *desktop.Frame
		eventually(t, "all three pictures to be the same", func() bool {
			frame = frameOf(t, ctx, dbus)
			return same(frame.Pixels, m.dump()) && same(frame.Pixels, frameOf(t, ctx, rfb).Pixels)
		})
		return frame
	}
	var pictures []*image.RGBA
	for range 3 {
		var frame *desktop.Frame
		eventually(t, "the whole pattern", func() bool {
			frame = agree()
			for _, earlier := range pictures {
				if same(earlier, frame.Pixels) {
					return false
				}
			}
			return colours(frame.Pixels) > 100
		})
		pictures = append(pictures, frame.Pixels)
		overRFB := frameOf(t, ctx, rfb)
		m.press("spc")
		if err := dbus.Wait(ctx, frame.Serial); err != nil {
			t.Fatalf("no change after a key over D-Bus: %v", cause(err))
		}
		if err := rfb.Wait(ctx, overRFB.Serial); err != nil {
			t.Fatalf("no change after a key over RFB: %v", cause(err))
		}
	}
	last := agree()

	// Nobody draws any more: the frame stays the very same one, and nothing is told.
	changes := make(chan desktop.Damage, 100)
	stop := dbus.Watch(func(d desktop.Damage) { changes <- d })
	if again := frameOf(t, ctx, dbus); again != last {
		t.Errorf("frame %d became %d while nothing changed", last.Serial, again.Serial)
	}
	m.press("spc")
	damage := <-changes
	if damage.Serial <= last.Serial || damage.Rect.Empty() || !damage.Rect.In(last.Pixels.Rect) || damage.At.IsZero() {
		t.Errorf("damage after a key: %+v", damage)
	}
	stop()
	agree()
}

func colours(img *image.RGBA) int {
	seen := map[color.RGBA]bool{}
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			seen[img.RGBAAt(x, y)] = true
		}
	}
	return len(seen)
}

func TestQEMUServesSeveralAndAgain(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	m := startMachine(t)
	m.command("cont", nil)
	first := m.openDBus(ctx)
	eventually(t, "the boot sector's resolution", func() bool { return pattern(frameOf(t, ctx, first)) })
	second, third := m.openDBus(ctx), m.openDBus(ctx)
	screens := []*Screen{first, second, third}
	for range 5 { // coming and going disturbs nobody
		s := m.openDBus(ctx)
		frameOf(t, ctx, s)
		s.Close()
		select {
		case <-s.Done():
		default:
			t.Fatal("a closed screen is not done")
		}
		if _, err := s.Frame(ctx); desktop.CodeOf(err) != desktop.Unavailable {
			t.Fatalf("a closed screen's frame: %v", err)
		}
	}
	second.Close()
	// QEMU answers on the newest control connection only; each screen gets one when it needs it.
	for range 3 {
		for _, s := range []*Screen{first, third} {
			s.rounds.patience = time.Minute
			err := s.Sync(ctx)
			for desktop.CodeOf(err) == desktop.Unavailable { // a busy machine is no failure
				err = s.Sync(ctx)
			}
			must(t, err)
		}
	}
	m.press("spc")
	eventually(t, "the others to show the same", func() bool {
		dump := m.dump()
		return same(frameOf(t, ctx, first).Pixels, dump) && same(frameOf(t, ctx, third).Pixels, dump)
	})
	// QEMU's end is everybody's end.
	waiting := make(chan error, 1)
	go func() {
		for {
			frame, err := third.Frame(ctx)
			if err == nil {
				err = third.Wait(ctx, frame.Serial)
			}
			if err != nil {
				waiting <- err
				return
			}
		}
	}()
	rfb := m.openRFB(ctx)
	frameOf(t, ctx, rfb)
	m.qmp.Write([]byte(`{"execute":"quit"}`))
	for _, s := range append(screens, rfb) {
		select {
		case <-s.Done():
		case <-ctx.Done():
			t.Fatal("a screen outlives its machine")
		}
	}
	if err := <-waiting; desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("waiting ended with %v", err)
	}
	if _, err := OpenDBus(ctx, func(context.Context) (net.Conn, error) {
		ours, theirs, err := socketPair()
		if err == nil {
			theirs.Close()
		}
		return ours, err
	}, slog.New(slog.DiscardHandler)); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("opening what has gone: %v", err)
	}
}
