package check

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	_ "modernc.org/sqlite" // the database's driver
)

// Host is where an appliance is to be read.
type Host struct {
	URI      string // libvirt's
	Prefix   string // of the appliance's domains
	Pool     string // folder of the disks
	Database string // file
	API      string // its address, http://…
	Key      string // that may read the desktops
}

// Read reads the world. It is an error when a part does not answer.
func (h Host) Read(ctx context.Context) (World, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var w World
	for _, part := range []struct {
		name string
		read func(context.Context, *World) error
	}{
		{"the database", h.readDatabase},
		{"libvirt", h.readDomains},
		{"the processes", h.readProcesses},
		{"the pool", h.readPool},
		{"the API", h.readAPI},
	} {
		if err := part.read(ctx, &w); err != nil {
			return w, fmt.Errorf("read %s: %w", part.name, err)
		}
	}
	return w, nil
}

func (h Host) readDatabase(ctx context.Context, w *World) error {
	db, err := sql.Open("sqlite", "file:"+h.Database+"?"+url.Values{
		"mode": {"ro"}, "_pragma": {"busy_timeout(5000)", "query_only(1)"},
	}.Encode())
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	var verdict string
	if err := db.QueryRowContext(ctx, `PRAGMA quick_check`).Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		w.Damage = verdict
	}
	rows, err := db.QueryContext(ctx, `SELECT id, name, wish, boot, failure, destroyed_at IS NOT NULL FROM desktops ORDER BY created_at, id`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var r Record
		if err := rows.Scan(&r.ID, &r.Name, &r.Wish, &r.Boot, &r.Failure, &r.Destroyed); err != nil {
			return err
		}
		w.Records = append(w.Records, r)
	}
	return rows.Err()
}

