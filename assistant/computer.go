package assistant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"slices"
	"strings"
	"sync"
	"time"

	"bureau/assistant/model"
	"bureau/desktop"
	"bureau/desktop/dialect"
	"bureau/desktop/picture"
)

const (
	settleTime     = 2 * time.Second // for the display to come to rest after an action
	pictureQuality = 75              // of JPEG, as Anthropic's own demonstration has it
	thumbnailWidth = 320
	thumbQuality   = 60
)

// dialects are the vocabularies of the formats; one that has no computer tool of its own is found out.
var dialects = map[model.Format]dialect.Name{
	model.Anthropic: dialect.Anthropic, model.OpenAI: dialect.OpenAI, model.Gemini: dialect.Gemini, model.OpenAIChat: dialect.Auto,
}

// computer does what a model wants done on the display, and shows what it leaves behind.
func (t *turn) computer(ctx context.Context, step Step, call model.Call) outcome {
	if t.mapping.Real == (desktop.Size{}) {
		if _, err := t.look(ctx, 0); err != nil {
			return t.mishap(ctx, call, err)
		}
	}
	batch, err := dialect.Decode(call.Arguments, dialects[call.Format], t.mapping)
	if err != nil {
		return t.afterFailure(ctx, failure(err))
	}
	if n := len(batch.Calls); n > 0 && batch.Dialect == dialect.Bureau && !looks(batch.Calls[n-1]) {
		batch.Calls[n-1].NeedsPicture = true // as the vendors' own tools always show it
	}
	reasons := t.policy.computer(ctx, t.work, call, batch)
	var acknowledged json.RawMessage
	for _, one := range batch.Calls {
		if one.Safety == nil {
			continue
		}
		doubts := strings.Join(one.Safety.Reasons, "; ")
		if strings.HasPrefix(one.Safety.Decision, "block") {
			return t.afterFailure(ctx, failure(desktop.Errorf(desktop.Forbidden, "the model's provider blocks this action: %s", doubts)))
		}
		reasons = append(reasons, "the model's provider wants a person to agree: "+doubts)
		acknowledged = safetyChecks(call.Arguments)
	}
	if len(reasons) > 0 {
		if err := t.approve(ctx, step, strings.Join(reasons, "; ")); err != nil {
			return t.refused(ctx, call, err)
		}
	}
	var done outcome
	for i := range batch.Calls {
		if err := t.steps(ctx, &batch.Calls[i], &done); err != nil {
			mishap := t.mishap(ctx, call, err)
			mishap.acknowledged = acknowledged
			return mishap
		}
	}
	done.acknowledged = acknowledged
	return done
}

// looks tells whether a call ends with something to be told of: a picture, or the pointer's place.
func looks(call dialect.Call) bool {
	n := len(call.Steps)
	return n > 0 && (call.Steps[n-1].Look != nil || call.Steps[n-1].Cursor)
}

// safetyChecks are what an acknowledgement repeats: OpenAI's checks, or true.
func safetyChecks(arguments json.RawMessage) json.RawMessage {
	var call struct {
		Pending json.RawMessage `json:"pending_safety_checks"`
	}
	if json.Unmarshal(arguments, &call) == nil && len(call.Pending) > 0 {
		return call.Pending
	}
	return json.RawMessage("true")
}

// steps does the steps of a call: input in a row at once, with the look that follows it.
func (t *turn) steps(ctx context.Context, call *dialect.Call, done *outcome) error {
	steps := slices.Clone(call.Steps)
	if call.NeedsPicture {
		steps = append(steps, dialect.Step{Look: &dialect.Look{}})
	}
	for len(steps) > 0 {
		inputs := dialect.Inputs(steps)
		n := len(inputs)
		var err error
		switch {
		case n < len(steps) && steps[n].Look != nil:
			err = t.lookAt(ctx, steps[n].Look, inputs, done)
			n++
		case n > 0:
			_, _, err = t.work.ActAndSee(ctx, 0, inputs...)
		default:
			err = t.other(ctx, steps[0], done)
			n = 1
		}
		if err != nil {
			return err
		}
		steps = steps[n:]
	}
	return nil
}

