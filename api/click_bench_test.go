package api

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"bureau/api/apitest"
	"bureau/desktop"
)

// BenchmarkClick is the API's part of a click, from the request to the answer: the key, the route, the
// body's validation, the log, and a desktop that has clicked at once.
func BenchmarkClick(b *testing.B) {
	world := apitest.NewWorld()
	world.AddUser("usr-1")
	world.AddDesktop("dt-1", "usr-1")
	key := world.AddKey("usr-1", nil, desktop.CanControl)
	server := New(Options{Desktops: world, Accounts: world, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	b.ReportAllocs()
	for b.Loop() {
		request := httptest.NewRequest(http.MethodPost, "/v1/desktops/dt-1/click", strings.NewReader(`{"x":160,"y":100}`))
		request.Header.Set("Authorization", "Bearer "+key)
		request.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		server.Handler().ServeHTTP(w, request)
		if w.Code != http.StatusOK {
			b.Fatalf("%d: %s", w.Code, w.Body)
		}
	}
}
