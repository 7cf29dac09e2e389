package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"bureau/api/apitest"
	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/desktop"
)

const chatPath = "/v1/desktops/dt-1/chat"

// call is a use of a tool.
func call(id, tool, arguments string) model.Call {
	return model.Call{ID: id, Tool: tool, Arguments: json.RawMessage(arguments), Format: model.Anthropic}
}

// sse is an event of a stream.
type sse struct{ id, event, data string }

// events takes a stream apart.
func events(text string) []sse {
	var list []sse
	for block := range strings.SplitSeq(text, "\n\n") {
		var e sse
		for line := range strings.SplitSeq(block, "\n") {
			name, value, _ := strings.Cut(line, ": ")
			switch name {
			case "id":
				e.id = value
			case "event":
				e.event = value
			case "data":
				e.data = value
			}
		}
		if e.data != "" {
			list = append(list, e)
		}
	}
	return list
}

func names(list []sse) string {
	var all []string
	for _, e := range list {
		all = append(all, e.event)
	}
	return strings.Join(all, " ")
}

func TestChat(t *testing.T) {
	b := newBench(t, nil)
	b.chat.SetModel(apitest.InTurn(
		apitest.Use(call("1", "computer", `{"action":"left_click","coordinate":[5,6]}`), call("2", "bash", `{"command":"ls"}`)),
		apitest.Say("It is done.")))
	var turn assistant.Turn
	b.into(b.do("POST", chatPath, `{"message":"do it","maxSteps":5,"timeoutMs":60000}`), 200, &turn)
	if turn.Message != "It is done." || turn.StopReason != assistant.EndTurn || len(turn.Steps) != 2 || turn.SessionID == "" || turn.Usage.Output != 7 || turn.EndedAt == nil {
		t.Errorf("got %+v", turn)
	}
	if turn.Steps[1].Arguments["command"] != "ls" || !strings.Contains(turn.Steps[1].Result, "out: ls") {
		t.Errorf("the step is %+v", turn.Steps[1])
	}
	var again assistant.Turn
	b.into(b.do("GET", chatPath+"/turns/"+turn.ID, ""), 200, &again)
	if again.ID != turn.ID || again.Message != turn.Message || len(again.Steps) != 2 {
		t.Errorf("got %+v", again)
	}

	b.into(b.do("POST", chatPath, `{"message":"more","sessionId":"`+turn.SessionID+`"}`), 200, nil)
	var sessions []assistant.Session
	b.into(b.do("GET", chatPath+"/sessions", ""), 200, &sessions)
	if len(sessions) != 2 || sessions[0].ID != turn.SessionID || sessions[0].Title != "do it" || sessions[0].Turns != 2 {
		t.Errorf("got %+v", sessions)
	}
	var session ChatSession
	b.into(b.do("GET", chatPath+"/sessions/"+turn.SessionID, ""), 200, &session)
	if session.ID != turn.SessionID || len(session.History) != 2 || session.History[1].Prompt != "more" {
		t.Errorf("got %+v", session)
	}
	b.into(b.do("DELETE", chatPath+"/sessions/"+turn.SessionID, ""), 204, nil)
	for _, route := range []string{"GET /sessions/" + turn.SessionID, "DELETE /sessions/" + turn.SessionID, "GET /turns/" + turn.ID, "GET /turns/" + turn.ID + "/events", "GET /turns/turn-dt-2", "GET /sessions/ses-dt-2"} {
		method, path, _ := strings.Cut(route, " ")
		b.problem(b.do(method, chatPath+path, ""), 404)
	}
	b.problem(b.do("POST", chatPath, `{"message":"x","sessionId":"ses-dt-2"}`), 404)
	b.problem(b.do("POST", "/v1/desktops/dt-1/approvals/apr-dt-2", `{"approve":true}`), 404)
}

// The key needs no other capability than that of chatting for what the agent does.
func TestChatNeedsNoControl(t *testing.T) {
	b := newBench(t, nil)
	b.chat.SetModel(apitest.InTurn(apitest.Use(call("1", "bash", `{"command":"ls"}`)), apitest.Say("done")))
	key := b.AddKey("usr-1", nil, desktop.DefaultCapabilities()...)
	var turn assistant.Turn
	b.into(b.do("POST", chatPath, `{"message":"do it"}`, "Authorization: Bearer "+key), 200, &turn)
	if len(turn.Steps) != 1 || turn.Steps[0].Failed {
		t.Errorf("got %+v", turn)
	}
}

