package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"image"
	"maps"
	"slices"
	"strings"
	"time"

	"bureau/desktop"
	"bureau/desktop/activity"
	"bureau/desktop/dialect"
)

// vendorSettle is how long a picture for a vendor's model waits for the display to come to rest,
// unless the request says otherwise. The model sees nothing in between, and asks no second time.
const vendorSettle = 2 * time.Second

// performance is a batch of actions while it is being done.
//
// A call is what the vendor expects one result for. Its steps are done in order: input that stands
// together goes to the desktop as one, and a look that follows input is one with it, so that the
// display is watched from before the input. What fails ends the batch; the results until then, and
// that of the failure, go with the error.
type performance struct {
	s       *Server
	id      string
	request *ActionsRequest
	batch   *dialect.Batch
	settle  time.Duration // of looks that do not say

	results []Result
	acted   desktop.Acted
	rested  *desktop.Sight // the newest for which the display's coming to rest was waited for
	// sight is the whole display as it is now; nil when something was done since it was seen.
	sight *desktop.Sight
}

// failure is why an action was not done.
type failure struct {
	action    int // its index
	completed int // actions that were done
	err       error
}

// perform does what a request asks for.
func (s *Server) perform(ctx context.Context, id string, request *ActionsRequest) (*ActionsDone, error) {
	began := time.Now()
	now, err := s.desktops.Act(ctx, callerOf(ctx), id) // nothing, which tells how large the display is
	if err != nil {
		return nil, err
	}
	mapping := dialect.Mapping{Real: now.Display}
	if request.Display != nil {
		mapping.Announced = *request.Display
	}
	batch, err := dialect.Decode(request.Actions, request.Dialect, mapping)
	if err != nil {
		return nil, undone(err)
	}
	p := &performance{s: s, id: id, request: request, batch: batch, results: []Result{}, acted: now}
	switch {
	case request.SettleMs != nil:
		p.settle = milliseconds(*request.SettleMs)
	case batch.Dialect != dialect.Bureau:
		p.settle = vendorSettle
	}
	if err := p.checkSafety(); err != nil {
		return nil, err
	}
	if wanted := (After{Screenshot: request.Screenshot}).wanted(); wanted != nil {
		if _, err := wanted.options(image.Rect(0, 0, now.Display.Width, now.Display.Height)); err != nil {
			return nil, undone(err)
		}
	}
	completed := 0
	for i := range batch.Calls {
		call := &batch.Calls[i]
		outcome := dialect.Outcome{Acknowledged: request.SafetyAcknowledged}
		if failed := p.call(ctx, call, &outcome); failed != nil {
			return nil, p.problem(ctx, call, outcome, failed)
		}
		if err := p.add(call, outcome); err != nil {
			return nil, err
		}
		completed = call.Steps[len(call.Steps)-1].Action + 1
	}
	done := &ActionsDone{Dialect: batch.Dialect, Completed: completed}
	if done.Screenshot, err = p.last(ctx); err != nil {
		return nil, p.problem(ctx, nil, dialect.Outcome{}, &failure{-1, completed, afterwards(err)})
	}
	done.Results = p.results
	if p.rested != nil {
		done.Rest = restOf(*p.rested)
	}
	done.Cursor, done.Display = p.acted.Cursor, p.acted.Display
	done.TookMs = inMs(time.Since(began))
	return done, nil
}

// undone says that nothing was done, as every failure of a batch says how much was.
func undone(err error) error {
	var known *desktop.Error
	if !errors.As(err, &known) {
		return err
	}
	told := *known
	told.Details = map[string]any{"completed": 0, "results": []Result{}}
	maps.Copy(told.Details, known.Details)
	return &told
}

// checkSafety sees to it that a person has agreed to what the vendor has doubts about, before
// anything is done.
func (p *performance) checkSafety() error {
	for i := range p.batch.Calls {
		call := &p.batch.Calls[i]
		if call.Safety == nil {
			continue
		}
		blocked := strings.HasPrefix(call.Safety.Decision, "block")
		if p.request.SafetyAcknowledged && !blocked {
			continue
		}
		reasons := strings.Join(call.Safety.Reasons, "; ")
		text := "its vendor wants a person to confirm it, and safetyAcknowledged to say so"
		if blocked {
			text = "its vendor blocks it"
		}
		e := desktop.Errorf(desktop.Conflict, "action %d (%s %s): %s: %s", call.Action, p.batch.Dialect, call.Name, text, cmp.Or(reasons, call.Safety.Decision))
		e.Details = map[string]any{
			"index": call.Action, "action": call.Name, "dialect": p.batch.Dialect, "safety": call.Safety,
		}
		return undone(e)
	}
	return nil
}

