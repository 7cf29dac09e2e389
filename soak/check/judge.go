package check

import (
	"fmt"
	"slices"
	"strings"
)

// Judge holds worlds against what is expected, and remembers what it has seen: a disk that a machine
// has run on may not be replaced by an empty one.
type Judge struct {
	Prefix string // of the domains' names

	disks   map[string]uint64 // inode of the disk that each desktop's machine has run on
	domains map[string]bool   // ids that had a domain
}

// Judge returns what cannot be true, in an order that does not change.
func (j *Judge) Judge(w World, e Expected) []Finding {
	c := &court{Judge: j, World: w, want: e}
	c.index()
	c.database()
	c.promises()
	c.machines()
	c.storage()
	c.statuses()
	c.memory()
	return c.findings
}

// Remember takes note of a world in which nothing was found.
func (j *Judge) Remember(w World) {
	if j.disks == nil {
		j.disks, j.domains = map[string]uint64{}, map[string]bool{}
	}
	running := map[string]bool{}
	for _, d := range w.Domains {
		j.domains[d.ID] = true
		running[d.ID] = d.State == "running"
	}
	for _, d := range w.Disks {
		if running[d.ID] {
			j.disks[d.ID] = d.Inode
		}
	}
	for _, r := range w.Records {
		if r.Destroyed {
			delete(j.disks, r.ID)
			delete(j.domains, r.ID)
		}
	}
}

type court struct {
	*Judge
	World
	want     Expected
	findings []Finding

	records map[string]Record
	domain  map[string]Domain // by desktop's id
	disk    map[string]Disk
	known   map[string]Known
}

func (c *court) index() {
	c.records, c.domain = map[string]Record{}, map[string]Domain{}
	c.disk, c.known = map[string]Disk{}, map[string]Known{}
	for _, r := range c.Records {
		c.records[r.ID] = r
	}
	for _, d := range c.Domains {
		c.domain[d.ID] = d
	}
	for _, d := range c.Disks {
		c.disk[d.ID] = d
	}
	for _, k := range c.want.Desktops {
		c.known[k.ID] = k
	}
}

func (c *court) find(rule, subject, format string, args ...any) {
	c.findings = append(c.findings, Finding{Rule: rule, Subject: subject, Text: fmt.Sprintf(format, args...)})
}

// final is find for what no waiting mends.
func (c *court) final(rule, subject, format string, args ...any) {
	c.find(rule, subject, format, args...)
	c.findings[len(c.findings)-1].Final = true
}

// alive tells whether a desktop has a record that is not destroyed.
func (c *court) alive(id string) bool {
	r, ok := c.records[id]
	return ok && !r.Destroyed
}

func (c *court) database() {
	if c.Damage != "" {
		c.final("the database is whole", "bureau.db", "%s", c.Damage)
	}
	names := map[string]string{}
	for _, r := range c.Records {
		if other, taken := names[r.Name]; taken {
			c.final("a create makes one desktop", r.Name, "%s and %s", other, r.ID)
		}
		names[r.Name] = r.ID
		if _, known := c.known[r.ID]; !known {
			c.final("a desktop is somebody's wish", r.ID, "nobody knows of the record named %q", r.Name)
		}
		if slices.Contains(c.want.Unborn, r.Name) {
			c.final("what was not made stays unmade", r.ID, "the record of create %q appeared after all had settled", r.Name)
		}
	}
}

// promises are what clients were told.
func (c *court) promises() {
	for _, k := range c.want.Desktops {
		r, ok := c.records[k.ID]
		switch {
		case !ok:
			c.final("a created desktop is kept", k.ID, "its create was answered and it has no record")
		case k.Gone && !r.Destroyed:
			c.final("a destroyed desktop is gone", k.ID, "its destroy was answered and its record lives (wish %s, boot %q, failure %q)", r.Wish, r.Boot, r.Failure)
		case r.Destroyed && !k.Gone && !k.Going:
			c.final("a desktop is destroyed on demand only", k.ID, "its record says destroyed and nobody asked for that")
		case r.Destroyed:
		case r.Wish == "destroy" && !k.Going:
			c.final("a desktop is destroyed on demand only", k.ID, "its record's wish is destroy and nobody asked for that")
		case r.Wish == "destroy":
			c.find("a destroy that was begun is finished", k.ID, "the record's wish is destroy, still (failure %q)", r.Failure)
		case !slices.Contains(k.Wishes, r.Wish):
			c.find("the last wish holds", k.ID, "the record's wish is %s, asked for was %s", r.Wish, strings.Join(k.Wishes, " or "))
		case !slices.Contains(k.Names, r.Name):
			c.find("the last name holds", k.ID, "the record's name is %q, asked for was %q", r.Name, k.Names)
		}
		if k.Gone || r.Destroyed {
			if d, there := c.domain[k.ID]; there {
				c.final("a destroyed desktop is gone", k.ID, "its domain %s is %s", d.Name, d.State)
			}
			if _, there := c.disk[k.ID]; there {
				c.final("a destroyed desktop is gone", k.ID, "its disk is in the pool")
			}
		}
	}
}