func TestChatStreams(t *testing.T) {
	b := newBench(t, nil)
	b.chat.SetModel(apitest.InTurn(apitest.Use(call("1", "computer", `{"action":"screenshot"}`)), apitest.Say("Töpfe\nda")))
	got := b.do("POST", chatPath, `{"message":"look"}`, "Accept: text/event-stream")
	if got.StatusCode != 200 || got.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("got %s: %s", got.Status, got.body)
	}
	all := events(string(got.body))
	if want := "turn usage message tool.call tool.result text usage message done"; names(all) != want {
		t.Errorf("got %s, want %s", names(all), want)
	}
	var turn assistant.Turn
	if err := json.Unmarshal([]byte(all[len(all)-1].data), &turn); err != nil || turn.Message != "Töpfe\nda" {
		t.Errorf("done says %s", all[len(all)-1].data)
	}
	// Whoever lost the connection goes on after the last event that came, without loss or repetition.
	for i := range all {
		rest := b.do("GET", chatPath+"/turns/"+turn.ID+"/events", "", "Last-Event-ID: "+all[i].id)
		if again := append(slices.Clone(all[:i+1]), events(string(rest.body))...); !slices.Equal(again, all) {
			t.Errorf("after %s: got %s", all[i].id, rest.body)
		}
	}
	if whole := b.do("GET", chatPath+"/turns/"+turn.ID+"/events", ""); !slices.Equal(events(string(whole.body)), all) {
		t.Errorf("got %s", whole.body)
	}
	for _, id := range []string{"x", "-1", "1.5", "99999999999999999999"} {
		b.problem(b.do("GET", chatPath+"/turns/"+turn.ID+"/events", "", "Last-Event-ID: "+id), 400)
	}
}

// A client that goes takes its turn with it only if it said so; what came of the turn stays readable.
func TestChatOutlivesItsClient(t *testing.T) {
	for _, stream := range []bool{false, true} {
		for _, cancels := range []bool{false, true} {
			t.Run(fmt.Sprintf("stream %v, cancels %v", stream, cancels), func(t *testing.T) {
				b := newBench(t, nil)
				asked, ended, release := make(chan struct{}), make(chan error, 1), make(chan struct{})
				b.chat.SetModel(func(ctx context.Context, request model.Request, tell func(model.Delta)) (model.Response, error) {
					close(asked)
					select {
					case <-ctx.Done():
						ended <- ctx.Err()
						return model.Response{}, ctx.Err()
					case <-release:
						return apitest.Say("late")(ctx, request, tell)
					}
				})
				ctx, cancel := context.WithCancel(t.Context())
				request, _ := httpRequest(ctx, b.url+chatPath, fmt.Sprintf(`{"message":"wait","cancelOnDisconnect":%v}`, cancels), b.key)
				if stream {
					request.Header.Set("Accept", "text/event-stream")
				}
				go func() {
					<-asked
					cancel()
				}()
				response, err := b.client.Do(request)
				if err == nil { // the stream had begun
					_, err = bufio.NewReader(response.Body).ReadString(0)
					response.Body.Close()
				}
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
				if cancels {
					if err := <-ended; !errors.Is(err, context.Canceled) {
						t.Errorf("the model ended with %v", err)
					}
				} else {
					close(release)
				}
				var sessions []assistant.Session
				b.into(b.do("GET", chatPath+"/sessions", ""), 200, &sessions)
				var session ChatSession
				b.into(b.do("GET", chatPath+"/sessions/"+sessions[0].ID, ""), 200, &session)
				turn, err := b.chat.Service.Wait(t.Context(), desktop.Caller{Local: true}, "dt-1", session.History[0].ID)
				if want := map[bool]assistant.StopReason{true: assistant.Cancelled, false: assistant.EndTurn}[cancels]; err != nil || turn.StopReason != want {
					t.Errorf("the turn ended with %s, %v", turn.StopReason, err)
				}
				if !cancels && turn.Message != "late" {
					t.Errorf("got %+v", turn)
				}
			})
		}
	}
}

