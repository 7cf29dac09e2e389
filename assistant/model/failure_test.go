package model_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
)

// TestFailures is all that can go wrong, with each format.
func TestFailures(t *testing.T) {
	tests := []struct {
		name  string
		fail  modeltest.Failure
		code  model.Code
		after time.Duration
	}{
		{"overloaded", modeltest.Failure{Kind: modeltest.Overloaded}, model.Overloaded, 0},
		{"overloaded for a time", modeltest.Failure{Kind: modeltest.Overloaded, RetryAfter: "7"}, model.Overloaded, 7 * time.Second},
		{"500", modeltest.Failure{Kind: modeltest.Status, Status: 500}, model.Overloaded, 0},
		{"502", modeltest.Failure{Kind: modeltest.Status, Status: 502}, model.Overloaded, 0},
		{"529", modeltest.Failure{Kind: modeltest.Overloaded, Status: 529}, model.Overloaded, 0},
		{"limited", modeltest.Failure{Kind: modeltest.RateLimited, RetryAfter: "2.5"}, model.RateLimited, 2500 * time.Millisecond},
		{"limited without a time", modeltest.Failure{Kind: modeltest.RateLimited}, model.RateLimited, 0},
		{"unauthorized", modeltest.Failure{Kind: modeltest.Unauthorized, Message: "Incorrect API key provided: " + key}, model.Unauthorized, 0},
		{"forbidden", modeltest.Failure{Kind: modeltest.Status, Status: 403}, model.Unauthorized, 0},
		{"no such model", modeltest.Failure{Kind: modeltest.Status, Status: 404}, model.Invalid, 0},
		{"refused request", modeltest.Failure{Kind: modeltest.Status, Status: 400}, model.Invalid, 0},
		{"too long", modeltest.Failure{Kind: modeltest.ContextOverflow}, model.ContextOverflow, 0},
		{"too large a picture", modeltest.Failure{Kind: modeltest.PictureTooLarge}, model.PictureTooLarge, 0},
		{"a page instead", modeltest.Failure{Kind: modeltest.Garbage}, model.Malformed, 0},
		{"redirect", modeltest.Failure{Kind: modeltest.Status, Status: 307}, model.Invalid, 0},
		{"broken", modeltest.Failure{Kind: modeltest.Broken}, model.Unreachable, 0},
		{"broken at once", modeltest.Failure{Kind: modeltest.Broken, After: 1}, model.Unreachable, 0},
		{"ended", modeltest.Failure{Kind: modeltest.Ended}, model.Unreachable, 0},
		{"an error in the middle", modeltest.Failure{Kind: modeltest.Complaint}, model.Overloaded, 0},
		{"not JSON", modeltest.Failure{Kind: modeltest.Malformed}, model.Malformed, 0},
		{"broken arguments", modeltest.Failure{Kind: modeltest.BadArguments}, model.Malformed, 0},
	}
	each(t, func(t *testing.T, format model.Format) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				_, url := serve(t, modeltest.Step{
					Text: "A text that is long enough for several events.", Fail: &test.fail,
					Calls: []modeltest.Call{modeltest.Use("bash", `{"command":"true"}`)},
				})
				var logged bytes.Buffer
				log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
				m, err := model.New(modeltest.Endpoint(format, url, key), nil, log)
				if err != nil {
					t.Fatal(err)
				}
				response, err := m.Next(t.Context(), request("Do something."), nil)
				var failed *model.Error
				if !errors.As(err, &failed) {
					t.Fatalf("answered %+v, %v", response, err)
				}
				if failed.Code != test.code || failed.RetryAfter != test.after {
					t.Errorf("the error is %q after %v, not %q after %v: %v", failed.Code, failed.RetryAfter, test.code, test.after, err)
				}
				if said := fmt.Sprintf("%v %+v %s", err, failed, logged.String()); strings.Contains(said, key) {
					t.Errorf("the key is in what is said: %s", said)
				}
				if failed.Message == "" {
					t.Error("it says nothing")
				}
				passing := test.code == model.Overloaded || test.code == model.RateLimited || test.code == model.Unreachable || test.code == model.Malformed
				if failed.Passing() != passing {
					t.Errorf("passing is %v", failed.Passing())
				}
			})
		}
		t.Run("another key", func(t *testing.T) {
			host := httptest.NewServer(modeltest.New("another", modeltest.Script{}))
			defer host.Close()
			_, err := model.Check(t.Context(), modeltest.Endpoint(format, host.URL, key), nil, slog.New(slog.DiscardHandler))
			wantCode(t, err, model.Unauthorized)
		})
		t.Run("nobody there", func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			url := "http://" + listener.Addr().String()
			listener.Close()
			_, err = model.Check(t.Context(), modeltest.Endpoint(format, url, key), nil, slog.New(slog.DiscardHandler))
			wantCode(t, err, model.Unreachable)
		})
		t.Run("refusal", func(t *testing.T) {
			_, url := serve(t, modeltest.Step{Fail: &modeltest.Failure{Kind: modeltest.Refusal}, Calls: []modeltest.Call{modeltest.Use("bash", `{"command":"rm -rf /"}`)}})
			response, err := newModel(t, modeltest.Endpoint(format, url, key)).Next(t.Context(), request("Break it."), nil)
			if err != nil || response.Stop != model.Refusal || len(calls(response.Message)) != 0 {
				t.Errorf("%+v, %v", response, err)
			}
		})
		t.Run("cut off", func(t *testing.T) {
			_, url := serve(t, modeltest.Step{Text: "Once upon a", Cut: true})
			response, err := newModel(t, modeltest.Endpoint(format, url, key)).Next(t.Context(), request("Tell."), nil)
			if err != nil || response.Stop != model.MaxTokens || response.Message.Parts[0].Text != "Once upon a" {
				t.Errorf("%+v, %v", response, err)
			}
		})
	})
}