// add keeps the result of a call.
func (p *performance) add(call *dialect.Call, outcome dialect.Outcome) error {
	results, err := call.Result(outcome)
	for _, result := range results {
		p.results = append(p.results, Result(result))
	}
	return err
}

// call does the steps of a call.
func (p *performance) call(ctx context.Context, call *dialect.Call, outcome *dialect.Outcome) *failure {
	steps := slices.Clone(call.Steps)
	if call.NeedsPicture {
		steps = append(steps, dialect.Step{Action: steps[len(steps)-1].Action, Look: &dialect.Look{}})
	}
	for len(steps) > 0 {
		inputs := dialect.Inputs(steps)
		next := len(inputs)
		var failed *failure
		switch {
		case next < len(steps) && steps[next].Look != nil:
			next++
			failed = p.look(ctx, steps[:next], inputs, outcome)
		case next > 0:
			failed = p.act(ctx, steps[:next], inputs)
		default:
			next = 1
			failed = p.step(ctx, steps[0], outcome)
		}
		if failed != nil {
			return failed
		}
		steps = steps[next:]
	}
	return nil
}

// act does input.
func (p *performance) act(ctx context.Context, steps []dialect.Step, inputs []desktop.Action) *failure {
	p.sight = nil
	countInput(ctx, inputs...)
	acted, err := p.s.desktops.Act(ctx, callerOf(ctx), p.id, inputs...)
	if err != nil {
		return inputFailure(steps, err)
	}
	p.acted = acted
	return nil
}

// inputFailure finds the action that failed.
func inputFailure(steps []dialect.Step, err error) *failure {
	detail := func(name string) int {
		var e *desktop.Error
		if !errors.As(err, &e) {
			return 0
		}
		n, _ := e.Details[name].(int)
		if far, ok := e.Details[name].(float64); ok { // it has come as JSON
			n = int(far)
		}
		return min(max(n, 0), len(steps)-1)
	}
	return &failure{steps[detail("index")].Action, steps[detail("done")].Action, err}
}

// look does the input, if there is any, and then the look that is the last of the steps.
func (p *performance) look(ctx context.Context, steps []dialect.Step, inputs []desktop.Action, outcome *dialect.Outcome) *failure {
	step := steps[len(steps)-1]
	settle := p.settle
	if step.Look.SettleMs != nil {
		settle = milliseconds(*step.Look.SettleMs)
	}
	completed, after := step.Action, func(err error) error { return err }
	var sight desktop.Sight
	var err error
	if len(inputs) > 0 {
		var acted *desktop.Acted
		p.sight = nil
		countInput(ctx, inputs...)
		acted, sight, err = p.s.desktops.ActAndSee(ctx, callerOf(ctx), p.id, settle, inputs...)
		if acted == nil {
			return inputFailure(steps[:len(inputs)], err)
		}
		p.acted = *acted
		if steps[len(inputs)-1].Action == step.Action { // the picture that it leaves behind
			completed, after = step.Action+1, afterwards
		}
	} else {
		sight, err = p.s.desktops.See(ctx, callerOf(ctx), p.id, settle)
	}
	if err == nil {
		p.saw(sight, settle)
		err = p.show(sight, step.Look, outcome)
	}
	if err != nil {
		return &failure{step.Action, completed, after(err)}
	}
	return nil
}

// saw notes how the display was seen.
func (p *performance) saw(sight desktop.Sight, settle time.Duration) {
	p.sight = &sight
	if settle > 0 {
		p.rested = &sight
	}
}

