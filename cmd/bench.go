package cmd

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bureau/desktop"
)

// bench measures what an agent's loop is made of, on one running desktop: each thing through the
// API, and by turns the way that is usual elsewhere. What a usual way takes is measured in the guest,
// by the shell that starts it, so that it pays for no network and no API.

const (
	benchFolder = "/tmp/bureau-bench"
	// benchSink is where the bench's own terminal stands, and what it is typed into.
	benchX, benchY = 400, 300
)

// measurement is one row: what takes how long, in milliseconds.
type measurement struct {
	Name     string    `json:"name"`
	API      []float64 `json:"-"`
	Usual    []float64 `json:"-"`
	UsualWay string    `json:"usualWay"`

	APIMedian   float64 `json:"apiMedianMs"`
	APIP95      float64 `json:"apiP95Ms"`
	UsualMedian float64 `json:"usualMedianMs"`
	UsualP95    float64 `json:"usualP95Ms"`
	Ratio       float64 `json:"ratio"` // of the medians: how many times faster the API is
}

// benchReport is what `bureau bench --json` prints.
type benchReport struct {
	Desktop      string        `json:"desktop"`
	Acceleration string        `json:"acceleration"`
	Display      desktop.Size  `json:"display"`
	Rounds       int           `json:"rounds"`
	Measurements []measurement `json:"measurements"`
	// Typed is how often 1,000 characters were typed and read back, Exact how often all were right.
	Typed int `json:"typed"`
	Exact int `json:"exact"`
	// HostClick is the host's part of a click, the whole but for what the guest took: the API, and the
	// link there and back. See and Encode are the parts of a screenshot that are seeing the display, as it
	// is after what was done, and encoding. Medians, in milliseconds.
	HostClick float64 `json:"hostClickMs"`
	See       float64 `json:"seeMs"`
	Encode    float64 `json:"encodeMs"`
	// Still is how long after the display's last change the picture of a menu was answered, the quiet time
	// that tells that it was the last included; the median in milliseconds.
	Still float64 `json:"stillMs"`
	// StepDesktop is the desktop's part of a step of its agent, a click and the picture of what it has led
	// to, the median in milliseconds; the loop's own is a measurement. StepUnmeasured says why there is
	// neither.
	StepDesktop    float64 `json:"stepDesktopMs,omitempty"`
	StepUnmeasured string  `json:"stepUnmeasured,omitempty"`
	// DumpUnmeasured says why QEMU's own screendump was not, "" when it was.
	DumpUnmeasured string `json:"dumpUnmeasured,omitempty"`
	// SamePixels tells whether the API's screenshot and the guest's own have the same pixels.
	SamePixels bool `json:"samePixels"`
}

