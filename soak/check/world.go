package check

import (
	"fmt"
	"strings"
	"time"
)

// World is what there is of an appliance, read within a fraction of a second but not at one instant:
// while something is under way, its parts may contradict each other for a moment.
type World struct {
	Records   []Record
	Damage    string // what SQLite says of the database, empty when it is whole
	Domains   []Domain
	Disks     []Disk
	Strays    []string // files in the pool that nothing is known of
	Processes []Process
	Desktops  []Desktop
}

// Record is a row of the database's table of desktops.
type Record struct {
	ID, Name            string
	Wish, Boot, Failure string
	Destroyed           bool
}

// Domain is one of libvirt's, of the appliance's prefix.
type Domain struct {
	Name, UUID string
	ID         string   // of the desktop, from the metadata
	Disks      []string // volumes and files that it has for writing
	State      string   // running, paused, shutoff…
	Reason     string   // libvirt's number
}

// Disk is a desktop's file in the pool.
type Disk struct {
	ID    string
	Inode uint64
	Whole bool // it has a qcow2 header with a backing file
}

// Process is a QEMU that runs a domain.
type Process struct {
	PID    int
	Domain string
}

// Desktop is what the API says of one.
type Desktop struct {
	ID, Name, Status, Reason string
}

// Expected is what clients were told, so what has to be.
type Expected struct {
	Desktops []Known
	// Unborn are the names of creates that were never answered and had left nothing when things had
	// settled.
	Unborn []string
}

// Known is a desktop whose create was answered, or was found to have happened.
type Known struct {
	ID     string
	Names  []string // that it may have: the last one that was asked for, or several if asked at once
	Wishes []string // likewise: run, halt
	Gone   bool     // its destroy was answered with success
	Going  bool     // its destroy was asked for and not answered, so it may have happened
}

// Finding is something that cannot be true.
type Finding struct {
	Rule    string // what is broken
	Subject string // the desktop, domain or file
	Text    string // what was seen
	// Final says that no waiting mends it: something that was promised is not so.
	Final bool
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: %s", f.Rule, f.Subject, f.Text)
}

// Describe writes the world for a person, one thing a line.
func (w World) Describe() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for _, r := range w.Records {
		if !r.Destroyed {
			line("  record  %s %q wish=%s boot=%q failure=%q", r.ID, r.Name, r.Wish, r.Boot, r.Failure)
		}
	}
	for _, d := range w.Desktops {
		line("  api     %s %q %s %q", d.ID, d.Name, d.Status, d.Reason)
	}
	for _, d := range w.Domains {
		line("  domain  %s (%s, reason %s) uuid=%s id=%s disks=%s", d.Name, d.State, d.Reason, d.UUID, d.ID, strings.Join(d.Disks, ","))
	}
	for _, p := range w.Processes {
		line("  qemu    %d runs %s", p.PID, p.Domain)
	}
	for _, d := range w.Disks {
		line("  disk    %s inode=%d whole=%t", d.ID, d.Inode, d.Whole)
	}
	for _, s := range w.Strays {
		line("  stray   %s", s)
	}
	if w.Damage != "" {
		line("  sqlite  %s", w.Damage)
	}
	return b.String()
}

// patience bounds one reading of the world.
const patience = 2 * time.Minute
