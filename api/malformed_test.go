package api

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
	"bureau/desktop/dialect"
)

type ctxT = context.Context

var operationForTest = huma.Operation{OperationID: "test", Method: http.MethodGet, Path: "/test"}

func TestMalformedRequests(t *testing.T) {
	b := newBench(t, nil)
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		route, body string
		status      int
		names       string // what the sentence must name
	}{
		{"POST click", `{"x":`, 400, "not valid JSON"},
		{"POST click", `{"x":1,"y":2} trailing`, 400, "not valid JSON"},
		{"POST click", `[]`, 400, "expected object"},
		{"POST click", `"x"`, 400, "expected object"},
		{"POST click", `null`, 400, "expected object"},
		{"POST click", `{"x":1,"y":2,"z":3}`, 400, `unknown field "z"`},
		{"POST click", `{"X":1,"y":2}`, 400, `unknown field "X"`},
		{"POST click", `{"x":"1","y":2}`, 400, "x: expected integer"},
		{"POST click", `{"x":1.5,"y":2}`, 400, "x: expected integer"},
		{"POST click", `{"x":1e300,"y":2}`, 400, "x: number"},
		{"POST click", `{"x":true,"y":2}`, 400, "x: expected integer"},
		{"POST click", `{"x":1}`, 400, "x and y go together"},
		{"POST click", `{"x":-1,"y":0}`, 400, "outside the display"},
		{"POST click", `{"x":320,"y":0}`, 400, "outside the display"},
		{"POST click", `{"button":"third"}`, 400, "button: expected value to be one of"},
		{"POST click", `{"button":{}}`, 400, "button: expected string"},
		{"POST click", `{"count":4}`, 400, "count: expected number <= 3"},
		{"POST click", `{"count":3,"double":true}`, 400, "double: contradicts count 3"},
		{"POST click", `{"modifiers":"ctrl"}`, 400, "modifiers: expected array"},
		{"POST click", `{"modifiers":[1]}`, 400, "modifiers[0]: expected string"},
		{"POST click", `{"modifiers":["1","2","3","4","5","6","7","8","9"]}`, 400, "modifiers: expected array length <= 8"},
		{"POST click", `{"action":"hover"}`, 400, "action: expected value"},
		{"POST click", `{"screenshot":1}`, 400, "screenshot: expected true or an object"},
		{"POST click", `{"screenshot":{"fromat":"png"}}`, 400, `screenshot: unknown field "fromat"`},
		{"POST click", `{"screenshot":{"format":"gif"}}`, 400, "screenshot: format"},
		{"POST click", `{"screenshot":{"region":"1,2"}}`, 400, "screenshot: region"},
		{"POST click", `{"screenshot":{"region":"0,0,9999,1"}}`, 400, "outside the display, which is 320x200"},
		{"POST click", `{"settleMs":60001}`, 400, "settleMs: expected number <= 60000"},
		{"POST click", `{"settleMs":-1}`, 400, "settleMs: expected number >= 0"},
		{"POST click", `{"screenshot":{"settleMs":60001}}`, 400, "screenshot: settleMs: expected a number from 0 to 60000"},
		{"POST click", `{"screenshot":{"scale":0.5,"maxWidth":10}}`, 400, "screenshot: give either a scale"},
		{"POST click", `{"screenshot":{"quality":10}}`, 400, "screenshot: quality"},
		{"POST click", "{\"button\":\"\xff\"}", 400, "not valid UTF-8"},
		{"POST click", `{"` + long + `":1}`, 400, "unknown field"},
		{"POST click", strings.Repeat("[", 20000), 400, "not valid JSON"},
		{"POST move", ``, 400, "body is required"},
		{"POST move", `{}`, 400, "x to be present"},
		{"POST move", `{"x":1,"y":null}`, 400, "y: expected integer"},
		{"POST drag", `{}`, 400, "startX"},
		{"POST drag", `{"startX":1,"startY":1,"endX":1}`, 400, "endY"},
		{"POST drag", `{"path":[{"x":1,"y":1}]}`, 400, "path: expected two points"},
		{"POST drag", `{"path":[{"x":1,"y":1},{"x":1}]}`, 400, "path[1]"},
		{"POST drag", `{"path":[{"x":1,"y":1},{"x":1,"y":2,"z":3}]}`, 400, `unknown field "path[1].z"`},
		{"POST drag", `{"startX":1,"path":[{"x":1,"y":1},{"x":2,"y":2}]}`, 400, "path: give either"},
		{"POST drag", `{"startX":1,"startY":1,"endX":1,"endY":1,"durationMs":60001}`, 400, "durationMs"},
		{"POST scroll", `{}`, 400, "direction"},
		{"POST scroll", `{"amount":3}`, 400, "direction"},
		{"POST scroll", `{"direction":"sideways"}`, 400, "direction"},
		{"POST scroll", `{"direction":"up","amount":-1}`, 400, "amount"},
		{"POST scroll", `{"direction":"up","deltaY":1}`, 400, "direction: give either"},
		{"POST scroll", `{"direction":"up","y":1}`, 400, "x and y go together"},
		{"POST type", `{}`, 400, "text to be present"},
		{"POST type", `{"text":1}`, 400, "text: expected string"},
		{"POST type", `{"text":"a","delayMs":1001}`, 400, "delayMs"},
		{"POST type", `{"text":"` + strings.Repeat("a", desktop.MaxTextLength+1) + `"}`, 400, "text: expected length <= 100000"},
		{"POST key", `{}`, 400, "key to be present"},
		{"POST key", `{"key":""}`, 400, "key"},
		{"POST key", `{"key":[]}`, 400, "key: expected 1 to 1000"},
		{"POST key", `{"key":[1]}`, 400, "key: expected a string or a list"},
		{"POST key", `{"key":null}`, 400, "key"},
		{"POST key", `{"key":{"a":1}}`, 400, "key: expected a string or a list"},
		{"POST key", `{"key":"a","repeat":101}`, 400, "repeat"},
		{"POST key", `{"keys":"a"}`, 400, "key to be present"},
		{"POST actions", ``, 400, "body is required"},
		{"POST actions", `null`, 400, "there is no action"},
		{"POST actions", `"click"`, 400, "not a JSON array"},
		{"POST actions", `17`, 400, "not a JSON array"},
		{"POST actions", `[`, 400, "not valid JSON"},
		{"POST actions", `[]`, 400, "there is no action"},
		{"POST actions", `{}`, 400, "has none of type, action and name"},
		{"POST actions", `[1]`, 400, "action 0 is not a JSON object"},
		{"POST actions", `[[{"type":"click"}]]`, 400, "action 0 is not a JSON object"},
		{"POST actions", `{"type":"fly"}`, 400, `action 0: "fly" is not an action of the dialect bureau`},
		{"POST actions", `[{"type":"click"},{"type":"` + long + `"}]`, 400, "action 1"},
		{"POST actions", `{"action":"fly"}`, 400, `action 0: "fly" is not an action of the dialect anthropic`},
		{"POST actions", `{"name":"fly","args":{}}`, 400, `action 0: "fly" is not an action of the dialect gemini`},
		{"POST actions", `{"type":"computer_call","actions":[{"type":"wait"},{"type":"fly"}]}`, 400, `action 1: "fly" is not an action of the dialect openai`},
		{"POST actions", `{"type":"click","x":320,"y":0}`, 400, "outside the display, which is 320x200"},
		{"POST actions", `{"type":"click","x":1}`, 400, "x and y belong together"},
		{"POST actions", `{"type":"click","z":1}`, 400, `"z" is not one of its members`},
		{"POST actions", `[{"type":"wait","ms":1},{"action":"left_click"}]`, 400, "a request has one dialect"},
		{"POST actions", `{"actions":[]}`, 400, "there is no action"},
		{"POST actions", `{"actions":null}`, 400, "there is no action"},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"shot":true}`, 400, `unknown field "shot"`},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"dialect":"klingon"}`, 400, "dialect: expected one of"},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"dialect":"gemini"}`, 400, "gemini"},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"dialect":7}`, 400, "dialect"},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"settleMs":60001}`, 400, "settleMs: expected a number from 0 to 60000"},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"settleMs":-1}`, 400, "settleMs"},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"settleMs":1.5}`, 400, "settleMs"},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"format":"gif"}`, 400, "format: expected png"},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"quality":50}`, 400, "quality is for jpeg"},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"display":{"width":0,"height":10}}`, 400, "display: expected a width"},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"display":{"width":8192,"height":8192}}`, 400, "display: expected"},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"display":"large"}`, 400, "display"},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"screenshot":{"format":"gif"}}`, 400, "screenshot: format"},
		{"POST actions", `{"actions":{"type":"wait","ms":0},"screenshot":{"region":"0,0,9999,1"}}`, 400, "region: outside the display"},
		{"POST actions", `[` + strings.Repeat(`{"type":"cursor"},`, 100) + `{"type":"cursor"}]`, 413, "more than 100 actions"},
		{"POST actions", `{"type":"type","text":"` + strings.Repeat("a", desktop.MaxTextLength+1) + `"}`, 413, "longer than 100000 characters"},
		{"POST actions", "{\"type\":\"type\",\"text\":\"\xff\"}", 400, "not valid UTF-8"},
		{"PUT clipboard", ``, 400, "body is required"},
		{"PUT clipboard", `{}`, 400, "text to be present"},
		{"PUT clipboard", `{"text":null}`, 400, "text: expected string"},
		{"PUT clipboard", `{"text":"a\u0000b"}`, 400, "text: has a NUL"},
		{"PUT clipboard", `{"text":"` + strings.Repeat("é", desktop.MaxClipboardBytes/2+1) + `"}`, 413, "text"},
		{"PATCH display", `{}`, 400, "to be present"},
		{"PATCH display", `{"width":199,"height":400}`, 400, "width: expected number >= 200"},
		{"PATCH display", `{"width":640,"height":8193}`, 400, "height: expected number <= 8192"},
		{"PATCH display", `{"width":641,"height":400}`, 400, "multiple of 8"},
		{"POST windows/x/activate", ``, 400, "windowId: invalid integer"},
		{"POST windows/-1/activate", ``, 400, "windowId"},
		{"DELETE windows/4294967296", ``, 400, "windowId"},
		{"POST exec", `{}`, 400, "command to be present"},
		{"POST exec", `{"command":""}`, 400, "command: expected length >= 1"},
		{"POST exec", `{"command":"a\u0000b"}`, 400, "command: has a NUL"},
		{"POST exec", `{"command":"a","timeoutMs":0}`, 400, "timeoutMs"},
		{"POST exec", `{"command":"a","timeoutMs":86400001}`, 400, "timeoutMs"},
		{"POST exec", `{"command":"a","env":{"a=b":"c"}}`, 400, "env"},
		{"POST exec", `{"command":"a","env":{"a":1}}`, 400, "env.a: expected string"},
		{"POST exec", `{"command":"a","env":[]}`, 400, "env: expected object"},
		{"POST bash", `{"command":"a"}`, 400, "script to be present"},
		{"POST bash", `{"script":"` + strings.Repeat("é", desktop.MaxScriptLength/2+1) + `"}`, 413, "script"},
		{"PATCH ", ``, 400, "body is required"},
		{"POST click", `{"x":1,"y":2,"screenshot":{"format":"jpeg","quality":"high"}}`, 400, "screenshot.quality: string does not fit"},
		{"POST click", `{"x":1,"y":2,"screenshot":{"format":"jpeg","quality":88.5}}`, 400, "screenshot.quality: number 88.5 does not fit"},
		{"PATCH ", `{"name":""}`, 400, "name: expected length"},
		{"PATCH ", `{"name":" a"}`, 400, "name begins or ends with a space"},
		{"PATCH ", `{"name":"` + strings.Repeat("a", 64) + `"}`, 400, "name"},
		{"PATCH ", `{"status":"running"}`, 400, `unknown field "status"`},
		{"PATCH ", `{"keepAlive":"yes"}`, 400, "keepAlive: expected boolean"},
		{"GET screenshot?format=gif", ``, 400, "format"},
		{"GET screenshot?quality=0", ``, 400, "quality"},
		{"GET screenshot?quality=high", ``, 400, "quality: invalid integer"},
		{"GET screenshot?region=1,2,3", ``, 400, "region"},
		{"GET screenshot?region=0,0,0,5", ``, 400, "region"},
		{"GET screenshot?region=-1,0,5,5", ``, 400, "region"},
		{"GET screenshot?region=300,0,21,5", ``, 400, "region: outside the display, which is 320x200"},
		{"GET screenshot?region=99999999999999999999,0,1,1", ``, 400, "region"},
		{"GET screenshot?scale=0", ``, 400, "scale"},
		{"GET screenshot?scale=NaN", ``, 400, "scale"},
		{"GET screenshot?scale=-1", ``, 400, "scale"},
		{"GET screenshot?maxWidth=100000", ``, 400, "maxWidth"},
		{"GET screenshot?settleMs=60001", ``, 400, "settleMs"},
		{"GET screenshot?settleMs=soon", ``, 400, "settleMs: invalid integer"},
		{"GET screenshot?cursor=perhaps", ``, 400, "cursor"},
		{"GET /v1/desktops?limit=0", ``, 400, "limit"},
		{"GET /v1/desktops?limit=101", ``, 400, "limit"},
		{"GET /v1/desktops?limit=all", ``, 400, "limit: invalid integer"},
		{"GET /v1/desktops?limit=", ``, 400, "limit"},
		{"GET /v1/usage?until=", ``, 400, "until"},
		{"GET /v1/desktops?after=dt-2", ``, 400, "after"},
		{"POST /v1/desktops", `{"network":"lan"}`, 400, "network"},
		{"POST /v1/desktops", `{"owner":"usr-2"}`, 400, "owner"},
		{"POST /v1/desktops", `{"size":{"vcpus":-1}}`, 400, "size.vcpus"},
		{"POST /v1/desktops", `{"size":{"gpus":1}}`, 400, `unknown field "size.gpus"`},
		{"POST /v1/desktops", `{"name":"a\nb"}`, 400, "control characters"},
	} {
		method, path, _ := strings.Cut(c.route, " ")
		if !strings.HasPrefix(path, "/") {
			path = strings.TrimSuffix("/v1/desktops/dt-1/"+path, "/")
		}
		name := fmt.Sprintf("%s %.60s", c.route, c.body)
		got := b.do(method, path, c.body)
		if got.StatusCode != c.status {
			t.Errorf("%s: got %s, want %d: %.300s", name, got.Status, c.status, got.body)
			continue
		}
		p := b.problem(got, c.status)
		if sentence := p["error"].(string); !strings.Contains(sentence, c.names) {
			t.Errorf("%s: the error is %q, which does not name %q", name, sentence, c.names)
		}
		if len(got.body) > 20_000 {
			t.Errorf("%s: the problem document has %d bytes", name, len(got.body))
		}
	}
	b.problem(b.do("DELETE", "/v1/desktops/dt-1/windows/123", ""), 404)
	if acted := b.Acted(); len(acted) != 0 {
		t.Errorf("%d malformed actions were done", len(acted))
	}
	if strings.Contains(b.log.String(), "level=ERROR") {
		t.Errorf("the log has errors:\n%s", b.log)
	}
}

func TestManyFaultsAreListedUpToABound(t *testing.T) {
	b := newBench(t, nil)
	var fields []string
	for i := range 5000 {
		fields = append(fields, fmt.Sprintf(`"f%d":1`, i))
	}
	p := b.problem(b.do("POST", "/v1/desktops/dt-1/click", "{"+strings.Join(fields, ",")+"}"), 400)
	if n := len(p["errors"].([]any)); n != maxFaults {
		t.Errorf("%d faults listed", n)
	}
}

func TestMediaTypes(t *testing.T) {
	b := newBench(t, nil)
	for kind, status := range map[string]int{
		"":                                  200,
		"application/json":                  200,
		"application/json; charset=utf-8":   200,
		"text/plain":                        415,
		"application/x-www-form-urlencoded": 415,
		"application/cbor":                  415,
		"a+b;c+d":                           415,
	} {
		if got := b.do("POST", "/v1/desktops/dt-1/click", `{"x":1,"y":2}`, "Content-Type: "+kind); got.StatusCode != status {
			t.Errorf("%q: got %s, want %d: %s", kind, got.Status, status, got.body)
		} else if status == 415 {
			b.problem(got, 415)
		}
	}
	// Where no field is required there need not be a body.
	for _, path := range []string{"/v1/desktops/dt-1/click", "/v1/desktops"} {
		if got := b.do("POST", path, ""); got.StatusCode >= 300 {
			t.Errorf("%s without a body: got %s: %s", path, got.Status, got.body)
		}
	}
}

func TestBodiesOverTheLimit(t *testing.T) {
	b := newBench(t, nil)
	for path, limit := range map[string]int{"click": defaultBodyLimit, "type": largeBodyLimit, "exec": largeBodyLimit, "actions": dialect.MaxBytes} {
		for _, size := range []int{limit + 1, 10 << 20} {
			got := b.do("POST", "/v1/desktops/dt-1/"+path, strings.Repeat(" ", size))
			if p := b.problem(got, 413); !strings.Contains(p["error"].(string), fmt.Sprint(limit)) {
				t.Errorf("%s: the error %v does not name the limit", path, p["error"])
			}
		}
		// The limit itself is allowed, and then read: here as what it is, nothing but spaces.
		b.problem(b.do("POST", "/v1/desktops/dt-1/"+path, strings.Repeat(" ", limit)), 400)
	}
	// One that does not say how long it is.
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/desktops/dt-1/click HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: chunked\r\n\r\n", b.key)
	go func() {
		chunk := strings.Repeat(" ", 64<<10)
		for range 17 {
			fmt.Fprintf(conn, "%x\r\n%s\r\n", len(chunk), chunk)
		}
	}()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || response.StatusCode != 413 {
		t.Errorf("got %v, %v", response, err)
	}
}

func TestHugeHeadersAreRefused(t *testing.T) {
	b := newBench(t, nil)
	request, _ := http.NewRequestWithContext(t.Context(), "GET", b.url+"/v1/me", nil)
	request.Header.Set("X-Large", strings.Repeat("x", 1<<20))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %s", response.Status)
	}
}

func TestUnknownRoutesAndMethods(t *testing.T) {
	b := newBench(t, nil)
	for _, path := range []string{"/", "/v1", "/v1/desktops/", "/v1/desktops/dt-1/", "/v1/desktops/dt-1/fly", "/v1/desktops/a/b/c", "/v1/%2e%2e/x", "/problems"} {
		b.problem(b.do("GET", path, ""), 404)
	}
	for route, allow := range map[string]string{
		"PUT /v1/desktops":            "GET, POST",
		"DELETE /v1/me":               "GET",
		"GET /v1/desktops/dt-1/click": "POST",
		"OPTIONS /v1/desktops/dt-1":   "GET, PATCH, DELETE",
		"BREW /healthz":               "GET",
	} {
		method, path, _ := strings.Cut(route, " ")
		got := b.do(method, path, "")
		b.problem(got, 405)
		have := strings.Split(got.Header.Get("Allow"), ", ")
		for _, want := range strings.Split(allow, ", ") {
			if !strings.Contains(strings.Join(have, " "), want) || len(have) != len(strings.Split(allow, ", ")) {
				t.Errorf("%s: Allow is %v, want %s", route, have, allow)
			}
		}
	}
	b.problem(b.do("GET", "/problems/nothing", ""), 404)
}
