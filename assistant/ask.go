package assistant

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"bureau/assistant/model"
	"bureau/desktop"
)

const (
	answerTokens = 8192 // of one answer
	attempts     = 4    // of one request at one endpoint
	firstBackoff = time.Second
	maxBackoff   = 30 * time.Second
	// maxRetryAfter is how long a provider is waited for that says how long; beyond it, another one
	// is asked.
	maxRetryAfter = 2 * time.Minute
)

// ask is the model's next message. A request that fails for a passing reason is made again, a few
// times and with growing pauses, then the next endpoint's model is asked; the one that answers is
// stayed with, since it has the conversation in its cache.
func (t *turn) ask(ctx context.Context) (model.Response, error) {
	for {
		response, err := t.askEndpoint(ctx)
		if err == nil || ctx.Err() != nil {
			return response, err
		}
		var refused *model.Error
		if !errors.As(err, &refused) {
			return response, err
		}
		if refused.Code == model.ContextOverflow {
			return response, &ending{Failed, "the conversation is too long for the model, also without its older parts; begin a new session"}
		}
		if t.current+1 == len(t.endpoints) {
			return response, err
		}
		t.current++
		t.journal.add(EventRetry, map[string]any{"reason": refused.Error(), "waitMs": 0, "model": t.endpoints[t.current].Model})
		t.log.Warn("another model is asked", "error", refused, "model", t.endpoints[t.current].Model)
	}
}

// askEndpoint asks the current endpoint's model until it answers, or there is no use in it.
func (t *turn) askEndpoint(ctx context.Context) (model.Response, error) {
	endpoint := t.endpoints[t.current]
	m, err := t.model()
	if err != nil {
		return model.Response{}, err
	}
	shortened, backoff := false, firstBackoff
	for attempt := 1; ; attempt++ {
		if err := t.allowed(ctx); err != nil {
			return model.Response{}, err
		}
		told := false
		response, err := m.Next(ctx, t.request(), func(delta model.Delta) {
			switch {
			case delta.Text != "":
				told = true
				t.journal.add(EventText, map[string]string{"text": delta.Text})
			case delta.Reasoning != "":
				told = true
				t.journal.add(EventReasoning, map[string]string{"text": delta.Reasoning})
			}
		})
		if err == nil {
			t.spent(ctx, endpoint, response)
			return response, nil
		}
		if told {
			t.journal.add(EventDiscarded, map[string]string{"reason": err.Error()})
		}
		if ctx.Err() != nil {
			return response, context.Cause(ctx)
		}
		var refused *model.Error
		if !errors.As(err, &refused) {
			return response, err
		}
		wait := backoff + rand.N(backoff/2)
		switch {
		case (refused.Code == model.ContextOverflow || refused.Code == model.PictureTooLarge) && !shortened:
			shortened, wait = true, 0
			if refused.Code == model.ContextOverflow {
				t.compact = true
			} else {
				t.smaller()
			}
		case !refused.Passing() || attempt >= attempts || refused.RetryAfter > maxRetryAfter:
			return response, refused
		case refused.RetryAfter > 0:
			wait = refused.RetryAfter
		}
		backoff = min(2*backoff, maxBackoff)
		t.journal.add(EventRetry, map[string]any{"reason": refused.Error(), "waitMs": wait.Milliseconds(), "model": endpoint.Model})
		t.log.Warn("the model is asked again", "error", refused, "in", wait)
		if wait > 0 {
			if err := t.s.sleep(ctx, wait); err != nil {
				return response, err
			}
		}
	}
}

// model is that of the current endpoint.
func (t *turn) model() (model.Model, error) {
	if m := t.models[t.current]; m != nil {
		return m, nil
	}
	m, err := t.s.Model(t.endpoints[t.current])
	if err == nil {
		t.models[t.current] = m
	}
	return m, err
}

// request is the conversation as the model is given it now.
func (t *turn) request() model.Request {
	return model.Request{
		System:    t.system(),
		Messages:  conversation(t.messages, t.compact, t.blind),
		Tools:     tools,
		Computer:  &model.Display{Width: t.mapping.Announced.Width, Height: t.mapping.Announced.Height},
		MaxTokens: answerTokens,
	}
}

// smaller makes do with what a model takes of pictures: those that there are are not shown any more,
// and new ones have half the sides.
func (t *turn) smaller() {
	t.blind = pictures(t.messages)
	t.budget.LongEdge = max(320, t.budget.LongEdge/2)
	t.announce(t.mapping.Real)
}

// spent takes an answer's cost into account.
func (t *turn) spent(ctx context.Context, endpoint model.Endpoint, response model.Response) {
	t.change(func(r *Turn) {
		r.Usage = r.Usage.Add(response.Usage)
		if r.Model = response.Model; r.Model == "" {
			r.Model = endpoint.Model
		}
	})
	record := t.snapshot()
	t.journal.add(EventUsage, map[string]any{"usage": record.Usage, "model": record.Model})
	if err := t.s.Meter.Record(context.WithoutCancel(ctx), t.desktop.Owner, t.desktop.ID, endpoint, response.Usage); err != nil {
		t.log.Error("what a model's answer took was not recorded", "error", err)
	}
}

// announce takes note of the display's size, and of the one that the model is told.
func (t *turn) announce(real desktop.Size) {
	t.mapping.Real = real
	t.mapping.Announced = t.budget.Fit(real)
}
