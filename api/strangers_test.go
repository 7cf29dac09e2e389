package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"bureau/api/apitest"
	"bureau/desktop"
)

func TestFailedAuthenticationIsLimited(t *testing.T) {
	b := newBench(t, func(o *Options) { o.FailuresPerMinute = 3 })
	unused := b.AddKey("usr-2", nil, desktop.Capabilities()...)
	b.into(b.do("GET", "/v1/me", ""), 200, nil) // a key that has been good
	revoked := b.AddKey("usr-1", nil, desktop.CanRead)
	b.into(b.do("GET", "/v1/me", "", "Authorization: Bearer "+revoked), 200, nil)
	keys, _ := b.Keys(t.Context(), "usr-1")
	if _, err := b.RevokeKey(t.Context(), keys[len(keys)-1].ID); err != nil {
		t.Fatal(err)
	}

	for i, header := range []string{"Authorization: Bearer sk_live_unknown", "Authorization: ", "Authorization: Bearer " + revoked} {
		got := b.do("GET", "/v1/me", "", header)
		if p := b.problem(got, 401); i != 1 && p["error"] != "the key is unknown, revoked or expired" {
			t.Errorf("%s: %v", header, p)
		}
	}
	for _, header := range []string{"Authorization: Bearer sk_live_other", "Authorization: ", "Authorization: Basic eA==", "Authorization: Bearer " + revoked,
		"Authorization: Bearer " + unused} { // whose being good nobody has seen
		got := b.do("GET", "/v1/desktops", "", header)
		b.problem(got, 429)
		if wait := got.Header.Get("Retry-After"); wait == "" || wait == "0" {
			t.Errorf("%s: Retry-After is %q", header, wait)
		}
	}
	// Whoever has been let in before is, from the same address, and so is the operator.
	for range 10 {
		b.into(b.do("GET", "/v1/me", ""), 200, nil)
	}
	if w := b.asLocal("GET", "/v1/me", ""); w.Code != 200 {
		t.Errorf("the operator got %d", w.Code)
	}
	if w := b.asLocal("GET", "/healthz", ""); w.Code != 200 {
		t.Errorf("what needs no key got %d", w.Code)
	}
	if log := b.log.String(); strings.Contains(log, "sk_live_") {
		t.Errorf("the log tells keys:\n%s", log)
	}
}

func TestFailuresByAddress(t *testing.T) {
	now := time.Now()
	f := newFailures(2)
	address := netip.MustParseAddr
	fail := func(from string) { f.note(address(from), "bad", false, now) }
	waits := func(from, secret string) bool { return f.wait(address(from), secret, now) > 0 }
	fail("192.0.2.1")
	if waits("192.0.2.1", "x") {
		t.Error("it waits after one failure of two")
	}
	fail("192.0.2.1")
	if got := f.wait(address("192.0.2.1"), "x", now); got <= 0 || got > 30*time.Second {
		t.Errorf("the wait is %s; one more is allowed every 30 s", got)
	}
	if waits("192.0.2.2", "x") {
		t.Error("its neighbour waits, too")
	}
	f.note(address("192.0.2.9"), "good", true, now)
	if waits("192.0.2.1", "good") || !waits("192.0.2.1", "bad") {
		t.Error("a good key is not let through, or a bad one is")
	}
	f.note(address("192.0.2.1"), "good", false, now)
	if !waits("192.0.2.1", "good") {
		t.Error("a key that is not good any more is let through")
	}
	if now = now.Add(31 * time.Second); waits("192.0.2.1", "x") {
		t.Error("it still waits when it need not")
	}

	// An IPv6 network is one stranger's; without an address there is no limit.
	fail("2001:db8::1")
	fail("2001:db8::ffff:1")
	if !waits("2001:db8::2", "x") || waits("2001:db8:0:1::1", "x") {
		t.Error("a network of 64 bits is not what counts")
	}
	for range 5 {
		f.note(netip.Addr{}, "bad", false, now)
	}
	if f.wait(netip.Addr{}, "x", now) > 0 {
		t.Error("the administration socket waits")
	}
	for range 5 {
		none := newFailures(0)
		none.note(address("192.0.2.1"), "bad", false, now)
		if none.wait(address("192.0.2.1"), "bad", now) > 0 || none.addresses.Len() > 0 {
			t.Error("without a limit there is one")
		}
	}
}

