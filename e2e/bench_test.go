package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// BenchmarkAgainstTheGuestsTools does the same thing through the API and with xdotool, scrot and a
// shell in the guest, by turns on the same guest, and prints the medians. What the tools take is
// measured in the guest, by the shell that starts them; what the API takes on the host, from the
// request to the whole answer.
func BenchmarkAgainstTheGuestsTools(b *testing.B) {
	g := shared(b)
	const rounds = 25
	text := strings.Repeat("The quick brown fox. ", 5)[:100]
	g.events(b, "")

	cases := []struct {
		name, route string
		method      string
		body        any
		command     string
	}{
		{"click", "click", http.MethodPost, map[string]any{"x": 400, "y": 300}, "xdotool mousemove 400 300 click 1"},
		{"type 100 characters", "type", http.MethodPost, map[string]any{"text": text}, "xdotool type --delay 0 -- '" + text + "'"},
		{"exec true", "exec", http.MethodPost, map[string]any{"command": "true"}, "sh -c true"},
		{"screenshot", "screenshot", http.MethodGet, nil, "scrot -o -p /tmp/bench.png"},
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tAPI, ms\tin the guest, ms\ttimes faster\tp90 of the API\tthe tool\t")
	for _, c := range cases {
		var api, tool []float64
		for range rounds {
			began := time.Now()
			g.call(b, c.method, g.path(c.route), c.body)
			api = append(api, float64(time.Since(began).Microseconds())/1000)
			took := g.exec(b, map[string]any{"command": `bash -c 'a=$EPOCHREALTIME; "$@" >/dev/null; b=$EPOCHREALTIME; echo $(( ${b/./} - ${a/./} ))' - ` + c.command})
			micros, err := strconv.ParseFloat(strings.TrimSpace(took.Stdout), 64)
			if err != nil || took.ExitCode != 0 {
				b.Fatalf("%s: %+v", c.command, took)
			}
			tool = append(tool, micros/1000)
		}
		slices.Sort(api)
		slices.Sort(tool)
		a, t := api[rounds/2], tool[rounds/2]
		name, _, _ := strings.Cut(c.command, " ")
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%s\t\n", c.name, a, t, t/a, api[rounds*9/10], name)
		b.ReportMetric(a, strings.ReplaceAll(c.name, " ", "-")+"-ms")
	}
	w.Flush()

	lab.mu.Lock()
	pid := lab.process.Process.Pid
	lab.mu.Unlock()
	rss := func(status string) string {
		for line := range strings.Lines(status) {
			if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				return strings.TrimSpace(value)
			}
		}
		return "unknown"
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	binary, err := os.Stat(lab.binary)
	if err != nil {
		b.Fatal(err)
	}
	out, err := lab.output(b.Context(), "--json", "image", "list")
	if err != nil {
		b.Fatal(err)
	}
	var images []struct {
		Name      string
		SizeBytes int64
	}
	if err := json.Unmarshal(out, &images); err != nil {
		b.Fatal(err)
	}
	fmt.Fprintf(&table, "\nresident: serve %s, agent %s; binary %.1f MB", rss(string(status)),
		rss(g.root(b, fmt.Sprintf("cat /proc/%d/status", g.agentPID(b)))), float64(binary.Size())/1e6)
	for _, i := range images {
		fmt.Fprintf(&table, "; image %s %.0f MB", i.Name, float64(i.SizeBytes)/1e6)
	}
	fmt.Printf("\n%s\n\n", table.String())
}
