package api

import (
	"net/http"
	"slices"
	"strings"
)

// What pages of the configured origins may send and read.
var (
	corsMethods = strings.Join([]string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}, ", ")
	corsRequest = strings.Join([]string{"Authorization", "Content-Type", "If-None-Match", "Last-Event-ID", "Idempotency-Key", "X-Request-Id",
		leaseHeader, "Mcp-Session-Id", "Mcp-Protocol-Version"}, ", ")
	corsAnswer = strings.Join([]string{"ETag", "Link", "Location", "Retry-After", "Server-Timing", "WWW-Authenticate", "X-Request-Id",
		"X-Bureau-Source", "X-Bureau-Width", "X-Bureau-Height", "X-Bureau-Display", "X-Bureau-Settled", "X-Bureau-Waited-Ms", "Mcp-Session-Id"}, ", ")
)

// cors lets the pages of the configured origins use the API, and is true when that is all that was asked
// (a preflight). Pages of other origins get the answers of somebody who has not heard of CORS, which
// their browser keeps from them. An origin is answered by its own name, never by "*", and no page is
// allowed credentials: there are no cookies here, and a page that has a key sends it in a header.
func (s *Server) cors(w http.ResponseWriter, r *http.Request) (done bool) {
	if len(s.origins) == 0 {
		return false
	}
	header := w.Header()
	header.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" || !slices.Contains(s.origins, origin) {
		return false
	}
	header.Set("Access-Control-Allow-Origin", origin)
	header.Set("Cross-Origin-Resource-Policy", "cross-origin")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		header.Set("Access-Control-Expose-Headers", corsAnswer)
		return false
	}
	header.Set("Access-Control-Allow-Methods", corsMethods)
	header.Set("Access-Control-Allow-Headers", corsRequest)
	header.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}
