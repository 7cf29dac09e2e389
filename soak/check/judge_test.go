package check

import (
	"strings"
	"testing"
)

// sound is an appliance with a running desktop, a stopped one, one that failed, one that has never
// been started and one that was destroyed.
func sound() (World, Expected) {
	return World{
			Records: []Record{
				{ID: "dt-run", Name: "run", Wish: "run"},
				{ID: "dt-off", Name: "off", Wish: "halt"},
				{ID: "dt-bad", Name: "bad", Wish: "run", Failure: "The machine ended."},
				{ID: "dt-new", Name: "new", Wish: "halt"},
				{ID: "dt-old", Name: "old", Wish: "destroy", Destroyed: true},
			},
			Domains: []Domain{
				{Name: "x-dt-run", ID: "dt-run", Disks: []string{"desktop-dt-run.qcow2"}, State: "running"},
				{Name: "x-dt-off", ID: "dt-off", Disks: []string{"desktop-dt-off.qcow2"}, State: "shutoff"},
				{Name: "x-dt-bad", ID: "dt-bad", Disks: []string{"desktop-dt-bad.qcow2"}, State: "crashed"},
			},
			Disks:     []Disk{{"dt-run", 1, true}, {"dt-off", 2, true}, {"dt-bad", 3, true}},
			Processes: []Process{{100, "x-dt-run"}},
			Desktops: []Desktop{
				{"dt-run", "run", "running", ""},
				{"dt-off", "off", "stopped", ""},
				{"dt-bad", "bad", "error", "The machine ended."},
				{"dt-new", "new", "stopped", ""},
			},
		}, Expected{
			Desktops: []Known{
				{ID: "dt-run", Names: []string{"run"}, Wishes: []string{"run"}},
				{ID: "dt-off", Names: []string{"off", "of"}, Wishes: []string{"run", "halt"}},
				{ID: "dt-bad", Names: []string{"bad"}, Wishes: []string{"run"}},
				{ID: "dt-new", Names: []string{"new"}, Wishes: []string{"halt"}},
				{ID: "dt-old", Gone: true},
			},
			Unborn: []string{"never"},
		}
}

func TestJudge(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*World, *Expected)
		rule   string // "" for no finding at all
		final  bool
	}{
		{"all is well", func(*World, *Expected) {}, "", false},
		{"a destroy that was not answered has happened", func(_ *World, e *Expected) { e.Desktops[4] = Known{ID: "dt-old", Going: true} }, "", false},
		{"a damaged database", func(w *World, _ *Expected) { w.Damage = "row 3 missing from index" }, "the database is whole", true},
		{"a lost desktop", func(w *World, _ *Expected) { w.Records = w.Records[:4] }, "a created desktop is kept", true},
		{"a destroyed one lives", func(w *World, _ *Expected) { w.Records[4].Destroyed = false }, "a destroyed desktop is gone", true},
		{"a destroyed one has a domain", func(w *World, _ *Expected) {
			w.Domains = append(w.Domains, Domain{Name: "x-dt-old", ID: "dt-old", State: "shutoff"})
		}, "a destroyed desktop is gone", true},
		{"a destroyed one has a disk", func(w *World, _ *Expected) { w.Disks = append(w.Disks, Disk{"dt-old", 9, true}) }, "a destroyed desktop is gone", true},
		{"destroyed unasked", func(w *World, _ *Expected) { w.Records[3].Destroyed = true }, "a desktop is destroyed on demand only", true},
		{"to be destroyed unasked", func(w *World, _ *Expected) { w.Records[3].Wish = "destroy" }, "a desktop is destroyed on demand only", true},
		{"a destroy stands still", func(w *World, e *Expected) { w.Records[3].Wish, e.Desktops[3].Going = "destroy", true }, "a destroy that was begun is finished", false},
		{"a stop was forgotten", func(_ *World, e *Expected) { e.Desktops[0].Wishes = []string{"halt"} }, "the last wish holds", false},
		{"a name was forgotten", func(_ *World, e *Expected) { e.Desktops[0].Names = []string{"walk"} }, "the last name holds", false},
		{"a create made two", func(w *World, e *Expected) {
			w.Records = append(w.Records, Record{ID: "dt-twin", Name: "run", Wish: "halt"})
			e.Desktops = append(e.Desktops, Known{ID: "dt-twin", Names: []string{"run"}, Wishes: []string{"halt"}})
		}, "a create makes one desktop", true},
		{"a stranger in the database", func(w *World, _ *Expected) { w.Records = append(w.Records, Record{ID: "dt-odd", Name: "odd"}) }, "a desktop is somebody's wish", true},
		{"a late birth", func(w *World, _ *Expected) { w.Records[0].Name, w.Desktops[0].Name = "never", "never" }, "what was not made stays unmade", true},
		{"a domain without a record", func(w *World, _ *Expected) {
			w.Domains = append(w.Domains, Domain{Name: "x-dt-odd", ID: "dt-odd", State: "shutoff"})
		}, "a domain has a record", false},
		{"two domains of one desktop", func(w *World, _ *Expected) {
			w.Domains = append(w.Domains, Domain{Name: "x-dt-run", ID: "dt-run", State: "running"})
		}, "a desktop has one domain", true},
		{"two domains on one disk", func(w *World, _ *Expected) { w.Domains[1].Disks = w.Domains[0].Disks }, "a disk has one domain", true},
		{"metadata of another", func(w *World, _ *Expected) { w.Domains[1].ID = "dt-new" }, "a domain says whose it is", true},
		{"a domain without its disk", func(w *World, _ *Expected) { w.Disks = w.Disks[:2] }, "a domain has its disk", false},
		{"a domain on half a disk", func(w *World, _ *Expected) { w.Disks[0].Whole = false }, "a domain has its disk", false},
		{"a domain without QEMU", func(w *World, _ *Expected) { w.Processes = nil }, "a running domain has a process", false},
		{"QEMU of a domain that is off", func(w *World, _ *Expected) { w.Processes = append(w.Processes, Process{101, "x-dt-off"}) }, "a process has a running domain", false},
		{"QEMU of no domain", func(w *World, _ *Expected) { w.Processes = append(w.Processes, Process{101, "x-dt-odd"}) }, "a process has a running domain", false},
		{"two QEMUs of one domain", func(w *World, _ *Expected) { w.Processes = append(w.Processes, Process{101, "x-dt-run"}) }, "a domain has one process", false},
		{"an orphaned disk", func(w *World, _ *Expected) { w.Disks = append(w.Disks, Disk{"dt-odd", 9, true}) }, "a disk has a record", false},
		{"a stray file", func(w *World, _ *Expected) { w.Strays = []string{"x.tmp"} }, "the pool holds images, agents and disks", false},
		{"not listed", func(w *World, _ *Expected) { w.Desktops = w.Desktops[:3] }, "the API tells of what there is", false},
		{"listed twice", func(w *World, _ *Expected) { w.Desktops = append(w.Desktops, w.Desktops[0]) }, "the API tells of a desktop once", true},
		{"listed and gone", func(w *World, _ *Expected) { w.Desktops = append(w.Desktops, Desktop{ID: "dt-old", Status: "stopped"}) }, "the API tells of what there is", false},
		{"listed by another name", func(w *World, _ *Expected) { w.Desktops[0].Name = "walk" }, "the API tells of what there is", false},
		{"running says the API", func(w *World, _ *Expected) { w.Desktops[1].Status = "running" }, "the status agrees with libvirt", false},
		{"stopped says the API", func(w *World, _ *Expected) { w.Desktops[0].Status = "stopped" }, "the status agrees with libvirt", false},
		{"pending for ever", func(w *World, _ *Expected) { w.Desktops[3].Status = "pending" }, "the status agrees with libvirt", false},
		{"an error without a reason", func(w *World, _ *Expected) { w.Desktops[2].Reason = "" }, "the status agrees with libvirt", false},
		{"failed and running", func(w *World, _ *Expected) {
			w.Domains[2].State, w.Processes = "running", append(w.Processes, Process{102, "x-dt-bad"})
		}, "the record agrees with libvirt", false},
		{"a boot is owed", func(w *World, _ *Expected) { w.Records[0].Boot = "restart" }, "what was begun is finished", false},
		{"wanted and off", func(w *World, _ *Expected) { w.Domains[0].State, w.Processes = "shutoff", nil }, "the record agrees with libvirt", false},
		{"unwanted and on", func(w *World, e *Expected) { w.Records[0].Wish, e.Desktops[0].Wishes[0] = "halt", "halt" }, "the record agrees with libvirt", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, e := sound()
			test.change(&w, &e)
			findings := (&Judge{Prefix: "x"}).Judge(w, e)
			wantFinding(t, findings, test.rule, test.final)
		})
	}
}