func TestChatIsRefused(t *testing.T) {
	b := newBench(t, nil)
	for _, c := range []struct{ path, body, names string }{
		{chatPath, ``, "body is required"},
		{chatPath, `{}`, "message to be present"},
		{chatPath, `{"message":""}`, "message: expected length >= 1"},
		{chatPath, `{"message":" "}`, "message is empty"},
		{chatPath, `{"message":"x","steps":1}`, `unknown field "steps"`},
		{chatPath, `{"message":"x","maxSteps":0}`, "maxSteps"},
		{chatPath, `{"message":"x","maxSteps":1001}`, "maxSteps"},
		{chatPath, `{"message":"x","timeoutMs":86400001}`, "timeoutMs"},
		{chatPath + "/cancel", `{"turn":"x"}`, `unknown field "turn"`},
		{"/v1/desktops/dt-1/approvals/apr-dt-1", `{}`, "approve to be present"},
		{"/v1/desktops/dt-1/approvals/apr-dt-1", `{"approve":"yes"}`, "approve: expected boolean"},
		{"/v1/chat/completions", `{"model":"bureau/dt-1"}`, "messages to be present"},
		{"/v1/chat/completions", `{"model":"bureau/dt-1","messages":[]}`, "messages"},
		{"/v1/chat/completions", `{"model":"gpt-6","messages":[{"role":"user","content":"x"}]}`, "model: expected bureau/DESKTOP"},
		{"/v1/chat/completions", `{"model":"bureau/dt-1","messages":[{"role":"assistant","content":"x"}]}`, "no message of the user"},
		{"/v1/chat/completions", `{"model":"bureau/dt-1","messages":[{"role":"user","content":5}]}`, "content"},
		{"/v1/chat/completions", `{"model":"bureau/dt-1","messages":[{"role":"user","content":[{"type":"image_url"}]}]}`, "its own screen"},
	} {
		if p := b.problem(b.do("POST", c.path, c.body), 400); !strings.Contains(p["error"].(string), c.names) {
			t.Errorf("%s %s: %v does not name %q", c.path, c.body, p["error"], c.names)
		}
	}
	b.problem(b.do("POST", chatPath+"/cancel", ""), 409)

	running := b.busy("dt-1")
	for _, stream := range []string{"application/json", "text/event-stream"} {
		if p := b.problem(b.do("POST", chatPath, `{"message":"x"}`, "Accept: "+stream), 409); p["turnId"] != running.ID {
			t.Errorf("the first turn is %v", p["turnId"])
		}
	}
	b.problem(b.do("DELETE", chatPath+"/sessions/"+running.SessionID, ""), 409)
	b.problem(b.do("POST", chatPath+"/cancel", `{"turnId":"turn-other"}`), 409)
	var ended assistant.Turn
	b.into(b.do("POST", chatPath+"/cancel", `{"turnId":"`+running.ID+`"}`), 200, &ended)
	if ended.StopReason != assistant.Cancelled {
		t.Errorf("got %+v", ended)
	}

	b.SetStatus("dt-1", desktop.Stopped)
	for _, path := range []string{chatPath, "/v1/chat/completions"} {
		got := b.do("POST", path, map[string]string{chatPath: `{"message":"x"}`}[path]+map[bool]string{true: `{"model":"bureau/dt-1","messages":[{"role":"user","content":"x"}]}`}[path != chatPath])
		b.problem(got, 503)
		if got.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	// What there was stays readable.
	b.into(b.do("GET", chatPath+"/sessions/"+running.SessionID, ""), 200, nil)
}

func TestApprovals(t *testing.T) {
	b := newBench(t, nil)
	var d desktop.Desktop
	b.into(b.do("PATCH", "/v1/desktops/dt-1", `{"approval":{"shell":true,"patterns":["^rm"]}}`), 200, &d)
	if !d.Approval.Shell || len(d.Approval.Patterns) != 1 {
		t.Errorf("got %+v", d.Approval)
	}
	b.problem(b.do("PATCH", "/v1/desktops/dt-1", `{"approval":{"everything":true}}`), 400)
	b.chat.SetModel(apitest.InTurn(apitest.Use(call("1", "bash", `{"command":"ls"}`)), apitest.Say("done")))
	turn, err := b.chat.Service.Begin(t.Context(), desktop.Caller{Local: true}, "dt-1", assistant.Prompt{Message: "go"})
	if err != nil {
		t.Fatal(err)
	}
	after, id := int64(0), ""
	for id == "" {
		events, err := b.chat.Service.Events(t.Context(), desktop.Caller{Local: true}, "dt-1", turn.ID, after)
		if err != nil || len(events) == 0 {
			t.Fatal("nothing is asked", err)
		}
		for _, event := range events {
			if after = event.Number; event.Kind == assistant.EventApproval {
				var approval assistant.Approval
				json.Unmarshal(event.Data, &approval)
				id = approval.ID
			}
		}
	}
	ran := func() (list []string) {
		for _, command := range b.Ran() {
			if command.Bash {
				list = append(list, command.Script)
			}
		}
		return list
	}
	if got := ran(); len(got) != 0 {
		t.Errorf("run before the yes: %q", got)
	}
	var list []assistant.Approval
	b.into(b.do("GET", "/v1/desktops/dt-1/approvals", ""), 200, &list)
	if len(list) != 2 || list[0].ID != id || list[0].Status != assistant.Pending || list[0].Arguments["command"] != "ls" {
		t.Errorf("got %+v", list)
	}
	b.problem(b.do("POST", "/v1/desktops/dt-1/approvals/"+id, `{"approve":true}`, "Authorization: Bearer "+b.other), 404)
	var approved assistant.Approval
	b.into(b.do("POST", "/v1/desktops/dt-1/approvals/"+id, `{"approve":true}`), 200, &approved)
	if approved.Status != assistant.Approved {
		t.Errorf("got %+v", approved)
	}
	b.problem(b.do("POST", "/v1/desktops/dt-1/approvals/"+id, `{"approve":false}`), 409)
	if ended, err := b.chat.Service.Wait(t.Context(), desktop.Caller{Local: true}, "dt-1", turn.ID); err != nil || ended.Steps[0].Failed || len(ran()) != 1 {
		t.Errorf("got %+v, %v", ended, err)
	}
}

func TestChatCompletions(t *testing.T) {
	b := newBench(t, nil)
	var requests []model.Request
	record := func(next apitest.ModelFunc) apitest.ModelFunc {
		return func(ctx context.Context, request model.Request, tell func(model.Delta)) (model.Response, error) {
			requests = append(requests, request)
			return next(ctx, request, tell)
		}
	}
	b.chat.SetModel(record(apitest.Say("Hello you")))
	name := "the demo"
	b.into(b.do("PATCH", "/v1/desktops/dt-1", `{"name":"`+name+`"}`), 200, nil)
	for _, m := range []string{"bureau/dt-1", "bureau/" + name} {
		var got Completion
		b.into(b.do("POST", "/v1/chat/completions", `{"model":"`+m+`","temperature":0.5,"tools":[],"messages":[{"role":"system","content":"Be brief"},{"role":"user","content":[{"type":"text","text":"Hello"}],"name":"me"}]}`), 200, &got)
		if len(got.Choices) != 1 || got.Choices[0].Message.Content != "Hello you" || got.Choices[0].FinishReason != "stop" || got.Usage.Total != 12 || got.Model != m || got.Bureau.SessionID == "" {
			t.Errorf("got %+v", got)
		}
	}
	parts := requests[0].Messages[0].Parts
	if len(parts) != 2 || !strings.Contains(parts[0].Text, "Be brief") || parts[1].Text != "Hello" {
		t.Errorf("the agent is given %+v", parts)
	}
	// A conversation that goes on is the same session, and the agent knows it.
	var first, second, third Completion
	const said = `{"role":"user","content":"My name is Ada"}`
	b.into(b.do("POST", "/v1/chat/completions", `{"model":"bureau/dt-1","messages":[`+said+`]}`), 200, &first)
	b.into(b.do("POST", "/v1/chat/completions", `{"model":"bureau/dt-1","messages":[`+said+`,{"role":"assistant","content":"Hello you"},{"role":"user","content":"Who am I?"}]}`), 200, &second)
	if first.Bureau.SessionID != second.Bureau.SessionID {
		t.Error("a conversation that goes on has another session")
	}
	if last := requests[len(requests)-1].Messages; len(last) != 3 || len(last[2].Parts) != 1 {
		t.Errorf("the agent is given %+v", last)
	}
	b.into(b.do("POST", "/v1/chat/completions", `{"model":"bureau/dt-1","messages":[{"role":"user","content":"My name is Bo"},{"role":"assistant","content":"Hello"},{"role":"user","content":"Who am I?"}]}`), 200, &third)
	if third.Bureau.SessionID == first.Bureau.SessionID {
		t.Error("another conversation has the same session")
	}
	if last := requests[len(requests)-1].Messages; len(last) != 1 || !strings.Contains(last[0].Parts[0].Text, "My name is Bo") {
		t.Errorf("the agent is given %+v", last)
	}
	b.problem(b.do("POST", "/v1/chat/completions", `{"model":"bureau/dt-2","messages":[`+said+`]}`), 404)
	b.problem(b.do("POST", "/v1/chat/completions", `{"model":"bureau/none","messages":[`+said+`]}`), 404)

	b.chat.SetModel(apitest.InTurn(func(_ context.Context, _ model.Request, tell func(model.Delta)) (model.Response, error) {
		tell(model.Delta{Text: "Half"})
		return model.Response{}, &model.Error{Code: model.ContextOverflow, Message: "it is too long"}
	}, apitest.Say("Whole")))
	got := b.do("POST", "/v1/chat/completions", `{"model":"bureau/dt-1","stream":true,"messages":[`+said+`]}`)
	var text, reason string
	list := events(string(got.body))
	for _, e := range list[:len(list)-1] {
		var chunk struct {
			Object  string
			Choices []struct {
				Delta        struct{ Role, Content string }
				FinishReason *string `json:"finish_reason"`
			}
		}
		if err := json.Unmarshal([]byte(e.data), &chunk); err != nil || chunk.Object != "chat.completion.chunk" || e.event != "" || len(chunk.Choices) != 1 {
			t.Fatalf("the chunk %s: %v", e.data, err)
		}
		text += chunk.Choices[0].Delta.Content
		if r := chunk.Choices[0].FinishReason; r != nil {
			reason = *r
		}
	}
	if text != "Half\n\n(The answer broke off and begins anew.)\n\nWhole" || reason != "stop" || list[len(list)-1].data != "[DONE]" {
		t.Errorf("got %q, %q in %s", text, reason, got.body)
	}

	b.chat.SetModel(func(context.Context, model.Request, func(model.Delta)) (model.Response, error) {
		return model.Response{}, &model.Error{Code: model.Unauthorized, Status: 401, Message: "no such key"}
	})
	if p := b.problem(b.do("POST", "/v1/chat/completions", `{"model":"bureau/dt-1","messages":[`+said+`]}`), 503); !strings.Contains(p["error"].(string), "no such key") {
		t.Errorf("got %v", p)
	}
	if got := b.do("POST", "/v1/chat/completions", `{"model":"bureau/dt-1","stream":true,"messages":[`+said+`]}`); !strings.Contains(string(got.body), `"error":{"message":"the model provider answered 401`) {
		t.Errorf("got %s", got.body)
	}
}

// BenchmarkFirstToken is how long a token takes from the provider to a client of the stream, over HTTP.
func BenchmarkFirstToken(b *testing.B) {
	world := apitest.NewWorld()
	world.AddUser("usr-1")
	world.AddDesktop("dt-1", "usr-1")
	key := world.AddKey("usr-1", nil, desktop.CanChat)
	chat := apitest.NewChat(b, world)
	server := New(Options{Desktops: world, Accounts: world, Assistant: chat.Service})
	web := newWeb(b, server)
	var told time.Time
	chat.SetModel(func(_ context.Context, _ model.Request, tell func(model.Delta)) (model.Response, error) {
		told = time.Now()
		tell(model.Delta{Text: "token"})
		return model.Response{Message: model.Message{Role: model.Assistant, Parts: []model.Part{{Text: "token"}}}, Stop: model.EndTurn}, nil
	})
	var total time.Duration
	for b.Loop() {
		request, _ := httpRequest(context.Background(), web+chatPath, `{"message":"go"}`, key)
		request.Header.Set("Accept", "text/event-stream")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			b.Fatal(err)
		}
		lines := bufio.NewScanner(response.Body)
		for lines.Scan() {
			if lines.Text() == "event: text" {
				total += time.Since(told)
			}
		}
		response.Body.Close()
	}
	b.ReportMetric(float64(total.Microseconds())/float64(b.N), "µs/first-token")
}

func newWeb(t testing.TB, s *Server) string {
	web := httptest.NewServer(s.Handler())
	t.Cleanup(web.Close)
	return web.URL
}
