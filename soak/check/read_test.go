package check

import (
	"database/sql"
	"encoding/xml"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// What virsh 9.0 prints.
const stats = `Domain: 'x-dt-a'
  state.state=1
  state.reason=1

Domain: 'another'
  state.state=3
  state.reason=1

Domain: 'x-dt-b'
  state.state=5
  state.reason=3

`

func TestParseStats(t *testing.T) {
	want := []Domain{{Name: "x-dt-a", State: "running", Reason: "1"}, {Name: "x-dt-b", State: "shutoff", Reason: "3"}}
	if got := parseStats(stats, "x-"); !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
}

func TestDescribeDomain(t *testing.T) {
	decoder := xml.NewDecoder(strings.NewReader(`<domain type='qemu'>
  <name>x-dt-a</name>
  <uuid>b5a0</uuid>
  <metadata>
    <bureau:desktop xmlns:bureau="urn:bureau:desktop:1" version="v1"><bureau:id>dt-a</bureau:id></bureau:desktop>
  </metadata>
  <devices>
    <disk type='volume' device='disk'><source pool='p' volume='desktop-dt-a.qcow2'/></disk>
    <disk type='volume' device='disk'><source pool='p' volume='agent-0.img'/><readonly/></disk>
  </devices>
</domain>

<domain type='qemu'><name>x-dt-b</name><uuid>c6</uuid></domain>
`))
	for _, want := range []Domain{
		{Name: "x-dt-a", UUID: "b5a0", ID: "dt-a", Disks: []string{"desktop-dt-a.qcow2"}},
		{Name: "x-dt-b", UUID: "c6"},
	} {
		got := Domain{Name: want.Name}
		if err := describe(decoder, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("read %+v, %v; want %+v", got, err, want)
		}
	}
	if err := describe(decoder, &Domain{Name: "x-dt-c"}); err == nil {
		t.Error("a definition that is not there was read")
	}
}

func TestReadPool(t *testing.T) {
	folder := t.TempDir()
	header := append([]byte("QFI\xfb\x00\x00\x00\x03"), 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9)
	for name, content := range map[string][]byte{
		"desktop-dt-a.qcow2":                header,
		"desktop-dt-b.qcow2":                nil,
		"desktop-dt-c.qcow2":                append([]byte("QFI\xfb\x00\x00\x00\x03"), make([]byte, 100)...), // without a backing file
		"agent-0123456789abcdef.img":        nil,
		"image-desktop.json":                nil,
		"content-0123456789abcdef.vmlinuz":  nil,
		"content-0123456789abcdef.qcow2":    nil,
		"desktop-dt-a.qcow2.tmp":            nil,
		"content-0123456789abcdef.qcow2.gz": nil,
	} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var w World
	if err := (Host{Pool: folder}).readPool(t.Context(), &w); err != nil {
		t.Fatal(err)
	}
	whole := map[string]bool{}
	for _, d := range w.Disks {
		if d.Inode == 0 {
			t.Errorf("disk %s has no inode", d.ID)
		}
		whole[d.ID] = d.Whole
	}
	if want := map[string]bool{"dt-a": true, "dt-b": false, "dt-c": false}; !reflect.DeepEqual(whole, want) {
		t.Errorf("disks are %v, want %v", whole, want)
	}
	if want := []string{"content-0123456789abcdef.qcow2.gz", "desktop-dt-a.qcow2.tmp"}; !reflect.DeepEqual(w.Strays, want) {
		t.Errorf("strays are %v, want %v", w.Strays, want)
	}
}

func TestReadDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bureau.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`CREATE TABLE desktops (id, name, wish, boot, failure, created_at, destroyed_at);
		INSERT INTO desktops VALUES ('dt-b', 'b', 'destroy', '', '', 2, 3), ('dt-a', 'a', 'run', 'start', 'why', 1, NULL)`); err != nil {
		t.Fatal(err)
	}
	var w World
	if err := (Host{Database: path}).readDatabase(t.Context(), &w); err != nil {
		t.Fatal(err)
	}
	want := []Record{{"dt-a", "a", "run", "start", "why", false}, {"dt-b", "b", "destroy", "", "", true}}
	if !reflect.DeepEqual(w.Records, want) || w.Damage != "" {
		t.Errorf("read %+v, %q; want %+v", w.Records, w.Damage, want)
	}
}

func TestReadAPI(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer key":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Query().Get("after") == "":
			w.Header().Set("Link", `</v1/desktops?limit=1&after=dt-a>; rel="next"`)
			w.Write([]byte(`[{"id":"dt-a","name":"a","status":"running"}]`))
		default:
			w.Write([]byte(`[{"id":"dt-b","name":"b","status":"error","reason":"why"}]`))
		}
	}))
	defer server.Close()
	var w World
	if err := (Host{API: server.URL, Key: "key"}).readAPI(t.Context(), &w); err != nil {
		t.Fatal(err)
	}
	want := []Desktop{{"dt-a", "a", "running", ""}, {"dt-b", "b", "error", "why"}}
	if !reflect.DeepEqual(w.Desktops, want) {
		t.Errorf("read %+v, want %+v", w.Desktops, want)
	}
	if err := (Host{API: server.URL, Key: "wrong"}).readAPI(t.Context(), &w); err == nil {
		t.Error("a refusal was read as a list")
	}
}