func wantCode(t *testing.T, err error, code model.Code) {
	t.Helper()
	var failed *model.Error
	if !errors.As(err, &failed) || failed.Code != code {
		t.Errorf("the error is %v, not of the code %s", err, code)
	} else if strings.Contains(err.Error(), key) {
		t.Errorf("the key is in the error: %v", err)
	}
}

// TestWaiting reads the ways in which providers say how long to wait.
func TestWaiting(t *testing.T) {
	tests := []struct {
		name   string
		header map[string]string
		body   string
		least  time.Duration
		most   time.Duration
	}{
		{"seconds", map[string]string{"Retry-After": "3"}, `{}`, 3 * time.Second, 3 * time.Second},
		{"milliseconds first", map[string]string{"Retry-After": "3", "Retry-After-Ms": "250"}, `{}`, 250 * time.Millisecond, 250 * time.Millisecond},
		{"a date", map[string]string{"Retry-After": time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat)}, `{}`, 60 * time.Second, 90 * time.Second},
		{"a date that has passed", map[string]string{"Retry-After": "Mon, 02 Jan 2006 15:04:05 GMT"}, `{}`, 0, 0},
		{"no sense", map[string]string{"Retry-After": "soon"}, `{}`, 0, 0},
		{"for ever", map[string]string{"Retry-After": "99999999"}, `{}`, time.Hour, time.Hour},
		{"in Google's words", nil, `{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"Quota","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.5s"}]}}`, 34500 * time.Millisecond, 34500 * time.Millisecond},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for name, value := range test.header {
					w.Header().Set(name, value)
				}
				w.WriteHeader(http.StatusTooManyRequests)
				w.Write([]byte(test.body))
			}))
			defer host.Close()
			_, err := model.Check(t.Context(), modeltest.Endpoint(model.Gemini, host.URL, key), nil, slog.New(slog.DiscardHandler))
			var failed *model.Error
			if !errors.As(err, &failed) || failed.Code != model.RateLimited || failed.RetryAfter < test.least || failed.RetryAfter > test.most {
				t.Errorf("the error is %#v", failed)
			}
		})
	}
}