// lookAt does input, if there is any, and takes the picture that was asked for.
func (t *turn) lookAt(ctx context.Context, look *dialect.Look, inputs []desktop.Action, done *outcome) error {
	settle := settleTime
	if look.SettleMs != nil {
		settle = time.Duration(*look.SettleMs) * time.Millisecond
	}
	var sight desktop.Sight
	var err error
	if len(inputs) > 0 {
		_, sight, err = t.work.ActAndSee(ctx, settle, inputs...)
	} else {
		sight, err = t.work.See(ctx, settle)
	}
	if err != nil {
		return err
	}
	return t.show(sight.Frame, look.Region, done)
}

// look is a fresh look at the display. It takes note of the display's size.
func (t *turn) look(ctx context.Context, settle time.Duration) (*desktop.Frame, error) {
	sight, err := t.work.See(ctx, settle)
	if err != nil {
		return nil, err
	}
	t.announce(sizeOf(sight.Frame))
	return sight.Frame, nil
}

func sizeOf(frame *desktop.Frame) desktop.Size {
	return desktop.Size{Width: frame.Pixels.Rect.Dx(), Height: frame.Pixels.Rect.Dy()}
}

// show puts a picture of the display, or of a part of it, into an outcome.
func (t *turn) show(frame *desktop.Frame, region *image.Rectangle, done *outcome) error {
	how := picture.Options{Format: picture.JPEG, Quality: pictureQuality, Cursor: true}
	if region == nil {
		t.announce(sizeOf(frame))
		how.Exact = &t.mapping.Announced
	} else {
		how.Region, how.MaxWidth, how.MaxHeight = region, t.mapping.Announced.Width, t.mapping.Announced.Height
	}
	// The thumbnail is made beside the picture.
	var small picture.Picture
	var failed error
	var making sync.WaitGroup
	making.Go(func() {
		small, failed = picture.Render(frame, picture.Options{Format: picture.JPEG, Quality: thumbQuality, Cursor: true, MaxWidth: thumbnailWidth})
	})
	shot, err := picture.Render(frame, how)
	making.Wait()
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	done.picture = &model.Picture{MediaType: shot.ContentType, Data: shot.Bytes, Width: shot.Width, Height: shot.Height}
	done.thumbnail = &Thumbnail{MediaType: small.ContentType, Data: small.Bytes, Width: small.Width, Height: small.Height}
	return nil
}

// other does what is neither input nor a look.
func (t *turn) other(ctx context.Context, step dialect.Step, done *outcome) error {
	switch {
	case step.Cursor:
		acted, _, err := t.work.ActAndSee(ctx, 0)
		if acted != nil {
			at := t.mapping.FromReal(acted.Cursor)
			done.text = joined(done.text, fmt.Sprintf("X=%d,Y=%d", at.X, at.Y))
		}
		return err
	case step.Exec != nil:
		result, err := t.work.Exec(ctx, *step.Exec, nil)
		if err != nil {
			return err
		}
		if result.ExitCode != 0 || result.TimedOut {
			return desktop.Errorf(desktop.Conflict, "its command in the desktop failed: %s", shorten(strings.TrimSpace(result.Stderr), 500))
		}
		return nil
	}
	return sleep(ctx, step.Pause)
}

// afterFailure adds to a failure how the display looks.
func (t *turn) afterFailure(ctx context.Context, failed outcome) outcome {
	if frame, err := t.look(ctx, 0); err == nil {
		if err := t.show(frame, nil, &failed); err != nil {
			t.log.Warn("no picture beside a failure", "error", err)
		}
	}
	return failed
}

