package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// bureau bench measures a desktop whole, its agent's loop included, and leaves nothing of its own.
func TestBench(t *testing.T) {
	g := shared(t)
	out, err := lab.output(t.Context(), "bench", g.id, "--rounds", "4", "--typings", "1", "--json")
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Name      string  `json:"name"`
		APIMedian float64 `json:"apiMedianMs"`
		APIP95    float64 `json:"apiP95Ms"`
	}
	report := decode[struct {
		Measurements   []row
		Exact          int
		StepDesktop    float64 `json:"stepDesktopMs"`
		StepUnmeasured string
	}](t, out)
	if report.StepUnmeasured != "" || report.StepDesktop <= 0 || report.Exact != 1 {
		t.Errorf("the report is %s", out)
	}
	i := slices.IndexFunc(report.Measurements, func(m row) bool { return strings.HasPrefix(m.Name, "an agent's step") })
	if i < 0 || report.Measurements[i].APIMedian <= 0 || report.Measurements[i].APIP95 < report.Measurements[i].APIMedian {
		t.Fatalf("the agent's step is not measured: %s", out)
	}
	progress("a step of the agent took the loop %.1f ms (p95 %.1f), and the desktop %.1f ms", report.Measurements[i].APIMedian, report.Measurements[i].APIP95, report.StepDesktop)
	if r, err := g.send(t.Context(), http.MethodGet, g.path("provider"), nil); err != nil || r.status != http.StatusNotFound {
		t.Errorf("the bench's model is lent still: %v %s", err, r)
	}
	if sessions := g.call(t, http.MethodGet, g.path("chat/sessions"), nil); strings.Contains(string(sessions.body), "Measure how fast") {
		t.Errorf("the bench's session is there still: %s", sessions)
	}
}