func (a *app) benchCommand() *cobra.Command {
	var rounds, typings int
	c := &cobra.Command{
		Use: "bench DESKTOP", Short: "Measure how fast a desktop can be seen and used",
		Long: `Measure how fast a desktop can be seen and used, against the usual ways of doing the same in
the same guest: an xdotool process for each action, xdotool type, scrot to a file, a pause of two
seconds. Each pair is measured by turns in one run, so the ratios hold on a busy host too. On the
desktop's own host, with virsh, QEMU's screendump is measured as well.

The agent's loop is measured by itself: what a step takes beyond its model and the desktop. For
that the desktop is lent a model of the bench's own, which needs the administration socket.

It opens a terminal on the desktop and types into it: use a desktop where that disturbs nobody.
The guest needs xdotool, scrot, bash and a terminal, as the images that bureau builds have.`,
		Example: `  bureau bench demo
  bureau bench demo --rounds 50 --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeDesktop,
		RunE: func(c *cobra.Command, args []string) error {
			if rounds < 1 || typings < 1 {
				return usage("--rounds and --typings are 1 or more")
			}
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			b := &bench{remote: r, path: path, rounds: rounds, typings: typings, tell: a.progressLine}
			report, err := b.run(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(report)
			}
			return a.printBench(report)
		},
	}
	c.Flags().IntVar(&rounds, "rounds", 20, "how often each thing is measured")
	c.Flags().IntVar(&typings, "typings", 10, "how often 1,000 characters are typed and read back")
	return c
}

// progressLine tells a person what is going on, and a script nothing.
func (a *app) progressLine(text string) {
	if !a.json {
		fmt.Fprintln(a.err, text+"…")
	}
}

func (a *app) printBench(r *benchReport) error {
	fmt.Fprintf(a.out, "%s, %s, %dx%d, %d rounds; milliseconds\n\n", r.Desktop, r.Acceleration, r.Display.Width, r.Display.Height, r.Rounds)
	rows := make([][]string, len(r.Measurements))
	number := func(ms float64) string { return strconv.FormatFloat(ms, 'f', 1, 64) }
	for i, m := range r.Measurements {
		rows[i] = []string{m.Name, number(m.APIMedian), number(m.APIP95), "", "", "", ""}
		if len(m.Usual) > 0 {
			rows[i] = append(rows[i][:3], m.UsualWay, number(m.UsualMedian), number(m.UsualP95), strconv.FormatFloat(m.Ratio, 'f', 1, 64)+"×")
		}
	}
	if err := a.table([]string{"WHAT", "BUREAU", "P95", "USUAL WAY", "MEDIAN", "P95", "FASTER"}, rows); err != nil {
		return err
	}
	if r.StepUnmeasured != "" {
		fmt.Fprintf(a.out, "\nthe agent's loop was NOT MEASURED: %s\n", printable(r.StepUnmeasured))
	} else {
		fmt.Fprintf(a.out, "\nbeside an agent's step, a click and its picture took the desktop %.1f ms\n", r.StepDesktop)
	}
	if r.DumpUnmeasured != "" {
		fmt.Fprintf(a.out, "QEMU's own screendump was NOT MEASURED: %s\n", printable(r.DumpUnmeasured))
	}
	fmt.Fprintf(a.out, "of a click, %.1f ms are the host's and the link's; of a screenshot, %.1f ms seeing the display and %.1f ms the encoder's\n", r.HostClick, r.See, r.Encode)
	fmt.Fprintf(a.out, "a menu was seen %.1f ms after the display's last change\n", r.Still)
	_, err := fmt.Fprintf(a.out, "1,000 characters typed %d times, %d of them exact; screenshot and scrot show %s\n",
		r.Typed, r.Exact, map[bool]string{true: "the same pixels", false: "DIFFERENT pixels"}[r.SamePixels])
	return err
}

// bench is one run.
type bench struct {
	*remote
	path            string
	rounds, typings int
	tell            func(string)
	domain          string // the desktop's in libvirt, when this is its host
}

func (b *bench) run(ctx context.Context) (*benchReport, error) {
	var d desktop.Desktop
	if err := b.call(ctx, request{method: http.MethodGet, path: b.path}, &d); err != nil {
		return nil, err
	}
	report := &benchReport{Desktop: d.Name, Acceleration: d.Acceleration, Rounds: b.rounds}
	if err := b.findDomain(ctx, d.ID); err != nil {
		report.DumpUnmeasured = err.Error()
	}
	b.tell("opening a terminal on the desktop")
	if err := b.openSink(ctx); err != nil {
		return nil, err
	}
	defer b.closeSink(context.WithoutCancel(ctx))

	for _, part := range []struct {
		name string
		do   func(context.Context, *benchReport) error
	}{
		{"clicking", b.clicks},
		{"typing", b.typing},
		{"running commands", b.commands},
		{"taking screenshots", b.screenshots},
		{"opening menus", b.menus},
		{"letting the agent click", b.steps},
	} {
		b.tell(part.name)
		if err := part.do(ctx, report); err != nil {
			return nil, fmt.Errorf("%s: %w", part.name, err)
		}
	}
	for i := range report.Measurements {
		report.Measurements[i].conclude()
	}
	return report, nil
}

func (m *measurement) conclude() {
	m.APIMedian, m.APIP95 = percentile(m.API, 50), percentile(m.API, 95)
	m.UsualMedian, m.UsualP95 = percentile(m.Usual, 50), percentile(m.Usual, 95)
	if m.APIMedian > 0 {
		m.Ratio = m.UsualMedian / m.APIMedian
	}
}

// percentile is the nearest-rank percentile.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

// post times one input action.
func (b *bench) post(ctx context.Context, action string, body, out any) (ms float64, err error) {
	began := time.Now()
	err = b.call(ctx, request{method: http.MethodPost, path: b.path + "/" + action, body: body}, out)
	return float64(time.Since(began).Microseconds()) / 1000, err
}

// sh runs a command and returns what it printed. A command that fails is an error.
func (b *bench) sh(ctx context.Context, script string) (string, error) {
	var result desktop.ExecResult
	if _, err := b.post(ctx, "bash", map[string]any{"script": script, "timeoutMs": 180_000}, &result); err != nil {
		return "", err
	}
	if result.ExitCode != 0 {
		return "", fmt.Errorf("in the guest, %q ended with %d: %s", script, result.ExitCode, strings.TrimSpace(result.Stderr))
	}
	return result.Stdout, nil
}

// inGuest times a command in the guest, by the clock of the shell that starts it.
func (b *bench) inGuest(ctx context.Context, command string) (ms float64, err error) {
	out, err := b.sh(ctx, "a=$EPOCHREALTIME; "+command+" >/dev/null 2>&1; code=$?; z=$EPOCHREALTIME\n"+
		`echo $(( ${z/./} - ${a/./} )); exit $code`)
	if err != nil {
		return 0, err
	}
	micros, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	return micros / 1000, err
}

// openSink opens a terminal that keeps what is typed into it, and leaves it with the focus.
func (b *bench) openSink(ctx context.Context) error {
	_, err := b.sh(ctx, `
rm -rf `+benchFolder+`; mkdir -p `+benchFolder+`; cd `+benchFolder+`
for tool in xdotool scrot; do command -v $tool >/dev/null || { echo "the guest has no $tool" >&2; exit 1; }; done
printf '#!/bin/sh\nstty raw -echo\necho $$ >pid\nexec cat >>typed\n' >sink; chmod +x sink
if command -v xfce4-terminal >/dev/null; then xfce4-terminal --disable-server -T bureau-bench -x ./sink
elif command -v xterm >/dev/null; then xterm -T bureau-bench -e ./sink
else x-terminal-emulator -e ./sink; fi >/dev/null 2>&1 &
for i in $(seq 600); do [ -s pid ] && break; sleep 0.1; done
[ -s pid ] || { echo "the terminal did not open within a minute" >&2; exit 1; }
window=$(timeout 60 xdotool search --sync --onlyvisible --name '^bureau-bench$' | tail -1)
xdotool windowmove --sync "$window" 60 60 windowsize "$window" 760 480 windowfocus --sync "$window" || true`)
	if err != nil {
		return err
	}
	_, err = b.post(ctx, "click", map[string]any{"x": benchX, "y": benchY, "settleMs": 3000}, nil)
	return err
}

func (b *bench) closeSink(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, _ = b.sh(ctx, "kill $(cat "+benchFolder+"/pid); rm -rf "+benchFolder)
}

func (b *bench) clicks(ctx context.Context, report *benchReport) error {
	m := measurement{Name: "click", UsualWay: "xdotool process"}
	var hosts []float64
	for range b.rounds {
		var acted desktop.Acted
		ms, err := b.post(ctx, "click", map[string]any{"x": benchX, "y": benchY}, &acted)
		if err != nil {
			return err
		}
		report.Display = acted.Display
		hosts = append(hosts, ms-acted.TookMs)
		usual, err := b.inGuest(ctx, fmt.Sprintf("xdotool mousemove %d %d click 1", benchX, benchY))
		if err != nil {
			return err
		}
		m.API, m.Usual = append(m.API, ms), append(m.Usual, usual)
	}
	report.HostClick = percentile(hosts, 50)
	report.Measurements = append(report.Measurements, m)
	return nil
}

// typing types 1,000 characters and reads back what has arrived. xdotool's default delay makes it
// slow, so it is measured less often.
func (b *bench) typing(ctx context.Context, report *benchReport) error {
	m := measurement{Name: "type 1,000 characters", UsualWay: "xdotool type"}
	text := strings.Repeat("The quick brown fox jumps over 13 lazy dogs; ", 23)[:1000]
	for i := range b.typings {
		ms, err := b.post(ctx, "type", map[string]any{"text": text}, nil)
		if err != nil {
			return err
		}
		m.API = append(m.API, ms)
		got, err := b.typed(ctx, len(text))
		if err != nil {
			return err
		}
		report.Typed++
		if got == text {
			report.Exact++
		}
		if i < 3 {
			usual, err := b.inGuest(ctx, "xdotool type -- '"+text+"'")
			if err != nil {
				return err
			}
			m.Usual = append(m.Usual, usual)
			if _, err := b.typed(ctx, len(text)); err != nil {
				return err
			}
		}
	}
	report.Measurements = append(report.Measurements, m)
	return nil
}

// typed waits for that many bytes to have arrived, takes them, and makes room for the next.
func (b *bench) typed(ctx context.Context, n int) (string, error) {
	return b.sh(ctx, fmt.Sprintf(`cd %s
for i in $(seq 300); do [ "$(stat -c %%s typed)" -ge %d ] && break; sleep 0.1; done
sleep 0.2; cat typed; : >typed`, benchFolder, n))
}

func (b *bench) commands(ctx context.Context, report *benchReport) error {
	m := measurement{Name: "run a command", UsualWay: "sh in the guest"}
	for range b.rounds {
		ms, err := b.post(ctx, "exec", map[string]any{"command": "true"}, nil)
		if err != nil {
			return err
		}
		usual, err := b.inGuest(ctx, "sh -c true")
		if err != nil {
			return err
		}
		m.API, m.Usual = append(m.API, ms), append(m.Usual, usual)
	}
	report.Measurements = append(report.Measurements, m)
	return nil
}

// screenshots measures a picture of a display that has changed, and one of a display that has not.
func (b *bench) screenshots(ctx context.Context, report *benchReport) error {
	changed := measurement{Name: "screenshot", UsualWay: "scrot to a file and back"}
	same := measurement{Name: "screenshot, unchanged", UsualWay: "screenshot, changed"}
	dumped := measurement{Name: "screenshot, from the host", UsualWay: "QEMU's screendump, by virsh"}
	var sees, encodes []float64
	for i := range b.rounds {
		if _, err := b.post(ctx, "move", map[string]any{"x": benchX + 3*i%300, "y": benchY}, nil); err != nil {
			return err
		}
		_, header, ms, err := b.screenshot(ctx, nil, "")
		if err != nil {
			return err
		}
		sees, encodes = append(sees, serverTiming(header, "see")), append(encodes, serverTiming(header, "encode"))
		changed.API = append(changed.API, ms)
		if _, _, ms, err = b.screenshot(ctx, nil, header.Get("ETag")); err != nil {
			return err
		}
		same.API, same.Usual = append(same.API, ms), append(same.Usual, changed.API[i])
		began := time.Now()
		if _, err := b.scrot(ctx); err != nil {
			return err
		}
		changed.Usual = append(changed.Usual, float64(time.Since(began).Microseconds())/1000)
		if b.domain == "" {
			continue
		}
		began = time.Now()
		if err := b.screendump(ctx); err != nil {
			return err
		}
		dumped.API, dumped.Usual = append(dumped.API, changed.API[i]), append(dumped.Usual, float64(time.Since(began).Microseconds())/1000)
	}
	report.See, report.Encode = percentile(sees, 50), percentile(encodes, 50)
	report.Measurements = append(report.Measurements, changed, same)
	if b.domain != "" {
		report.Measurements = append(report.Measurements, dumped)
	}

	ours, _, _, err := b.screenshot(ctx, url.Values{"cursor": {"false"}, "settleMs": {"3000"}}, "")
	if err != nil {
		return err
	}
	theirs, err := b.scrot(ctx)
	if err != nil {
		return err
	}
	report.SamePixels, err = samePixels(ours, theirs)
	return err
}

// screenshot takes a picture; with a tag that is still right it is empty.
func (b *bench) screenshot(ctx context.Context, query url.Values, tag string) (file []byte, header http.Header, ms float64, err error) {
	began := time.Now()
	h, err := http.NewRequestWithContext(ctx, http.MethodGet, b.base+b.path+"/screenshot?"+query.Encode(), nil)
	if err != nil {
		return nil, nil, 0, err
	}
	if b.key != "" {
		h.Header.Set("Authorization", "Bearer "+b.key)
	}
	if tag != "" {
		h.Header.Set("If-None-Match", tag)
	}
	answer, err := b.http.Do(h)
	if err != nil {
		return nil, nil, 0, b.unreachable(ctx, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusNotModified {
		return nil, nil, 0, problem(answer)
	}
	// At once where its size is told: growing for 2 MB is a third of a screenshot's time.
	var content bytes.Buffer
	content.Grow(int(min(max(answer.ContentLength, 0), maxAnswer)) + bytes.MinRead)
	_, err = content.ReadFrom(io.LimitReader(answer.Body, maxAnswer))
	return content.Bytes(), answer.Header, float64(time.Since(began).Microseconds()) / 1000, err
}

// serverTiming is a duration in a Server-Timing header, in milliseconds; 0 when it is not there.
func serverTiming(header http.Header, name string) float64 {
	for entry := range strings.SplitSeq(header.Get("Server-Timing"), ",") {
		if dur, ok := strings.CutPrefix(strings.TrimSpace(entry), name+";dur="); ok {
			ms, _ := strconv.ParseFloat(dur, 64)
			return ms
		}
	}
	return 0
}

// scrot takes a picture as others do: by a program in the guest, to a file, and the file back.
func (b *bench) scrot(ctx context.Context) ([]byte, error) {
	out, err := b.sh(ctx, "scrot -o "+benchFolder+"/shot.png && base64 -w0 "+benchFolder+"/shot.png")
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(out)
}

// libvirtURI is where a host has its desktops, as the configuration has it by default.
const libvirtURI = "qemu:///system"

// findDomain looks for the desktop among the machines of this host.
func (b *bench) findDomain(ctx context.Context, id string) error {
	out, err := exec.CommandContext(ctx, "virsh", "-q", "-c", libvirtURI, "list", "--name").Output()
	if err != nil {
		return fmt.Errorf("virsh list: %w", err)
	}
	for name := range strings.FieldsSeq(string(out)) {
		if strings.HasSuffix(name, "-"+id) {
			b.domain = name
			return nil
		}
	}
	return errors.New("the desktop is no machine of this host")
}

// screendump has QEMU write the display's pixels to a file.
func (b *bench) screendump(ctx context.Context) error {
	f, err := os.CreateTemp("", "bureau-bench-*.ppm")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	f.Close()
	if out, err := exec.CommandContext(ctx, "virsh", "-q", "-c", libvirtURI, "screenshot", b.domain, f.Name()).CombinedOutput(); err != nil {
		return fmt.Errorf("virsh screenshot: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func samePixels(a, b []byte) (bool, error) {
	first, err := png.Decode(bytes.NewReader(a))
	if err != nil {
		return false, err
	}
	second, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		return false, err
	}
	if first.Bounds() != second.Bounds() {
		return false, nil
	}
	box := first.Bounds()
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			if !sameColour(first, second, x, y) {
				return false, nil
			}
		}
	}
	return true, nil
}

func sameColour(a, b image.Image, x, y int) bool {
	r1, g1, b1, _ := a.At(x, y).RGBA()
	r2, g2, b2, _ := b.At(x, y).RGBA()
	return r1 == r2 && g1 == g2 && b1 == b2
}

// menus opens a menu and sees it: acting and seeing in one call, against a click, the usual pause
// and a picture.
func (b *bench) menus(ctx context.Context, report *benchReport) error {
	m := measurement{Name: "open a menu and see it", UsualWay: "click, 2 s pause, scrot"}
	var stills []float64
	shut := func() error {
		_, err := b.post(ctx, "key", map[string]any{"key": "Escape", "settleMs": 3000}, nil)
		return err
	}
	for i := range min(b.rounds, 10) {
		var answer struct {
			StillMs    *float64        `json:"stillMs"`
			Screenshot json.RawMessage `json:"screenshot"`
		}
		ms, err := b.post(ctx, "click", map[string]any{"x": benchX, "y": benchY, "button": "right", "screenshot": map[string]any{"settleMs": 5000}}, &answer)
		if err != nil {
			return err
		}
		m.API = append(m.API, ms)
		if answer.StillMs != nil {
			stills = append(stills, *answer.StillMs)
		}
		if err := shut(); err != nil {
			return err
		}
		if i >= 5 {
			continue
		}
		began := time.Now()
		_, err = b.sh(ctx, fmt.Sprintf("xdotool mousemove %d %d click 3; sleep 2; scrot -o %s/menu.png; base64 -w0 %s/menu.png", benchX, benchY, benchFolder, benchFolder))
		if err != nil {
			return err
		}
		m.Usual = append(m.Usual, float64(time.Since(began).Microseconds())/1000)
		if err := shut(); err != nil {
			return err
		}
	}
	report.Still = percentile(stills, 50)
	report.Measurements = append(report.Measurements, m)
	return nil
}