// mishap is what comes of a call that the desktop did not do. What the model has caused is told to it. A
// desktop that is away, or in a person's hands, is waited for; the call is not done again, since
// nobody knows what it would do now: the model looks and decides.
func (t *turn) mishap(ctx context.Context, call model.Call, err error) outcome {
	if ctx.Err() != nil {
		return outcome{err: context.Cause(ctx)}
	}
	note := ""
	switch desktop.CodeOf(err) {
	case desktop.Invalid, desktop.TooLarge, desktop.Conflict, desktop.Forbidden, desktop.Exhausted:
		if call.Tool == model.Computer {
			return t.afterFailure(ctx, failure(err))
		}
		return failure(err)
	case desktop.NotFound:
		return outcome{err: &ending{Failed, "the desktop is gone"}}
	case desktop.Locked:
		if err := t.awaitHandBack(ctx, err); err != nil {
			return outcome{err: err}
		}
		note = "This was not done: a person had taken over the desktop. They have handed it back, and much may have changed."
	default:
		t.log.Warn("the desktop did not do a step", "error", err)
		if err := t.awaitDesktop(ctx, err); err != nil {
			return outcome{err: err}
		}
		note = "The desktop was away for a while (" + sentenceOf(err) + ") and is back. Whether this took effect is not known, and it may have been restarted: programs may be gone."
	}
	done := outcome{text: note}
	if call.Tool != model.Computer {
		done.failed = true
		return done
	}
	frame, err := t.look(ctx, settleTime)
	if err == nil {
		err = t.show(frame, nil, &done)
	}
	if err != nil {
		if ctx.Err() != nil {
			return outcome{err: context.Cause(ctx)}
		}
		done.failed = true
		return done
	}
	done.text += " The picture shows the display as it is now."
	return done
}

const (
	probeTime  = 10 * time.Second // for a desktop to say that it is usable
	probePause = 500 * time.Millisecond
	// handBackWait bounds how long a turn waits for a person; a lease expires long before.
	handBackWait = 24 * time.Hour
)

// probe tells whether input is taken: nil when it is.
func (t *turn) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	_, _, err := t.work.ActAndSee(ctx, 0)
	return err
}

// await waits for what keeps a desktop from being worked on to pass.
func (t *turn) await(ctx context.Context, why error) error {
	switch desktop.CodeOf(why) {
	case desktop.Locked:
		return t.awaitHandBack(ctx, why)
	case desktop.NotFound:
		return &ending{Failed, "the desktop is gone"}
	}
	return t.awaitDesktop(ctx, why)
}

// awaitDesktop waits for a desktop that is away to be usable again.
func (t *turn) awaitDesktop(ctx context.Context, why error) error {
	return t.pause(ctx, why, t.s.DesktopWait, func(err error) error {
		if code := desktop.CodeOf(err); code == desktop.NotFound || code == desktop.Locked {
			return t.await(ctx, err)
		}
		return errAgain
	}, func() error {
		return &ending{Failed, "the desktop was not back within " + t.s.DesktopWait.String() + ": " + sentenceOf(why)}
	})
}

// awaitHandBack waits for a person to let go of the desktop. The turn's time stands still meanwhile.
func (t *turn) awaitHandBack(ctx context.Context, why error) error {
	defer t.clock.hold()()
	return t.pause(ctx, why, handBackWait, func(err error) error {
		if desktop.CodeOf(err) == desktop.Locked {
			return errAgain
		}
		return t.await(ctx, err)
	}, func() error { return &ending{TimedOut, "the desktop was not handed back"} })
}

// sentenceOf is what an error of a desktop says to others than the operator.
func sentenceOf(err error) string {
	var known *desktop.Error
	if errors.As(err, &known) && known.Code != desktop.Internal {
		return known.Message
	}
	return "the connection to it was lost"
}

// errAgain says that a pause goes on.
var errAgain = errors.New("again")

// pause waits, telling of it, until a probe succeeds, or what it fails with ends the wait.
func (t *turn) pause(ctx context.Context, why error, limit time.Duration, judge func(error) error, over func() error) error {
	t.journal.add(EventPaused, pausedBy(why))
	deadline := time.Now().Add(limit)
	for {
		err := t.probe(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			break
		}
		if err = judge(err); err == nil {
			break
		} else if err != errAgain {
			return err
		}
		if !time.Now().Before(deadline) {
			return over()
		}
		if err := t.s.sleep(ctx, probePause); err != nil {
			return err
		}
	}
	t.journal.add(EventResumed, struct{}{})
	return nil
}

// pausedBy is what is told of a pause.
func pausedBy(why error) map[string]any {
	data := map[string]any{"reason": sentenceOf(why)}
	var known *desktop.Error
	if errors.As(why, &known) {
		for _, name := range []string{"holder", "expiresAt", "desktopStatus"} {
			if value, ok := known.Details[name]; ok {
				data[name] = value
			}
		}
	}
	return data
}
