package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// printJSON prints what the API gave, untouched but for its indentation.
func (a *app) printJSON(value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s\n", text)
	return err
}

// table prints rows for people, aligned under their headings.
func (a *app) table(headings []string, rows [][]string) error {
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(headings, "\t"))
	for _, row := range rows {
		for i := range row {
			row[i] = printable(row[i])
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// facts prints one thing's properties.
func (a *app) facts(pairs ...string) error {
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", pairs[i], printable(pairs[i+1]))
		}
	}
	return w.Flush()
}

// printable keeps what others have named from playing with the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '\ufffd'
		}
		return r
	}, s)
}

// printableText is the same for text of several lines.
func printableText(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		cells := strings.Split(line, "\t")
		for j := range cells {
			cells[j] = printable(cells[j])
		}
		lines[i] = strings.Join(cells, "\t")
	}
	return strings.Join(lines, "\n")
}

// terminal tells whether a stream is one, and how wide.
func terminal(stream any) (width int, ok bool) {
	f, isFile := stream.(*os.File)
	if !isFile {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || os.Getenv("TERM") == "dumb" {
		return 0, false
	}
	return max(20, int(size.Col)), true
}

// humanBytes is a size for people.
func humanBytes(n int64) string {
	value, unit := float64(n), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, next
	}
	if value == float64(int64(value)) {
		return fmt.Sprintf("%.0f %s", value, unit)
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

func humanTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04")
}

// exactTime is for what is near.
func exactTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

func humanDuration(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// status is a report of something that takes its time: a line that changes on a terminal, a new
// line for each stage elsewhere, JSON lines for programs that asked for them, or nothing.
type status struct {
	w       io.Writer
	width   int // of the terminal; 0 elsewhere
	started time.Time
	stage   string
	since   time.Time
	drawn   bool
	frame   int
}

func newStatus(w io.Writer) *status {
	width, _ := terminal(w)
	return &status{w: w, width: width, started: time.Now(), since: time.Now()}
}

// show says where things stand; total 0 is unknown. It is called again and again.
func (s *status) show(stage, note string, done, total int) {
	if stage != s.stage {
		s.end()
		s.stage, s.since = stage, time.Now()
		if s.width == 0 {
			fmt.Fprintf(s.w, "%s…%s\n", stage, suffix(note))
			return
		}
	}
	if s.width == 0 {
		return
	}
	bar := string([]rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")[s.frame%10])
	s.frame++
	if total > 0 {
		const cells = 24
		full := min(cells, done*cells/total)
		bar = strings.Repeat("█", full) + strings.Repeat("░", cells-full) + fmt.Sprintf(" %3d%%", min(100, done*100/total))
	}
	line := fmt.Sprintf("%s  %s  %s%s", stage, bar, humanDuration(time.Since(s.since)), suffix(note))
	if r := []rune(line); len(r) >= s.width {
		line = string(r[:s.width-1])
	}
	fmt.Fprintf(s.w, "\r\x1b[K%s", line)
	s.drawn = true
}

// end closes the stage with the time it took.
func (s *status) end() {
	if s.stage == "" {
		return
	}
	took := humanDuration(time.Since(s.since))
	if s.width > 0 {
		fmt.Fprintf(s.w, "\r\x1b[K✓ %s  %s\n", s.stage, took)
	} else {
		fmt.Fprintf(s.w, "%s: %s\n", s.stage, took)
	}
	s.stage, s.drawn = "", false
}

// abandon leaves the stage as it is; a message follows.
func (s *status) abandon() {
	if s.drawn {
		fmt.Fprintln(s.w)
	}
	s.stage, s.drawn = "", false
}

func suffix(note string) string {
	if note == "" {
		return ""
	}
	return "  " + note
}
