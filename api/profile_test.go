package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The process is shown to the operator and to nobody with a key, whatever it allows.
func TestProfiles(t *testing.T) {
	b := newBench(t, nil)
	b.server.MountProfiles()
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/profile?seconds=1"} {
		for authorization, want := range map[string]int{"Bearer " + b.key: http.StatusForbidden, "": http.StatusUnauthorized} {
			request := httptest.NewRequest(http.MethodGet, path, nil)
			request.Header.Set("Authorization", authorization)
			w := httptest.NewRecorder()
			b.server.Handler().ServeHTTP(w, request)
			if w.Code != want || w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s with %.10q: %d, want %d: %.200s", path, authorization, w.Code, want, w.Body)
			}
		}
	}
	w := b.asLocal(http.MethodGet, "/debug/pprof/goroutine?debug=1", "")
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "goroutine profile: total ") {
		t.Errorf("the operator got %d: %.200s", w.Code, w.Body)
	}
	if w := b.asLocal(http.MethodGet, "/debug/pprof/nonsense", ""); w.Code != http.StatusNotFound {
		t.Errorf("of a profile that is none: %d", w.Code)
	}
}