func wantFinding(t *testing.T, findings []Finding, rule string, final bool) {
	t.Helper()
	if rule == "" && len(findings) > 0 {
		t.Errorf("found %v", findings)
	}
	if rule == "" {
		return
	}
	for _, f := range findings {
		if f.Rule == rule && f.Final == final && f.Subject != "" && f.Text != "" {
			return
		}
	}
	t.Errorf("found %v, want %q (final: %t)", findings, rule, final)
}

func TestMemory(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*World)
		rule   string
		final  bool
	}{
		{"the same", func(*World) {}, "", false},
		{"a disk is lost", func(w *World) { w.Disks = w.Disks[1:] }, "a desktop keeps its disk", true},
		{"a disk is replaced", func(w *World) { w.Disks[0].Inode = 77 }, "a desktop keeps its disk", true},
		{"a domain is lost", func(w *World) { w.Domains = w.Domains[:2] }, "a desktop keeps its domain", false},
		// It has never run, so there is nothing to lose.
		{"a disk that nothing ran on is replaced", func(w *World) { w.Disks[1].Inode = 77 }, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := &Judge{Prefix: "x"}
			w, e := sound()
			j.Remember(w)
			test.change(&w)
			wantFinding(t, j.Judge(w, e), test.rule, test.final)
		})
	}
	j := &Judge{Prefix: "x"}
	w, e := sound()
	j.Remember(w)
	w.Records[0].Destroyed, e.Desktops[0] = true, Known{ID: "dt-run", Gone: true}
	w.Domains, w.Disks, w.Processes, w.Desktops = w.Domains[1:], w.Disks[1:], nil, w.Desktops[1:]
	j.Remember(w)
	wantFinding(t, j.Judge(w, e), "", false)
}

func TestDescribe(t *testing.T) {
	w, _ := sound()
	w.Damage, w.Strays = "broken", []string{"x.tmp"}
	text := w.Describe()
	for _, want := range []string{"dt-run", "x-dt-bad", "qemu    100", "inode=3", "x.tmp", "broken"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if strings.Contains(text, `"old"`) {
		t.Errorf("what is destroyed is told of:\n%s", text)
	}
}