func TestFailuresAreForgottenWithinBounds(t *testing.T) {
	now := time.Now()
	f := newFailures(2)
	for i := range 3 * manyAddresses {
		from := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		f.note(from, "bad", false, now)
		f.note(from, "bad", false, now)
		if f.wait(from, "x", now) == 0 {
			t.Fatalf("the address number %d is not remembered", i)
		}
		f.note(from, fmt.Sprint("good", i), true, now)
	}
	if f.addresses.Len() > manyAddresses || f.good.Len() > manyGoodKeys {
		t.Errorf("%d addresses and %d keys are remembered", f.addresses.Len(), f.good.Len())
	}
	// Those that have rested longest go first; who is held up has not.
	held := netip.AddrFrom4([4]byte{11, 0, 0, 1})
	f.note(held, "bad", false, now)
	f.note(held, "bad", false, now)
	for i := range 3 * manyAddresses {
		if f.wait(held, "x", now) == 0 {
			t.Fatalf("an address that comes all the time was forgotten after %d others", i)
		}
		f.note(netip.AddrFrom4([4]byte{12, byte(i >> 16), byte(i >> 8), byte(i)}), "bad", false, now)
	}
}

func TestClientBehindProxies(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct {
		remote    string
		forwarded []string
		want      string
	}{
		{"192.0.2.1:5", nil, "192.0.2.1"},
		{"192.0.2.1:5", []string{"198.51.100.1"}, "192.0.2.1"}, // who is no proxy is not believed
		{"127.0.0.1:5", nil, "127.0.0.1"},
		{"127.0.0.1:5", []string{"198.51.100.1"}, "198.51.100.1"},
		{"127.0.0.1:5", []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1"}, // what the client made up
		{"127.0.0.1:5", []string{"203.0.113.9", "198.51.100.1, 10.1.1.1"}, "198.51.100.1"},
		{"127.0.0.1:5", []string{"198.51.100.1:1234"}, "198.51.100.1"},
		{"127.0.0.1:5", []string{"[2001:db8::1]:1234"}, "2001:db8::1"},
		{"127.0.0.1:5", []string{"2001:db8::1"}, "2001:db8::1"},
		{"127.0.0.1:5", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{"127.0.0.1:5", []string{"198.51.100.1, unknown, 10.1.1.1"}, "10.1.1.1"},
		{"127.0.0.1:5", []string{""}, "127.0.0.1"},
		{"127.0.0.1:5", []string{strings.Repeat(",", 60000)}, "127.0.0.1"},
		{"[::ffff:127.0.0.1]:5", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[fd00::1%eth0]:5", []string{"198.51.100.1"}, "198.51.100.1"},
		{"@", []string{"198.51.100.1"}, "invalid IP"},
		{"within", nil, "invalid IP"},
	} {
		r := &http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-For": c.forwarded}}
		if got := clientOf(r, proxies).String(); got != c.want {
			t.Errorf("%s, forwarded %.60q: got %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
	// The limit is of the client, not of its proxy.
	b := newBench(t, func(o *Options) { o.FailuresPerMinute, o.Proxies = 1, proxies })
	for from, status := range map[string]int{"192.0.2.1": 429, "192.0.2.2": 429} {
		b.problem(b.do("GET", "/v1/me", "", "Authorization: ", "X-Forwarded-For: 1.1.1.1, "+from), 401)
		b.problem(b.do("GET", "/v1/me", "", "Authorization: ", "X-Forwarded-For: 2.2.2.2, "+from), status)
	}
	if !strings.Contains(b.log.String(), "client=192.0.2.1") {
		t.Errorf("the log does not tell the client:\n%s", b.log)
	}
}

// raw is a connection to a server, from an address of this host.
func raw(t *testing.T, server, from string) net.Conn {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(server, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ask makes a request on a connection that stays open; key may be "".
func ask(t *testing.T, conn net.Conn, key string) (*http.Response, error) {
	t.Helper()
	if key != "" {
		key = "Authorization: Bearer " + key + "\r\n"
	}
	if _, err := fmt.Fprintf(conn, "GET /v1/me HTTP/1.1\r\nHost: x\r\n%s\r\n", key); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		_, err = io.Copy(io.Discard, response.Body)
	}
	return response, err
}

func TestConnectionsAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*Options)
		another string // the address of who comes when it is full
	}{
		"in all":         {func(o *Options) { o.Connections = 3 }, "127.0.0.3"},
		"of one address": {func(o *Options) { o.ConnectionsPerAddress = 3 }, "127.0.0.2"},
	} {
		t.Run(name, func(t *testing.T) {
			b, tcp, _, stop := served(t, time.Second, c.change)
			good := func(conn net.Conn) {
				t.Helper()
				if response, err := ask(t, conn, b.key); err != nil || response.StatusCode != 200 {
					t.Fatalf("got %v, %v", response, err)
				}
			}
			// Strangers make room, the oldest first.
			var slow []net.Conn
			for range 3 {
				conn := raw(t, tcp, "127.0.0.2")
				if _, err := io.WriteString(conn, "GET / HT"); err != nil {
					t.Fatal(err)
				}
				slow = append(slow, conn)
			}
			var known []net.Conn
			for i := range 3 {
				conn := raw(t, tcp, "127.0.0.2")
				good(conn)
				known = append(known, conn)
				if _, err := slow[i].Read(make([]byte, 1)); err == nil {
					t.Errorf("slow connection %d was answered", i)
				}
			}
			// Whoever is known does not, and is not disturbed.
			late := raw(t, tcp, c.another)
			response, err := ask(t, late, b.key)
			if err != nil || response.StatusCode != 503 || response.Header.Get("Retry-After") == "" || response.Header.Get("Content-Type") != "application/problem+json" {
				t.Fatalf("got %v, %v", response, err)
			}
			for _, conn := range known {
				good(conn)
			}
			if name == "of one address" {
				good(raw(t, tcp, "127.0.0.3"))
			}
			// Who leaves makes room, too.
			known[0].Close()
			for {
				response, err := ask(t, raw(t, tcp, c.another), b.key)
				if err == nil && response.StatusCode == 200 {
					break
				}
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			if log := b.log.String(); strings.Count(log, "as many connections as there may be") != 1 {
				t.Errorf("the log tells of it not once:\n%s", log)
			}
		})
	}
	t.Run("of a proxy", func(t *testing.T) {
		b, tcp, _, _ := served(t, time.Second, func(o *Options) {
			o.ConnectionsPerAddress, o.Proxies = 1, []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
		})
		for range 5 {
			if response, err := ask(t, raw(t, tcp, "127.0.0.2"), b.key); err != nil || response.StatusCode != 200 {
				t.Fatalf("got %v, %v", response, err)
			}
		}
	})
}

// The administration socket is the operator's: nothing of it is limited.
func TestTheOperatorIsNotLimited(t *testing.T) {
	b, tcp, socket, _ := served(t, time.Second, func(o *Options) { o.FailuresPerMinute, o.Connections, o.ConnectionsPerAddress = 1, 1, 1 })
	if response, err := ask(t, raw(t, tcp, "127.0.0.2"), b.key); err != nil || response.StatusCode != 200 {
		t.Fatalf("got %v, %v", response, err)
	}
	for range 5 {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for key, status := range map[string]int{"": 200, "sk_live_wrong": 401} {
			if response, err := ask(t, conn, key); err != nil || response.StatusCode != status {
				t.Fatalf("got %v, %v; want %d", response, err, status)
			}
		}
	}
}

// A request whose key is not good is not waited for, however slowly its body comes.
func TestTheBodyOfARefusedRequestIsNotWaitedFor(t *testing.T) {
	_, tcp, _, _ := served(t, time.Second, nil)
	conn := raw(t, tcp, "127.0.0.1")
	if _, err := io.WriteString(conn, "POST /v1/desktops HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || response.StatusCode != 401 || !response.Close {
		t.Errorf("got %v, %v", response, err)
	}
}

// The deadline of one answer's writing does not fall upon the next request, not even upon what net/http
// itself writes before the handler does.
func TestAConnectionThatHasRested(t *testing.T) {
	b, tcp, _, _ := served(t, time.Second, nil, func(s *Server) { s.times.write = 100 * time.Millisecond })
	conn := raw(t, tcp, "127.0.0.1")
	if response, err := ask(t, conn, b.key); err != nil || response.StatusCode != 200 {
		t.Fatalf("got %v, %v", response, err)
	}
	<-time.After(200 * time.Millisecond) // the deadline passes
	fmt.Fprintf(conn, "POST /v1/desktops/dt-1/click HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", b.key)
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("got %q, %v", line, err)
	}
	in.ReadString('\n')
	io.WriteString(conn, "{}")
	if response, err := http.ReadResponse(in, nil); err != nil || response.StatusCode != 200 {
		t.Errorf("got %v, %v", response, err)
	}
}

func TestSecurityHeaders(t *testing.T) {
	b := newBench(t, nil)
	for _, path := range []string{"/healthz", "/v1/me", "/v1/desktops/dt-1/screenshot", "/openapi.json", "/nothing", "/v1/desktops/dt-9"} {
		got := b.do("GET", path, "")
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
			"Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer",
			"Access-Control-Allow-Origin": "", "Vary": "", "Strict-Transport-Security": "", "Server": "",
		} {
			if got.Header.Get(name) != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got.Header.Get(name), want)
			}
		}
		if cache := got.Header.Get("Cache-Control"); cache != "no-store" && !(strings.HasSuffix(path, "screenshot") && cache == "private, no-cache") {
			t.Errorf("%s: Cache-Control is %q", path, cache)
		}
	}
}

func TestCORS(t *testing.T) {
	const page = "https://desk.example.org"
	b := newBench(t, func(o *Options) { o.Origins = []string{page, "http://localhost:3000"} })
	preflight := func(path, origin string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("OPTIONS", path, nil)
		r.Header.Set("Origin", origin)
		r.Header.Set("Access-Control-Request-Method", "POST")
		r.Header.Set("Access-Control-Request-Headers", "authorization,content-type")
		w := httptest.NewRecorder()
		b.server.Handler().ServeHTTP(w, r)
		return w
	}
	w := preflight("/v1/desktops/dt-1/click", page)
	if w.Code != 204 || w.Body.Len() != 0 || w.Header().Get("Access-Control-Allow-Origin") != page || !slices.Contains(w.Header().Values("Vary"), "Origin") ||
		!strings.Contains(w.Header().Get("Access-Control-Allow-Methods"), "POST") ||
		!strings.Contains(strings.ToLower(w.Header().Get("Access-Control-Allow-Headers")), "authorization") {
		t.Errorf("got %d %v", w.Code, w.Header())
	}
	got := b.do("GET", "/v1/desktops/dt-1/screenshot", "", "Origin: "+page)
	if got.StatusCode != 200 || got.Header.Get("Access-Control-Allow-Origin") != page || !strings.Contains(got.Header.Get("Access-Control-Expose-Headers"), "ETag") {
		t.Errorf("got %s %v", got.Status, got.Header)
	}
	// Failures are for the page, too.
	if got := b.do("GET", "/v1/me", "", "Authorization: ", "Origin: "+page); got.StatusCode != 401 || got.Header.Get("Access-Control-Allow-Origin") != page {
		t.Errorf("got %s %v", got.Status, got.Header)
	}
	others := []string{"", "null", "https://desk.example.org.evil.example", "http://desk.example.org", "https://desk.example.org:8443", "https://evil.example", "*"}
	for _, origin := range others {
		if w := preflight("/v1/desktops/dt-1/click", origin); w.Code != 405 || w.Header().Get("Access-Control-Allow-Origin") != "" || w.Header().Get("Vary") != "Origin" {
			t.Errorf("%q: got %d %v", origin, w.Code, w.Header())
		}
		if got := b.do("GET", "/v1/me", "", "Origin: "+origin); got.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%q: got %v", origin, got.Header)
		}
	}
	for _, header := range []http.Header{w.Header(), got.Header} {
		if header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("credentials are allowed: %v", header)
		}
	}
	// Unless it is configured there is none of it.
	b = newBench(t, nil)
	if w := preflight("/v1/desktops", page); w.Code != 405 || w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("got %d %v", w.Code, w.Header())
	}
}

