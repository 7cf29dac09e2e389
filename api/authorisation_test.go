package api

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"bureau/desktop"
)

// body is a good one for each route that has one.
var goodBodies = map[string]string{
	"POST /v1/desktops":                             `{"name":"new"}`,
	"PATCH /v1/desktops/{id}":                       `{"name":"other"}`,
	"POST /v1/desktops/{id}/click":                  `{"x":1,"y":2}`,
	"POST /v1/desktops/{id}/move":                   `{"x":1,"y":2}`,
	"POST /v1/desktops/{id}/drag":                   `{"startX":1,"startY":2,"endX":3,"endY":4}`,
	"POST /v1/desktops/{id}/scroll":                 `{"direction":"down"}`,
	"POST /v1/desktops/{id}/type":                   `{"text":"x"}`,
	"POST /v1/desktops/{id}/key":                    `{"key":"Return"}`,
	"POST /v1/desktops/{id}/actions":                `[{"type":"click","x":1,"y":2}]`,
	"PUT /v1/desktops/{id}/clipboard":               `{"text":"x"}`,
	"PATCH /v1/desktops/{id}/display":               `{"width":640,"height":400}`,
	"POST /v1/desktops/{id}/exec":                   `{"command":"true"}`,
	"POST /v1/desktops/{id}/bash":                   `{"script":"true"}`,
	"POST /v1/desktops/{id}/chat":                   `{"message":"hello"}`,
	"POST /v1/desktops/{id}/approvals/{approvalId}": `{"approve":true}`,
	"POST /v1/chat/completions":                     `{"model":"bureau/dt-1","messages":[{"role":"user","content":"hello"}]}`,
	"POST /v1/admin/users":                          `{"email":"new@example.org"}`,
	"PATCH /v1/admin/users/{id}":                    `{"tier":"pro"}`,
	"POST /v1/admin/keys":                           `{"user":"usr-1"}`,
	"POST /v1/admin/orphans/adopt":                  `{"machine":"bureau-dt-stranger"}`,
	"PUT /v1/desktops/{id}/provider":                `{"provider":"anthropic","apiKey":"sk-ant-0123456789abcdef"}`,
	"POST /v1/providers":                            `{"provider":"anthropic","apiKey":"sk-ant-0123456789abcdef","name":"new"}`,
	"PATCH /v1/providers/{providerId}":              `{"model":"other"}`,
	"POST /v1/desktops/{id}/lease":                  `{"holder":"me"}`,
}

