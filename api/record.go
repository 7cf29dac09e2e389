package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"bureau/desktop"
	"bureau/desktop/activity"
)

// Activity is the record of who did what.
type Activity interface {
	// Record returns when the entry is durable.
	Record(ctx context.Context, entry activity.Entry) error
	// Note returns at once; the entry is counted together with others of its kind.
	Note(entry activity.Entry)
	// List finds entries: an administrator's of everybody, another caller's of its own user.
	List(ctx context.Context, caller desktop.Caller, query activity.Query) ([]activity.Entry, error)
}

// Actions of the log that are no route's own.
const (
	actionAuthenticate = "authenticate" // without a good key
	actionRefused      = "refused"      // for want of a capability, at a route that is not in the log otherwise
	actionTooMany      = "rate-limited"
	actionInput        = "input"
)

// recording says how a route is in the log.
type recording struct {
	action string
	// durable is for what changes what there is or who may do what: when it has been done, that is on
	// the disk before it is answered. Everything else is noted.
	durable bool
}

// recorded are the routes in the log, by the operation's id. A test holds it to the routes: those that
// change something are in here, and those that only look are where what they show may be private.
var recorded = map[string]recording{
	"createDesktop":  {"desktop.create", true},
	"updateDesktop":  {"desktop.update", true},
	"destroyDesktop": {"desktop.destroy", true},
	"startDesktop":   {"desktop.start", true},
	"stopDesktop":    {"desktop.stop", true},
	"restartDesktop": {"desktop.restart", true},

	"click":          {actionInput, false},
	"move":           {actionInput, false},
	"drag":           {actionInput, false},
	"scroll":         {actionInput, false},
	"type":           {actionInput, false},
	"key":            {actionInput, false},
	"actions":        {actionInput, false},
	"activateWindow": {actionInput, false},
	"closeWindow":    {actionInput, false},
	"resizeDisplay":  {"display.resize", false},
	"getClipboard":   {"clipboard.read", false},
	"setClipboard":   {"clipboard.write", false},
	"getScreenshot":  {"screenshot", false},
	"exec":           {"exec", false},
	"bash":           {"exec", false},

	"takeLease": {"lease.take", true},
	"endLease":  {"lease.end", true},

	"chat":                 {"chat", true},
	"createChatCompletion": {"chat", true},
	"cancelChat":           {"chat.cancel", true},
	"deleteSession":        {"chat.delete", true},
	"decideApproval":       {"approval", true},

	"createProvider":        {"provider.create", true},
	"updateProvider":        {"provider.update", true},
	"deleteProvider":        {"provider.delete", true},
	"testProvider":          {"provider.test", false},
	"setDesktopProvider":    {"provider.set", true},
	"deleteDesktopProvider": {"provider.remove", true},
	"testDesktopProvider":   {"provider.test", false},

	"adoptMachine": {"desktop.adopt", true},
	"removeOrphan": {"volume.remove", true},

	"createUser": {"user.create", true},
	"updateUser": {"user.update", true},
	"createKey":  {"key.create", true},
	"revokeKey":  {"key.revoke", true},
}

// did is what a request's entry says beside who made it: the handlers fill it in as they go.
func did(ctx context.Context) *activity.Entry { return &exchangeOf(ctx).did }

// counts adds to the kinds that an entry tells of.
func counts(ctx context.Context, name string, n int64) {
	entry := did(ctx)
	if entry.Details == nil {
		entry.Details = map[string]int64{}
	}
	entry.Details[name] += n
}

// countInput adds what kinds of input there are.
func countInput(ctx context.Context, actions ...desktop.Action) {
	for _, action := range actions {
		if kind := activity.KindOf(action); kind != "" {
			counts(ctx, kind, 1)
		}
	}
}

// about notes which desktop a request is about.
func about(ctx context.Context, d desktop.Desktop) {
	x := exchangeOf(ctx)
	x.desktop = d
	x.did.DesktopID, x.did.DesktopName, x.did.Owner = d.ID, d.Name, d.Owner
}

// unchanged notes that what the request asks for was so already: it is counted, not kept one by one.
func unchanged(ctx context.Context) { exchangeOf(ctx).unchanged = true }

// record has a request in the log, once, when the status of its answer is known and before it is sent.
func (s *Server) record(ctx context.Context, x *exchange, status int) {
	if x.recorded || s.activity == nil {
		return
	}
	x.recorded = true
	how, known := recorded[x.route]
	entry := x.did
	switch {
	case status == http.StatusUnauthorized:
		how = recording{action: actionAuthenticate}
	case status == http.StatusTooManyRequests:
		how = recording{action: actionTooMany}
	case status == http.StatusForbidden && !known:
		how = recording{action: actionRefused}
	case !known:
		return
	}
	if how.action != recorded[x.route].action {
		entry.Details = map[string]int64{x.route: 1}
	}
	entry.Action, entry.Status, entry.RequestID = how.action, status, x.id
	entry.At, entry.Until = x.began, time.Now()
	entry.Via, entry.Address = x.via, x.address
	entry.From(x.caller)
	if !how.durable || x.unchanged || status >= http.StatusBadRequest {
		s.activity.Note(entry)
		return
	}
	if err := s.activity.Record(ctx, entry); err != nil {
		// It has been done, and the caller is told so. The operator has this line in place of the entry.
		x.log.LogAttrs(ctx, slog.LevelError, "an entry is missing from the activity log", slog.Any("error", err),
			slog.String("action", entry.Action), slog.String("user", entry.UserID), slog.String("key", entry.KeyID),
			slog.String("desktop", entry.DesktopID), slog.String("target", entry.Target), slog.Int("status", status))
	}
}

// origin is how a request came in, and from where.
func (x *exchange) origin(r *http.Request) (via, address string) {
	if outer, ok := r.Context().Value(withinKey{}).(string); ok {
		return "mcp", outer
	}
	if isLocal(r.Context()) {
		return "socket", ""
	}
	if !x.client.IsValid() {
		return "api", ""
	}
	return "api", x.client.String()
}
