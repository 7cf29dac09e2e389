package api

import (
	"encoding/json"
	"reflect"
	"testing"

	"bureau/api/apitest"
	"bureau/desktop"
)

func TestHost(t *testing.T) {
	b := newBench(t, nil)
	w := b.asLocal("GET", "/v1/admin/host", "")
	var got desktop.HostState
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || !reflect.DeepEqual(got, apitest.HostState) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	var raw map[string]map[string]any
	_ = json.Unmarshal(w.Body.Bytes(), &raw) // but for the counts, which are no objects
	if limit, there := raw["disk"]["limit"]; !there || limit != nil {
		t.Errorf("any amount is not null: %s", w.Body)
	}
	b.Fail = func(string) error { return desktop.Errorf(desktop.Unavailable, "libvirt is away") }
	if w := b.asLocal("GET", "/v1/admin/host", ""); w.Code != 503 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A refusal for want of room says of what, how much is needed and how much is free.
func TestNoRoom(t *testing.T) {
	b := newBench(t, nil)
	for _, c := range []struct {
		name   string
		err    error
		status int
		want   map[string]any
	}{
		{"the host", &desktop.Error{Code: desktop.Exhausted, Message: "the host has not enough memory",
			Details: map[string]any{"resource": desktop.ResourceMemory, "needed": int64(4 << 30), "free": int64(1 << 30)}}, 507,
			map[string]any{"resource": "memory", "needed": float64(4 << 30), "free": float64(1 << 30)}},
		{"the user", desktop.AtLimit(desktop.ResourceDesktops, 3, 3), 409,
			map[string]any{"resource": "desktops", "needed": 1.0, "free": 0.0, "limit": 3.0}},
	} {
		b.Fail = func(method string) error {
			if method == "Create" || method == "Start" || method == "Restart" {
				return c.err
			}
			return nil
		}
		for path, body := range map[string]string{"/v1/desktops": `{}`, "/v1/desktops/dt-1/start": "", "/v1/desktops/dt-1/restart": ""} {
			p := b.problem(b.do("POST", path, body), c.status)
			for name, want := range c.want {
				if p[name] != want {
					t.Errorf("%s, %s: %s is %v, want %v", c.name, path, name, p[name], want)
				}
			}
			if p["error"] != c.err.Error() {
				t.Errorf("%s, %s: %v", c.name, path, p["error"])
			}
		}
	}
}