// TestCancel ends a request in the middle of what never ends.
func TestCancel(t *testing.T) {
	each(t, func(t *testing.T, format model.Format) {
		for _, kind := range []modeltest.Kind{modeltest.Endless, modeltest.Silent} {
			t.Run(string(kind), func(t *testing.T) {
				server := modeltest.New(key, modeltest.Script{Steps: []modeltest.Step{{Text: strings.Repeat("word after word ", 10), Fail: &modeltest.Failure{Kind: kind, After: 8}}}})
				host := httptest.NewServer(server)
				transport := &http.Transport{}
				before := runtime.NumGoroutine()
				m, err := model.New(modeltest.Endpoint(format, host.URL, key), &http.Client{Transport: transport}, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				told := 0
				_, err = m.Next(ctx, request("Talk."), func(model.Delta) {
					if told++; told == 1 {
						cancel()
					}
				})
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the error is %v", err)
				}
				transport.CloseIdleConnections()
				host.Close() // waits for the handler, which ends with the request
				for n := 0; runtime.NumGoroutine() > before; n++ {
					if n > 10000 {
						stacks := make([]byte, 1<<20)
						t.Fatalf("goroutines are left:\n%s", stacks[:runtime.Stack(stacks, true)])
					}
					runtime.Gosched()
					time.Sleep(time.Millisecond)
				}
			})
		}
		t.Run("deadline", func(t *testing.T) {
			_, url := serve(t, modeltest.Step{Text: "late", DelayMs: 60000})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if _, err := newModel(t, modeltest.Endpoint(format, url, key)).Next(ctx, request("Talk."), nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the error is %v", err)
			}
		})
	})
}

// TestManyAtOnce uses one model for conversations side by side.
func TestManyAtOnce(t *testing.T) {
	each(t, func(t *testing.T, format model.Format) {
		server := modeltest.New(key, modeltest.Script{Stateless: true, Display: &display, Steps: []modeltest.Step{
			{Reasoning: "Hm.", Calls: []modeltest.Call{modeltest.Use("bash", `{"command":"id"}`), modeltest.Computer(`{"type":"screenshot"}`)}},
			{Text: "You are {{line 1 .Result}}."},
		}})
		server.Failf = t.Errorf
		host := httptest.NewServer(server)
		defer host.Close()
		m := newModel(t, modeltest.Endpoint(format, host.URL, key))
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				r := request(fmt.Sprint("Who am I? ", i))
				first, err := m.Next(t.Context(), r, nil)
				if err != nil {
					t.Error(err)
					return
				}
				who := fmt.Sprint("user", i)
				r.Messages = append(r.Messages, first.Message, results(t, first.Message, who))
				second, err := m.Next(t.Context(), r, nil)
				if err != nil || second.Message.Parts[0].Text != "You are "+who+"." {
					t.Errorf("%+v, %v", second, err)
				}
			})
		}
		group.Wait()
	})
}

// TestSafety carries a vendor's doubts to the caller, and its agreement back.
func TestSafety(t *testing.T) {
	for _, format := range []model.Format{model.OpenAI, model.Gemini} {
		t.Run(string(format), func(t *testing.T) {
			for _, agreed := range []bool{true, false} {
				call := modeltest.Computer(`{"type":"click","x":10,"y":20}`)
				call.Safety = "The page tells the model what to do."
				server := modeltest.New(key, modeltest.Script{Display: &display, Steps: []modeltest.Step{{Calls: []modeltest.Call{call}}, {Text: "Done."}}})
				host := httptest.NewServer(server)
				defer host.Close()
				m := newModel(t, modeltest.Endpoint(format, host.URL, key))
				r := request("Buy it.")
				first := asked(t, m, &r, nil)
				if made := calls(first.Message); len(made) != 1 || !strings.Contains(string(made[0].Arguments), call.Safety) {
					t.Fatalf("the doubt does not come: %s", made[0].Arguments)
				}
				answer := results(t, first.Message, "")
				if agreed {
					answer.Parts[0].Result.Acknowledged = json.RawMessage("true")
					if format == model.OpenAI {
						var computer struct {
							Pending json.RawMessage `json:"pending_safety_checks"`
						}
						if err := json.Unmarshal(calls(first.Message)[0].Arguments, &computer); err != nil {
							t.Fatal(err)
						}
						answer.Parts[0].Result.Acknowledged = computer.Pending
					}
				}
				r.Messages = append(r.Messages, answer)
				_, err := m.Next(t.Context(), r, nil)
				if agreed && (err != nil || len(server.Problems()) != 0) {
					t.Errorf("agreed: %v %v", err, server.Problems())
				}
				if !agreed {
					wantCode(t, err, model.Invalid)
				}
			}
		})
	}
}