// granted is the contract's own list of who may do what, so that a rule cannot be loosened by a
// slip in its registration.
var granted = map[string]rule{
	"GET /healthz":         anybody,
	"GET /readyz":          anybody,
	"GET /openapi.json":    anybody,
	"GET /problems/{name}": anybody,
	"GET /v1/me":           anyKey,

	"GET /v1/desktops":                                   needs(desktop.CanRead),
	"GET /v1/desktops/{id}":                              needs(desktop.CanRead),
	"POST /v1/desktops":                                  needs(desktop.CanManage),
	"PATCH /v1/desktops/{id}":                            needs(desktop.CanManage),
	"DELETE /v1/desktops/{id}":                           needs(desktop.CanManage),
	"POST /v1/desktops/{id}/start":                       needs(desktop.CanLifecycle),
	"POST /v1/desktops/{id}/stop":                        needs(desktop.CanLifecycle),
	"POST /v1/desktops/{id}/restart":                     needs(desktop.CanLifecycle),
	"POST /v1/desktops/{id}/click":                       needs(desktop.CanControl),
	"POST /v1/desktops/{id}/move":                        needs(desktop.CanControl),
	"POST /v1/desktops/{id}/drag":                        needs(desktop.CanControl),
	"POST /v1/desktops/{id}/scroll":                      needs(desktop.CanControl),
	"POST /v1/desktops/{id}/type":                        needs(desktop.CanControl),
	"POST /v1/desktops/{id}/key":                         needs(desktop.CanControl),
	"POST /v1/desktops/{id}/actions":                     needs(desktop.CanControl),
	"GET /v1/desktops/{id}/windows":                      needs(desktop.CanControl),
	"POST /v1/desktops/{id}/windows/{windowId}/activate": needs(desktop.CanControl),
	"DELETE /v1/desktops/{id}/windows/{windowId}":        needs(desktop.CanControl),
	"GET /v1/desktops/{id}/clipboard":                    needs(desktop.CanControl),
	"PUT /v1/desktops/{id}/clipboard":                    needs(desktop.CanControl),
	"PATCH /v1/desktops/{id}/display":                    needs(desktop.CanControl),
	"POST /v1/desktops/{id}/exec":                        needs(desktop.CanControl),
	"POST /v1/desktops/{id}/bash":                        needs(desktop.CanControl),
	"GET /v1/desktops/{id}/screenshot":                   needs(desktop.CanControl),

	"GET /v1/desktops/{id}/provider":                     needs(desktop.CanManage),
	"PUT /v1/desktops/{id}/provider":                     needs(desktop.CanManage),
	"DELETE /v1/desktops/{id}/provider":                  needs(desktop.CanManage),
	"POST /v1/desktops/{id}/provider/test":               needs(desktop.CanManage),
	"GET /v1/providers":                                  needs(desktop.CanProvide),
	"POST /v1/providers":                                 needs(desktop.CanProvide),
	"GET /v1/providers/{providerId}":                     needs(desktop.CanProvide),
	"PATCH /v1/providers/{providerId}":                   needs(desktop.CanProvide),
	"DELETE /v1/providers/{providerId}":                  needs(desktop.CanProvide),
	"POST /v1/providers/{providerId}/test":               needs(desktop.CanProvide),
	"GET /v1/usage":                                      needs(desktop.CanRead),
	"GET /v1/activity":                                   needs(desktop.CanRead),
	"GET /v1/events":                                     needs(desktop.CanRead),
	"GET /v1/desktops/{id}/activity":                     needs(desktop.CanRead),
	"POST /v1/desktops/{id}/chat":                        needs(desktop.CanChat),
	"POST /v1/desktops/{id}/chat/cancel":                 needs(desktop.CanChat),
	"GET /v1/desktops/{id}/chat/turns/{turnId}":          needs(desktop.CanChat),
	"GET /v1/desktops/{id}/chat/turns/{turnId}/events":   needs(desktop.CanChat),
	"GET /v1/desktops/{id}/chat/sessions":                needs(desktop.CanChat),
	"GET /v1/desktops/{id}/chat/sessions/{sessionId}":    needs(desktop.CanChat),
	"DELETE /v1/desktops/{id}/chat/sessions/{sessionId}": needs(desktop.CanChat),
	"GET /v1/desktops/{id}/approvals":                    needs(desktop.CanChat),
	"POST /v1/desktops/{id}/approvals/{approvalId}":      needs(desktop.CanChat),
	"POST /v1/chat/completions":                          needs(desktop.CanChat),
	"POST /v1/desktops/{id}/lease":                       needs(desktop.CanControl),
	"GET /v1/desktops/{id}/lease":                        needs(desktop.CanControl),
	"DELETE /v1/desktops/{id}/lease":                     needs(desktop.CanControl),

	"GET /v1/admin/host":         operator,
	"GET /v1/admin/users":        operator,
	"POST /v1/admin/users":       operator,
	"PATCH /v1/admin/users/{id}": operator,
	"GET /v1/admin/keys":         operator,
	"POST /v1/admin/keys":        operator,
	"DELETE /v1/admin/keys/{id}": operator,

	"GET /v1/admin/orphans":                   operator,
	"DELETE /v1/admin/orphans/volumes/{name}": operator,
	"POST /v1/admin/orphans/adopt":            operator,
}

// routes are those that the router really has, with the document's spelling of parameters.
func routes(t *testing.T, s *Server) []string {
	t.Helper()
	var list []string
	for _, route := range s.router.Routes() {
		parts := strings.Split(route.Path, "/")
		for i, part := range parts {
			if name, ok := strings.CutPrefix(part, ":"); ok {
				parts[i] = "{" + name + "}"
			}
		}
		list = append(list, route.Method+" "+strings.Join(parts, "/"))
	}
	slices.Sort(list)
	return list
}

// fill puts names of things that a bench has into a path.
func fill(path, id string) string {
	return strings.NewReplacer("{id}", id, "{windowId}", "7", "{providerId}", "prv-1", "{name}", "not-found",
		"{sessionId}", "ses-"+id, "{turnId}", "turn-"+id, "{approvalId}", "apr-"+id,
		"/v1/events", "/v1/events?durationMs=1").Replace(path)
}

func TestRouterDocumentAndRulesAgree(t *testing.T) {
	s := New(Options{})
	var documented, ruled, wanted []string
	for path, item := range s.api.OpenAPI().Paths {
		for method, operation := range map[string]bool{
			http.MethodGet: item.Get != nil, http.MethodPost: item.Post != nil, http.MethodPatch: item.Patch != nil,
			http.MethodDelete: item.Delete != nil, http.MethodPut: item.Put != nil, http.MethodHead: item.Head != nil,
		} {
			if operation {
				documented = append(documented, method+" "+path)
			}
		}
	}
	for route, r := range s.rules {
		ruled = append(ruled, route)
		if r != granted[route] {
			t.Errorf("%s has the rule %+v, the contract says %+v", route, r, granted[route])
		}
	}
	for route := range granted {
		wanted = append(wanted, route)
	}
	slices.Sort(documented)
	slices.Sort(ruled)
	slices.Sort(wanted)
	actual := routes(t, s)
	for name, list := range map[string][]string{"the document": documented, "the rules": ruled, "the contract": wanted} {
		if !slices.Equal(list, actual) {
			t.Errorf("%s and the router differ:\n%s\n\n%s", name, strings.Join(list, "\n"), strings.Join(actual, "\n"))
		}
	}
}

func TestRouteWithoutRuleCannotBe(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a route was registered without a rule")
		}
	}()
	s := New(Options{})
	register(s, rule{}, operationForTest, func(_ ctxT, _ *struct{}) (*struct{}, error) { return nil, nil })
}

