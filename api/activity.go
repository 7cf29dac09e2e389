package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
	"bureau/desktop/activity"
)

const oldestFirst = "oldest"

// ActivityFilter is what both listings of the log select by.
type ActivityFilter struct {
	User    string    `query:"user" maxLength:"254" doc:"Id or e-mail address of who did it"`
	Key     string    `query:"key" maxLength:"63" doc:"Id of the key that it was done with"`
	Action  string    `query:"action" maxLength:"63" doc:"What was done; with a point at its end all that begin so: \"desktop.\"" example:"desktop.stop"`
	Outcome string    `query:"outcome" enum:"done,refused,failed" doc:"Only what ended so"`
	Since   time.Time `query:"since" doc:"From this moment on"`
	Until   time.Time `query:"until" doc:"Up to this moment, which is not part of it"`
	Limit   int       `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"The most entries to answer with"`
	Cursor  int64     `query:"cursor" minimum:"1" doc:"The id of the last entry of the page before; the Link header has it"`
	Order   string    `query:"order" enum:"newest,oldest" default:"newest" doc:"Which come first. To follow the log, ask for the oldest after the last one that was seen"`
}

type activityAnswer struct {
	Link string `header:"Link" doc:"With rel=\"next\": where the next page is; absent on the last one"`
	Body []activity.Entry
}

func (s *Server) activityRoutes() {
	const rest = "Nothing that was typed, copied, said or run is in it, only of which kind it was; input, " +
		"pictures and commands are counted by the minute. What a desktop's owner may see is everything that was done to it, by whomever."
	type allInput struct {
		Desktop     string `query:"desktop" maxLength:"63" doc:"Id of the desktop that it was done to, which may be destroyed"`
		DesktopName string `query:"desktopName" maxLength:"63" doc:"Name that the desktop had then"`
		ActivityFilter
	}
	register(s, needs(desktop.CanRead), huma.Operation{
		OperationID: "listActivity", Method: http.MethodGet, Path: "/v1/activity", Tags: []string{tagAccount},
		Summary: "Who did what", Description: "What was done by the caller's user and to that user's desktops; for an administrator all of it. " + rest,
	}, func(ctx context.Context, in *allInput) (*activityAnswer, error) {
		query := url.Values{}
		for name, value := range map[string]string{"desktop": in.Desktop, "desktopName": in.DesktopName} {
			if value != "" {
				query.Set(name, value)
			}
		}
		return s.listActivity(ctx, "/v1/activity", query, in.ActivityFilter, activity.Query{Desktop: in.Desktop, DesktopName: in.DesktopName})
	})

	type oneInput struct {
		DesktopPath
		ActivityFilter
	}
	register(s, needs(desktop.CanRead), huma.Operation{
		OperationID: "listDesktopActivity", Method: http.MethodGet, Path: desktopPath + "/activity", Tags: []string{tagDesktops},
		Summary: "Who did what to a desktop", Description: rest + " Of one that is destroyed `/v1/activity` tells.",
	}, func(ctx context.Context, in *oneInput) (*activityAnswer, error) {
		return s.listActivity(ctx, "/v1/desktops/"+url.PathEscape(in.ID)+"/activity", url.Values{}, in.ActivityFilter, activity.Query{Desktop: in.ID})
	})
}

// listActivity answers with a page; query has the filters that are not in filter, for the next one.
func (s *Server) listActivity(ctx context.Context, path string, query url.Values, filter ActivityFilter, q activity.Query) (*activityAnswer, error) {
	q.User, q.Key, q.Action, q.Outcome = filter.User, filter.Key, filter.Action, activity.Outcome(filter.Outcome)
	q.Since, q.Until, q.Cursor, q.Oldest = filter.Since, filter.Until, filter.Cursor, filter.Order == oldestFirst
	q.Limit = filter.Limit + 1 // tells of a next page
	list, err := s.activity.List(ctx, callerOf(ctx), q)
	if err != nil {
		return nil, err
	}
	answer := &activityAnswer{Body: append([]activity.Entry{}, list...)}
	if len(list) <= filter.Limit {
		return answer, nil
	}
	answer.Body = answer.Body[:filter.Limit]
	for name, value := range map[string]string{"user": filter.User, "key": filter.Key, "action": filter.Action, "outcome": filter.Outcome} {
		if value != "" {
			query.Set(name, value)
		}
	}
	for name, at := range map[string]time.Time{"since": filter.Since, "until": filter.Until} {
		if !at.IsZero() {
			query.Set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	query.Set("limit", strconv.Itoa(filter.Limit))
	query.Set("cursor", strconv.FormatInt(answer.Body[filter.Limit-1].ID, 10))
	if q.Oldest {
		query.Set("order", oldestFirst)
	}
	answer.Link = "<" + path + "?" + query.Encode() + `>; rel="next"`
	return answer, nil
}