func (h Host) virsh(ctx context.Context, commands string) ([]byte, error) {
	c := exec.CommandContext(ctx, "virsh", "-q", "-c", h.URI, commands)
	c.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("virsh %s: %w: %s", commands, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// states are libvirt's numbers, which virsh domstats prints.
var states = map[string]string{
	"0": "nostate", "1": "running", "2": "blocked", "3": "paused", "4": "shutdown", "5": "shutoff", "6": "crashed", "7": "pmsuspended",
}

func (h Host) readDomains(ctx context.Context, w *World) error {
	out, err := h.virsh(ctx, "domstats --state")
	if err != nil {
		return err
	}
	domains := parseStats(string(out), h.Prefix+"-")
	if len(domains) == 0 {
		return nil
	}
	var dump []string
	for _, d := range domains {
		dump = append(dump, "dumpxml --inactive "+d.Name)
	}
	if out, err = h.virsh(ctx, strings.Join(dump, "; ")); err != nil {
		return err
	}
	decoder := xml.NewDecoder(bytes.NewReader(out))
	for i := range domains {
		if err := describe(decoder, &domains[i]); err != nil {
			return err
		}
	}
	w.Domains = domains
	return nil
}

// parseStats reads what virsh domstats --state prints.
func parseStats(text, prefix string) []Domain {
	var domains []Domain
	ours := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, found := strings.CutPrefix(line, "Domain: '"); found {
			name = strings.TrimSuffix(name, "'")
			if ours = strings.HasPrefix(name, prefix); ours {
				domains = append(domains, Domain{Name: name})
			}
			continue
		}
		if !ours {
			continue
		}
		d := &domains[len(domains)-1]
		if number, found := strings.CutPrefix(line, "state.state="); found {
			d.State = states[number]
		}
		if number, found := strings.CutPrefix(line, "state.reason="); found {
			d.Reason = number
		}
	}
	return domains
}

// describe reads the next domain's definition.
func describe(decoder *xml.Decoder, d *Domain) error {
	var definition struct {
		XMLName xml.Name `xml:"domain"`
		Name    string   `xml:"name"`
		UUID    string   `xml:"uuid"`
		ID      string   `xml:"metadata>desktop>id"`
		Disks   []struct {
			Source struct {
				Volume string `xml:"volume,attr"`
				File   string `xml:"file,attr"`
			} `xml:"source"`
			ReadOnly *struct{} `xml:"readonly"`
		} `xml:"devices>disk"`
	}
	if err := decoder.Decode(&definition); err != nil {
		return fmt.Errorf("the definition of %s: %w", d.Name, err)
	}
	if definition.Name != d.Name {
		return fmt.Errorf("the definition of %s is that of %s", d.Name, definition.Name)
	}
	d.UUID, d.ID = definition.UUID, definition.ID
	for _, disk := range definition.Disks {
		if disk.ReadOnly == nil {
			d.Disks = append(d.Disks, disk.Source.Volume+disk.Source.File)
		}
	}
	return nil
}

// guestName is in the command line of every QEMU that libvirt runs a domain with.
var guestName = regexp.MustCompile(`\x00-name\x00guest=([^,\x00]+)`)

// Machines are the QEMU processes that run domains whose names begin so, by their process ids.
func Machines(prefix string) ([]Process, error) {
	folders, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []Process
	for _, folder := range folders {
		pid, err := strconv.Atoi(folder.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", folder.Name(), "cmdline"))
		if err != nil {
			continue // it has ended meanwhile
		}
		program, _, _ := bytes.Cut(line, []byte{0})
		name := guestName.FindSubmatch(line)
		if name != nil && strings.Contains(filepath.Base(string(program)), "qemu") && strings.HasPrefix(string(name[1]), prefix) {
			found = append(found, Process{PID: pid, Domain: string(name[1])})
		}
	}
	return found, nil
}

func (h Host) readProcesses(_ context.Context, w *World) (err error) {
	w.Processes, err = Machines(h.Prefix + "-")
	return err
}

var (
	diskName   = regexp.MustCompile(`^desktop-(.+)\.qcow2$`)
	sharedName = regexp.MustCompile(`^(agent-[0-9a-f]+\.img|image-.+\.json|content-[0-9a-f]+\.(qcow2|json|vmlinuz|initrd))$`)
)

func (h Host) readPool(_ context.Context, w *World) error {
	files, err := os.ReadDir(h.Pool)
	if err != nil {
		return err
	}
	for _, file := range files {
		name := diskName.FindStringSubmatch(file.Name())
		if name == nil {
			if !sharedName.MatchString(file.Name()) {
				w.Strays = append(w.Strays, file.Name())
			}
			continue
		}
		path := filepath.Join(h.Pool, file.Name())
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		whole, err := overlay(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		w.Disks = append(w.Disks, Disk{ID: name[1], Inode: info.Sys().(*syscall.Stat_t).Ino, Whole: whole})
	}
	return nil
}

// overlay tells whether a file begins as a qcow2 file with a backing file does.
func overlay(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var header [20]byte // magic, version, place and length of the backing file's name
	if _, err := io.ReadFull(f, header[:]); err != nil {
		return false, nil
	}
	return string(header[:4]) == "QFI\xfb" && binary.BigEndian.Uint64(header[8:]) != 0 && binary.BigEndian.Uint32(header[16:]) != 0, nil
}

func (h Host) readAPI(ctx context.Context, w *World) error {
	for path := "/v1/desktops?limit=100"; path != ""; {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.API+path, nil)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+h.Key)
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		var page []Desktop
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", response.Status, body)
		}
		if err == nil {
			err = json.Unmarshal(body, &page)
		}
		if err != nil {
			return fmt.Errorf("GET %s: %w", path, err)
		}
		w.Desktops = append(w.Desktops, page...)
		path = ""
		if target, rest, found := strings.Cut(strings.TrimPrefix(response.Header.Get("Link"), "<"), ">"); found && strings.Contains(rest, `rel="next"`) {
			path = target
		}
	}
	return nil
}