// TestAuthorisation walks every route of the router with every kind of caller.
func TestAuthorisation(t *testing.T) {
	for _, route := range routes(t, New(Options{})) {
		t.Run(route, func(t *testing.T) {
			method, path, _ := strings.Cut(route, " ")
			r, known := granted[route]
			if !known {
				t.Fatal("the contract says nothing of this route")
			}
			b := newBench(t, nil)
			if strings.HasSuffix(path, "/chat/cancel") {
				b.busy("dt-1")
			}
			past := time.Now().Add(-time.Hour)
			expired := b.AddKey("usr-1", func(k *desktop.Key) { k.ExpiresAt = &past }, desktop.Capabilities()...)
			revoked := b.AddKey("usr-1", func(k *desktop.Key) { k.RevokedAt = &past }, desktop.Capabilities()...)

			call := func(authorization, id, body string) reply {
				b.t = t
				return b.do(method, fill(path, id), body, "Authorization: "+authorization)
			}
			// A body that no route takes: who is refused is refused before it is looked at.
			const bad = `{"nonsense":`

			for name, authorization := range map[string]string{
				"no key":         "",
				"another scheme": "Basic dXNlcjpwYXNz",
				"no secret":      "Bearer ",
				"an unknown key": "Bearer sk_live_unknown",
				"nonsense":       "Bearer " + strings.Repeat("x", 5000),
				"an expired key": "Bearer " + expired,
				"a revoked key":  "Bearer " + revoked,
			} {
				got := call(authorization, "dt-1", bad)
				if r.kind == forAnybody {
					if got.StatusCode != http.StatusOK {
						t.Errorf("%s: got %s", name, got.Status)
					}
					continue
				}
				b.problem(got, http.StatusUnauthorized)
				if challenge := got.Header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge, "Bearer") {
					t.Errorf("%s: the challenge is %q", name, challenge)
				}
			}
			if r.kind == forAnybody {
				return
			}

			for _, capability := range append(desktop.Capabilities(), "") {
				var held []desktop.Capability
				if capability != "" {
					held = append(held, capability)
				}
				owner := "Bearer " + b.AddKey("usr-1", nil, held...)
				stranger := "Bearer " + b.AddKey("usr-2", nil, held...)
				switch {
				case r.kind == forOperator || r.kind == forCapability && r.capability != capability:
					p := b.problem(call(owner, "dt-1", bad), http.StatusForbidden)
					want := string(r.capability)
					if r.kind == forOperator {
						want = administrationSocket
					}
					if p["required"] != want {
						t.Errorf("with %q: required is %v, want %s", capability, p["required"], want)
					}
					list, ok := p["held"].([]any)
					if !ok || len(list) != len(held) || len(held) == 1 && list[0] != string(held[0]) {
						t.Errorf("with %q: held is %v", capability, p["held"])
					}
					// The same for a desktop that is somebody else's, or nobody's.
					b.problem(call(owner, "dt-2", bad), http.StatusForbidden)
					b.problem(call(owner, "dt-none", bad), http.StatusForbidden)
				default:
					if strings.Contains(path, "{id}") {
						foreign := b.problem(call(stranger, "dt-1", bad), http.StatusNotFound)
						missing := b.problem(call(stranger, "dt-none", bad), http.StatusNotFound)
						if strings.ReplaceAll(foreign["error"].(string), "dt-1", "dt-none") != missing["error"] {
							t.Errorf("a foreign desktop and a missing one can be told apart: %v, %v", foreign["error"], missing["error"])
						}
						b.problem(call(stranger, "dt-1", goodBodies[route]), http.StatusNotFound)
					}
					if got := call(owner, "dt-1", goodBodies[route]); got.StatusCode >= 300 {
						t.Errorf("the owner with %q got %s: %s", capability, got.Status, got.body)
					}
				}
			}
		})
	}
}

// TestOperator: the administration socket may do everything, on every desktop, and a key that is
// sent over it counts as that key.
func TestOperator(t *testing.T) {
	for _, route := range routes(t, New(Options{})) {
		b := newBench(t, nil)
		b.Left = desktop.Orphans{
			Machines: []desktop.Stranger{{DesktopID: "dt-stranger", Domain: "bureau-dt-stranger", Owner: "usr-1"}},
			Volumes:  []desktop.Volume{{Name: "not-found"}},
		}
		method, path, _ := strings.Cut(route, " ")
		body := goodBodies[route]
		if route == "POST /v1/desktops" {
			body = `{"name":"new","owner":"usr-2"}`
		}
		id := "dt-2"
		switch {
		case strings.HasPrefix(path, "/v1/admin/users"):
			id = "usr-1"
		case strings.HasPrefix(path, "/v1/admin"):
			id = "key-1"
		}
		if strings.HasSuffix(path, "/chat/cancel") {
			b.busy(id)
		}
		if w := b.asLocal(method, fill(path, id), body); w.Code >= 300 {
			t.Errorf("%s: %d: %s", route, w.Code, w.Body)
		}
	}
}