// machines holds libvirt's domains against QEMU's processes and the records.
func (c *court) machines() {
	ids, disks, processes := map[string]string{}, map[string]string{}, map[string][]int{}
	for _, p := range c.Processes {
		processes[p.Domain] = append(processes[p.Domain], p.PID)
	}
	for _, d := range c.Domains {
		if d.Name != c.Prefix+"-"+d.ID {
			c.final("a domain says whose it is", d.Name, "its metadata says desktop %q", d.ID)
		}
		if other, taken := ids[d.ID]; taken {
			c.final("a desktop has one domain", d.ID, "%s and %s", other, d.Name)
		}
		ids[d.ID] = d.Name
		for _, disk := range d.Disks {
			if other, taken := disks[disk]; taken {
				c.final("a disk has one domain", disk, "%s and %s", other, d.Name)
			}
			disks[disk] = d.Name
		}
		if !c.alive(d.ID) {
			c.find("a domain has a record", d.Name, "it is %s", d.State)
		}
		if disk, there := c.disk[d.ID]; !there {
			c.find("a domain has its disk", d.Name, "it is %s, and the pool has no disk of it", d.State)
		} else if d.State == "running" && !disk.Whole {
			c.find("a domain has its disk", d.Name, "it runs on a disk that is half made")
		}
		pids := processes[d.Name]
		on := d.State != "shutoff" && d.State != "crashed"
		switch {
		case on && len(pids) == 0:
			c.find("a running domain has a process", d.Name, "it is %s, and no QEMU runs it", d.State)
		case !on && len(pids) > 0:
			c.find("a process has a running domain", d.Name, "it is %s, and QEMU %v runs it", d.State, pids)
		case len(pids) > 1:
			c.find("a domain has one process", d.Name, "QEMU %v run it", pids)
		}
		delete(processes, d.Name)
	}
	for _, p := range c.Processes {
		if pids, orphaned := processes[p.Domain]; orphaned {
			c.find("a process has a running domain", p.Domain, "libvirt knows no such domain, and QEMU %v runs it", pids)
			delete(processes, p.Domain)
		}
	}
}

func (c *court) storage() {
	for _, d := range c.Disks {
		if !c.alive(d.ID) {
			c.find("a disk has a record", d.ID, "the disk is an orphan")
		}
	}
	for _, s := range c.Strays {
		c.find("the pool holds images, agents and disks", s, "nothing is known of this file")
	}
}

// statuses holds the database, libvirt and the API against each other.
func (c *court) statuses() {
	told := map[string]Desktop{}
	for _, d := range c.Desktops {
		if _, twice := told[d.ID]; twice {
			c.final("the API tells of a desktop once", d.ID, "it is listed twice")
		}
		told[d.ID] = d
		if !c.alive(d.ID) {
			c.find("the API tells of what there is", d.ID, "it is listed as %s and has no record", d.Status)
		}
	}
	for _, r := range c.Records {
		if r.Destroyed {
			continue
		}
		state := "absent"
		if d, there := c.domain[r.ID]; there {
			state = d.State
		}
		on := state != "absent" && state != "shutoff" && state != "crashed"
		switch {
		case r.Wish == "destroy": // promises tells of it
		case r.Failure != "" && on:
			c.find("the record agrees with libvirt", r.ID, "it has failed (%s), and its domain is %s", r.Failure, state)
		case r.Failure != "":
		case r.Boot != "":
			c.find("what was begun is finished", r.ID, "the record still owes a %s, and its domain is %s", r.Boot, state)
		case r.Wish == "run" && state != "running":
			c.find("the record agrees with libvirt", r.ID, "it should run, and its domain is %s", state)
		case r.Wish == "halt" && on:
			c.find("the record agrees with libvirt", r.ID, "it should be off, and its domain is %s", state)
		}
		d, listed := told[r.ID]
		if !listed {
			c.find("the API tells of what there is", r.ID, "its record lives, and it is not listed")
			continue
		}
		if d.Name != r.Name {
			c.find("the API tells of what there is", r.ID, "it is listed as %q, its record is named %q", d.Name, r.Name)
		}
		good := false
		switch d.Status {
		case "running", "booting":
			good = state == "running" && r.Failure == ""
		case "stopped":
			good = !on && r.Wish == "halt" && r.Failure == ""
		case "error":
			good = !on && r.Failure != "" && d.Reason != ""
		}
		if !good { // pending, stopping and destroying are no states to stay in
			c.find("the status agrees with libvirt", r.ID, "the API says %s (%s), the domain is %s, the record wants %s", d.Status, d.Reason, state, r.Wish)
		}
	}
}

// memory holds the world against earlier ones.
func (c *court) memory() {
	for _, id := range sorted(c.disks) {
		if !c.alive(id) {
			continue
		}
		disk, there := c.disk[id]
		switch {
		case !there:
			c.final("a desktop keeps its disk", id, "the disk that its machine ran on is gone")
		case disk.Inode != c.disks[id]:
			c.final("a desktop keeps its disk", id, "another disk is in the place of the one that its machine ran on (inode %d, before %d)", disk.Inode, c.disks[id])
		}
	}
	for _, id := range sorted(c.Judge.domains) {
		if _, there := c.domain[id]; !there && c.alive(id) {
			c.find("a desktop keeps its domain", id, "libvirt had a domain of it and has none")
		}
	}
}

func sorted[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
