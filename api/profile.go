package api

import (
	"net/http/pprof"
	runtimepprof "runtime/pprof"
	"strings"

	"github.com/gin-gonic/gin"

	"bureau/desktop"
)

// profilePath is where Go's tools find the profiles of the process.
const profilePath = "/debug/pprof/"

// MountProfiles shows the process from within, to the operator on the administration socket alone:
// goroutines, memory, processor time, as Go's pprof tool reads them. That is no part of the API and
// not in its document. It is for before Serve.
func (s *Server) MountProfiles() {
	s.router.GET(profilePath+"*profile", func(c *gin.Context) {
		exchangeOf(c.Request.Context()).route = "profiles"
		if _, err := s.admit(c.Request.Context(), operator, c.Request.Header.Get("Authorization"), ""); err != nil {
			s.refuse(c.Writer, c.Request, err)
			return
		}
		switch name := strings.TrimPrefix(c.Param("profile"), "/"); {
		case name == "profile":
			pprof.Profile(c.Writer, c.Request)
		case name == "trace":
			pprof.Trace(c.Writer, c.Request)
		case name == "":
			pprof.Index(c.Writer, c.Request)
		case runtimepprof.Lookup(name) != nil:
			pprof.Handler(name).ServeHTTP(c.Writer, c.Request)
		default:
			s.refuse(c.Writer, c.Request, desktop.Errorf(desktop.NotFound, "there is no profile %q", shorten(name)))
		}
	})
}
