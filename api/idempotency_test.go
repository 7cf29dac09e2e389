package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bureau/api/apitest"
	"bureau/assistant/model"
	"bureau/desktop"
)

const once1 = "Idempotency-Key: 0d2c3a52-6a43-4a57-a1c3-2f1c4ee2a9b1"

func (b *bench) count() int {
	b.t.Helper()
	list, _, err := b.World.List(b.t.Context(), desktop.Caller{Local: true}, desktop.Page{})
	if err != nil {
		b.t.Fatal(err)
	}
	return len(list)
}

func TestIdempotencyKey(t *testing.T) {
	b := newBench(t, nil)
	before := b.count()
	first := b.do("POST", "/v1/desktops", `{"name":"one"}`, once1)
	var made desktop.Desktop
	b.into(first, 201, &made)
	if first.Header.Get("Idempotency-Replayed") != "" {
		t.Error("the first answer says that it is a repetition")
	}
	b.SetStatus(made.ID, desktop.Running) // the answer stays as it was
	again := b.do("POST", "/v1/desktops", `{"name":"one"}`, once1)
	if again.StatusCode != 201 || string(again.body) != string(first.body) || again.Header.Get("Idempotency-Replayed") != "true" ||
		again.Header.Get("Location") != first.Header.Get("Location") || again.Header.Get("Content-Type") != first.Header.Get("Content-Type") {
		t.Errorf("the repetition is answered %s %v %s\nafter %s %v %s", again.Status, again.Header, again.body, first.Status, first.Header, first.body)
	}
	if n := b.count(); n != before+1 {
		t.Errorf("there are %d desktops, want %d", n, before+1)
	}
	var told []string
	for _, e := range b.entries() {
		told = append(told, fmt.Sprint(e.Action, e.DesktopID, e.Details))
	}
	if want := []string{"desktop.create" + made.ID + "map[]", "desktop.createmap[repeated:1]"}; !slices.Equal(told, want) {
		t.Errorf("the log has %q, want %q", told, want)
	}

	// Another request with the same key: another body, another path.
	for path, body := range map[string]string{"/v1/desktops": `{"name":"two"}`, "/v1/desktops/dt-1/stop": ""} {
		if p := b.problem(b.do("POST", path, body, once1), 422); p["type"] != "/problems/idempotency-key-reused" {
			t.Errorf("%s: %v", path, p)
		}
	}
	// Somebody else's key is another one.
	other := b.do("POST", "/v1/desktops", `{"name":"one"}`, once1, "Authorization: Bearer "+b.other)
	if other.StatusCode != 201 || other.Header.Get("Idempotency-Replayed") != "" {
		t.Errorf("of another caller: %s %s", other.Status, other.body)
	}
	// What changes is not changed twice, either.
	for i, replayed := range []string{"", "true"} {
		r := b.do("POST", "/v1/desktops/dt-1/restart", "", "Idempotency-Key: restart-1")
		if r.StatusCode != 202 || r.Header.Get("Idempotency-Replayed") != replayed {
			t.Errorf("restart %d: %s %v", i, r.Status, r.Header)
		}
		b.SetStatus("dt-1", desktop.Running)
	}
	if d, err := b.Get(t.Context(), desktop.Caller{Local: true}, "dt-1"); err != nil || d.Status != desktop.Running {
		t.Errorf("%+v, %v", d, err)
	}
	for _, bad := range []string{"two words", "ü", strings.Repeat("x", 256), " "} { // the last is empty when it arrives
		b.problem(b.do("POST", "/v1/desktops", `{}`, "Idempotency-Key: "+bad), 400)
	}
	// Where the header is not for, it changes nothing.
	for range 2 {
		if r := b.do("POST", "/v1/desktops/dt-1/click", `{"x":1,"y":1}`, "Idempotency-Key: click"); r.StatusCode != 200 || r.Header.Get("Idempotency-Replayed") != "" {
			t.Errorf("click: %s %v", r.Status, r.Header)
		}
	}
}

// faulty is a domain with a fault of ours.
type faulty struct {
	Desktops
	panics bool
}

func (f *faulty) Create(ctx context.Context, caller desktop.Caller, draft desktop.Draft) (desktop.Desktop, error) {
	if f.panics {
		panic("a fault of ours")
	}
	return f.Desktops.Create(ctx, caller, draft)
}

// A request that failed and did nothing may be sent again.
func TestIdempotencyKeyOfAFailure(t *testing.T) {
	fault := &faulty{}
	b := newBench(t, func(o *Options) {
		fault.Desktops = o.Desktops
		o.Desktops = fault
	})
	b.problem(b.do("POST", "/v1/desktops", `{"colour":"red"}`, once1), 400)
	b.Fail = func(method string) error {
		if method == "Create" {
			return desktop.Errorf(desktop.Exhausted, "the host is full")
		}
		return nil
	}
	b.problem(b.do("POST", "/v1/desktops", `{"name":"one"}`, once1), 507)
	b.Fail, fault.panics = nil, true
	b.problem(b.do("POST", "/v1/desktops", `{"name":"one"}`, once1), 500)
	fault.panics = false
	if r := b.do("POST", "/v1/desktops", `{"name":"one"}`, once1); r.StatusCode != 201 || r.Header.Get("Idempotency-Replayed") != "" {
		t.Errorf("%s %s", r.Status, r.body)
	}
}