// TestSlowClients: clients that send their headers and bodies a byte at a time, or read no answer, are
// cut off, hold nothing in the end, and keep nobody else from being answered.
func TestSlowClients(t *testing.T) {
	b, tcp, _, _ := served(t, time.Second, func(o *Options) { o.Connections, o.ConnectionsPerAddress, o.FailuresPerMinute = 150, 150, 30 },
		func(s *Server) {
			s.times = times{header: 300 * time.Millisecond, body: 300 * time.Millisecond, write: 2 * time.Second, idle: time.Minute}
		})
	large := strings.Repeat("x", 8<<20)
	b.OnExec = func(context.Context, desktop.Exec, func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
		return desktop.ExecResult{Stdout: large}, nil
	}
	client := &http.Client{}
	normal := func() {
		for _, c := range []struct{ path, body string }{{"", ""}, {"/screenshot", ""}, {"/exec", `{"command":"x"}`}} {
			request, err := http.NewRequestWithContext(t.Context(), map[bool]string{true: "POST", false: "GET"}[c.body != ""], tcp+"/v1/desktops/dt-1"+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer "+b.key)
			response, err := client.Do(request)
			if err != nil {
				t.Fatalf("a normal client: %v", err)
			}
			n, err := io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if err != nil || response.StatusCode != 200 || c.path == "/exec" && n < int64(len(large)) {
				t.Fatalf("a normal client got %s, %d bytes of %s: %v", response.Status, n, c.path, err)
			}
		}
	}
	normal()
	slow := &apitest.Slow{Address: strings.TrimPrefix(tcp, "http://"), Key: b.other, Body: "/v1/desktops/dt-2/type",
		Answer: "/v1/desktops/dt-2/screenshot?scale=8", Pace: 20 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { slow.Run(ctx, 200); close(ended) }()
	for counts := slow.CutOff(); min(counts.Headers, counts.Bodies, counts.Answers) < 50; counts = slow.CutOff() {
		normal()
	}
	cancel()
	<-ended
	normal()
	client.CloseIdleConnections()
	t.Logf("%d slow connections, of which the server ended %+v", slow.Connected(), slow.CutOff())
	b.server.inFlight.Wait() // of what they asked nothing goes on
}

// TestNoSecretsInLogs makes every request of the API, rightly and wrongly, with secrets wherever a request
// can carry one, and looks for them in what was logged at the lowest level, as text and as JSON.
func TestNoSecretsInLogs(t *testing.T) {
	var text, object apitest.Log
	b := newBench(t, func(o *Options) {
		level := &slog.HandlerOptions{Level: slog.LevelDebug}
		o.Logger = slog.New(slog.NewMultiHandler(slog.NewTextHandler(&text, level), slog.NewJSONHandler(&object, level)))
		o.FailuresPerMinute = 10_000
	})
	const secret = "the-sécret-0123456789" // and what the bodies below make of it
	bodies := map[string]string{
		"POST /v1/desktops/{id}/type":           `{"text":"` + secret + `","sensitive":true}`,
		"POST /v1/desktops/{id}/actions":        `[{"type":"type","text":"` + secret + `","sensitive":true}]`,
		"POST /v1/desktops/{id}/exec":           `{"command":"echo ` + secret + `","env":{"TOKEN":"` + secret + `"},"stdin":"` + secret + `"}`,
		"POST /v1/desktops/{id}/bash":           `{"script":"echo ` + secret + `","env":{"TOKEN":"` + secret + `"},"stdin":"` + secret + `"}`,
		"PUT /v1/desktops/{id}/clipboard":       `{"text":"` + secret + `"}`,
		"POST /v1/desktops/{id}/chat":           `{"message":"` + secret + `"}`,
		"POST /v1/chat/completions":             `{"model":"bureau/dt-1","messages":[{"role":"user","content":"` + secret + `"}]}`,
		"PUT /v1/desktops/{id}/provider":        `{"provider":"anthropic","apiKey":"` + secret + `"}`,
		"POST /v1/providers":                    `{"provider":"anthropic","apiKey":"` + secret + `","name":"new"}`,
		"PATCH /v1/providers/{providerId}":      `{"apiKey":"` + secret + `"}`,
		"POST /v1/providers/{providerId}/test":  `{}`,
		"POST /v1/desktops/{id}/lease":          `{"holder":"me"}`,
		"POST /v1/desktops/{id}/key":            `{"key":"` + secret + `"}`,
		"POST /v1/desktops/{id}/chat/cancel":    `{}`,
		"POST /v1/desktops/{id}/provider/test":  `{}`,
		"POST /v1/admin/keys":                   `{"user":"usr-1","name":"made"}`,
		"PATCH /v1/desktops/{id}":               `{"name":"other"}`,
		"POST /v1/desktops/{id}/approvals/none": `{}`,
	}
	secrets := []string{secret, b.key, b.other, "sk_live_guess"}
	asked := 0
	for _, route := range routes(t, b.server) {
		method, path, _ := strings.Cut(route, " ")
		body := bodies[route]
		if body == "" {
			body = goodBodies[route]
		}
		path = fill(path, "dt-1")
		send := func(body string, headers ...string) reply {
			asked++
			return b.do(method, path+"?ticket="+secret+"&limit="+secret, body, append(headers, "X-Anything: "+secret, leaseHeader+": lease_"+secret)...)
		}
		for _, path = range []string{path, fill(strings.SplitN(route, " ", 2)[1], "dt-2")} {
			send(body)
			for _, broken := range []string{`{"text":["` + secret + `"],"apiKey":7,"` + secret + `":1}`, `{"message":"` + secret, `"` + secret + `"`, `[{"type":"type","text":"` + secret + `"},7]`} {
				if body != "" {
					send(broken)
				}
			}
			send(body, "Authorization: Bearer sk_live_guess"+secret)
			send(body, "Authorization: Basic "+secret)
		}
		if w := b.asLocal(method, path, body); strings.HasPrefix(route, "POST /v1/admin/keys") {
			var made NewKey
			if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || made.Secret == "" {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			secrets = append(secrets, made.Secret)
		}
	}
	// And with a domain that fails, whose error is logged in full.
	b.Fail = func(method string) error { return fmt.Errorf("%s does not work", method) }
	for _, route := range []string{"type", "exec", "clipboard"} {
		for method := range map[string]bool{"POST": true, "PUT": true} {
			asked++
			b.do(method, "/v1/desktops/dt-1/"+route, bodies[method+" /v1/desktops/{id}/"+route])
		}
	}
	for name, log := range map[string]string{"text": text.String(), "JSON": object.String()} {
		if lines := strings.Count(log, "\n"); lines < asked {
			t.Errorf("%d lines of %s for %d requests", lines, name, asked)
		}
		for _, secret := range secrets {
			for line := range strings.Lines(log) {
				if strings.Contains(line, secret) {
					t.Errorf("%q is in the log: %s", secret, line)
					break
				}
			}
		}
	}
	t.Logf("%d requests", asked)
}