// show is the picture of a look. The display has the size that was announced, a part of it the real
// one unless that is larger.
func (p *performance) show(sight desktop.Sight, look *dialect.Look, outcome *dialect.Outcome) error {
	how := Picture{Format: cmp.Or(p.request.Format, "png"), Quality: p.request.Quality, Cursor: true}
	switch announced := p.request.Display; {
	case look.Region != nil:
		how.Region = Region(*look.Region)
		if announced != nil {
			how.MaxWidth, how.MaxHeight = announced.Width, announced.Height
		}
	case announced != nil:
		how.exact = *announced
	}
	shot, err := p.s.screenshot(p.id, sight.Frame, how)
	if err != nil {
		return err
	}
	outcome.Picture, outcome.MediaType = shot.Data, shot.ContentType
	return nil
}

// step does what is neither input nor a look.
func (p *performance) step(ctx context.Context, step dialect.Step, outcome *dialect.Outcome) *failure {
	var err error
	p.sight = nil
	switch {
	case step.Cursor:
		if p.acted, err = p.s.desktops.Act(ctx, callerOf(ctx), p.id); err == nil {
			outcome.Cursor = &p.acted.Cursor
		}
	case step.Exec != nil:
		var result desktop.ExecResult
		counts(ctx, activity.CommandOf(*step.Exec), 1)
		if result, err = p.s.desktops.Exec(ctx, callerOf(ctx), p.id, *step.Exec, nil); err == nil {
			outcome.Text = strings.TrimSpace(result.Stdout)
			err = commandFailure(result)
		}
	default:
		timer := time.NewTimer(step.Pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return &failure{step.Action, step.Action, err}
	}
	return nil
}

// commandFailure is how a command failed that an action stands for.
func commandFailure(result desktop.ExecResult) error {
	said := shorten(strings.TrimSpace(result.Stderr))
	switch {
	case result.TimedOut:
		return desktop.Errorf(desktop.Conflict, "its command in the desktop did not end in time")
	case result.ExitCode != 0 && said != "":
		return desktop.Errorf(desktop.Conflict, "%s", said)
	case result.ExitCode != 0:
		return desktop.Errorf(desktop.Conflict, "its command in the desktop ended with exit code %d", result.ExitCode)
	}
	return nil
}

// last waits for the display after the last action and takes the picture of it, as is wanted.
func (p *performance) last(ctx context.Context) (*Screenshot, error) {
	after := After{Screenshot: p.request.Screenshot}
	wanted, settle := after.wanted(), p.settle
	if wanted != nil && wanted.SettleMs > 0 {
		settle = after.settle()
	}
	if wanted == nil && (p.request.SettleMs == nil || settle == 0) {
		return nil, nil
	}
	if p.sight == nil {
		sight, err := p.s.desktops.See(ctx, callerOf(ctx), p.id, settle)
		if err != nil {
			return nil, err
		}
		p.saw(sight, settle)
	}
	if wanted == nil {
		return nil, nil
	}
	return p.s.screenshot(p.id, p.sight.Frame, *wanted)
}

// problem is the answer to a failure. call is nil when all of them had been done.
func (p *performance) problem(ctx context.Context, call *dialect.Call, outcome dialect.Outcome, failed *failure) error {
	problem := *p.s.problem(ctx, failed.err)
	problem.extra = maps.Clone(problem.extra)
	if problem.extra == nil {
		problem.extra = map[string]any{}
	}
	delete(problem.extra, "done")
	if call != nil {
		name := p.batch.ActionName(failed.action)
		problem.Message = fmt.Sprintf("action %d (%s %s): %s", failed.action, p.batch.Dialect, name, problem.Message)
		problem.Detail = problem.Message
		problem.extra["index"], problem.extra["action"] = failed.action, name
		outcome.Err = errors.New(problem.Message)
		if p.batch.Dialect == dialect.OpenAI && outcome.Picture == nil {
			// The vendor's result is a picture. Where there is none, the problem has to do.
			if sight, err := p.s.desktops.See(ctx, callerOf(ctx), p.id, 0); err == nil {
				_ = p.show(sight, &dialect.Look{}, &outcome)
			}
		}
		if err := p.add(call, outcome); err != nil {
			exchangeOf(ctx).log.DebugContext(ctx, "no result for an action that failed", "error", err)
		}
	}
	problem.extra["dialect"], problem.extra["completed"], problem.extra["results"] = p.batch.Dialect, failed.completed, p.results
	return &problem
}