// held keeps every end of a claim back.
type held struct {
	desktop.Claims
	entered chan struct{}
	leave   chan struct{}
}

func (h held) Finish(ctx context.Context, claim desktop.Claim, answer *desktop.Answer) error {
	select {
	case h.entered <- struct{}{}:
	default:
	}
	<-h.leave
	return h.Claims.Finish(ctx, claim, answer)
}

func TestIdempotencyKeyInFlight(t *testing.T) {
	hold := held{entered: make(chan struct{}, 1), leave: make(chan struct{})}
	b := newBench(t, func(o *Options) {
		hold.Claims = o.Claims
		o.Claims = hold
	})
	first := make(chan reply, 1)
	go func() { first <- b.do("POST", "/v1/desktops", `{"name":"one"}`, once1) }()
	<-hold.entered
	b.problem(b.do("POST", "/v1/desktops", `{"name":"one"}`, once1), 409)
	close(hold.leave)
	if r := <-first; r.StatusCode != 201 {
		t.Errorf("%s %s", r.Status, r.body)
	}
	if r := b.do("POST", "/v1/desktops", `{"name":"one"}`, once1); r.StatusCode != 201 || r.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%s %s", r.Status, r.body)
	}
}

// claims is what a test keeps of a store's claims.
type claims struct {
	desktop.Claims
	kept []desktop.Answer
}

func (c *claims) Finish(ctx context.Context, claim desktop.Claim, answer *desktop.Answer) error {
	if answer != nil {
		c.kept = append(c.kept, *answer)
	}
	return c.Claims.Finish(ctx, claim, answer)
}

// The repetition of a request whose answer was a secret is told what was made; neither the secret nor
// the request is kept.
func TestIdempotencyKeyOfASecret(t *testing.T) {
	var kept *claims
	b := newBench(t, func(o *Options) {
		kept = &claims{Claims: o.Claims}
		o.Claims = kept
	})
	// The World knows no claims, so that what a real store notes is noted here.
	note := func(id string) func(string) error {
		return func(method string) error {
			if method != "TakeLease" {
				return nil
			}
			return b.chat.Store.InsertUser(desktop.WithClaim(t.Context(), lastClaim(t, kept)), desktop.User{ID: id, Email: id + "@example.org", Role: desktop.RoleUser, CreatedAt: time.Now()})
		}
	}
	b.Fail = note("usr-noted")
	var lease TakenLease
	b.into(b.do("POST", "/v1/desktops/dt-1/lease", `{"holder":"Ada"}`, once1), 200, &lease)
	b.Fail = nil
	p := b.problem(b.do("POST", "/v1/desktops/dt-1/lease", `{"holder":"Ada"}`, once1), 409)
	if p["made"] != "usr-noted" || !strings.Contains(fmt.Sprint(p["error"]), "secret") {
		t.Errorf("%v", p)
	}
	if len(kept.kept) != 0 {
		t.Errorf("kept is %+v", kept.kept)
	}
}

var lastTaken sync.Map

func (c *claims) Take(ctx context.Context, claim desktop.Claim, at time.Time) (desktop.Past, error) {
	lastTaken.Store(c, claim)
	return c.Claims.Take(ctx, claim, at)
}

func lastClaim(t *testing.T, c *claims) desktop.Claim {
	t.Helper()
	claim, ok := lastTaken.Load(c)
	if !ok {
		t.Fatal("no claim was taken")
	}
	return claim.(desktop.Claim)
}

// A message that was given is not given twice: the repetition waits for the same turn's end, also
// when the first one's caller has gone.
func TestIdempotencyKeyOfAChat(t *testing.T) {
	b := newBench(t, nil)
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	b.chat.SetModel(func(ctx context.Context, r model.Request, tell func(model.Delta)) (model.Response, error) {
		asked <- struct{}{}
		<-answer
		return apitest.Say("done")(ctx, r, tell)
	})
	ctx, leave := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, "POST", b.url+"/v1/desktops/dt-1/chat", strings.NewReader(`{"message":"go"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+b.key)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", "chat-1")
	gone := make(chan error, 1)
	go func() {
		_, err := http.DefaultClient.Do(request)
		gone <- err
	}()
	<-asked
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(answer)
	var turn struct{ ID, Message string }
	for deadline := time.Now().Add(time.Minute); ; {
		r := b.do("POST", "/v1/desktops/dt-1/chat", `{"message":"go"}`, "Idempotency-Key: chat-1")
		if r.StatusCode == 409 && time.Now().Before(deadline) { // the server has not noticed yet that the first one's caller has gone
			time.Sleep(time.Millisecond)
			continue
		}
		b.into(r, 200, &turn)
		if r.Header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("%v", r.Header)
		}
		break
	}
	if turn.Message != "done" || len(asked) != 0 {
		t.Errorf("%+v; the model was asked %d more times", turn, len(asked))
	}
	stream := b.do("POST", "/v1/desktops/dt-1/chat", `{"message":"go"}`, "Idempotency-Key: chat-1", "Accept: text/event-stream")
	if !strings.Contains(string(stream.body), turn.ID) || !strings.Contains(string(stream.body), "event: done") {
		t.Errorf("as a stream: %s", stream.body)
	}
}
