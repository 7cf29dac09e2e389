package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
)

type desktopAnswer struct {
	Body desktop.Desktop
}

func (s *Server) desktopRoutes() {
	type listInput struct {
		Limit int    `query:"limit" minimum:"1" maximum:"100" default:"100" doc:"The most desktops to answer with"`
		After string `query:"after" doc:"The id of the last desktop of the page before; the Link header has it"`
	}
	type listAnswer struct {
		Link string `header:"Link" doc:"With rel=\"next\": where the next page is; absent on the last one"`
		Body []desktop.Desktop
	}
	register(s, needs(desktop.CanRead), huma.Operation{
		OperationID: "listDesktops", Method: http.MethodGet, Path: "/v1/desktops", Tags: []string{tagDesktops},
		Summary: "List the caller's desktops", Description: "Oldest first, destroyed ones excluded.",
	}, func(ctx context.Context, in *listInput) (*listAnswer, error) {
		list, more, err := s.desktops.List(ctx, callerOf(ctx), desktop.Page{After: in.After, Limit: in.Limit})
		if err != nil {
			return nil, err
		}
		answer := &listAnswer{Body: append([]desktop.Desktop{}, list...)} // [] and never null
		if more && len(list) > 0 {
			next := url.Values{"limit": {strconv.Itoa(in.Limit)}, "after": {list[len(list)-1].ID}}
			answer.Link = "</v1/desktops?" + next.Encode() + `>; rel="next"`
		}
		return answer, nil
	})

	register(s, needs(desktop.CanRead), huma.Operation{
		OperationID: "getDesktop", Method: http.MethodGet, Path: desktopPath, Tags: []string{tagDesktops},
		Summary: "Get a desktop", Description: "Poll this for `status` and `agentReady` after a start.",
	}, func(ctx context.Context, in *DesktopPath) (*desktopAnswer, error) {
		d, err := s.desktops.Get(ctx, callerOf(ctx), in.ID)
		return &desktopAnswer{d}, err
	})

	type createInput struct {
		Body *DesktopDraft
	}
	type createAnswer struct {
		Location string `header:"Location" doc:"Path of the new desktop"`
		Body     desktop.Desktop
	}
	register(s, needs(desktop.CanManage), once(huma.Operation{
		OperationID: "createDesktop", Method: http.MethodPost, Path: "/v1/desktops", Tags: []string{tagDesktops},
		Summary: "Create a desktop", Description: "Answers once that is recorded; the desktop then boots unless `start` is false.",
		DefaultStatus: http.StatusCreated,
		Errors:        []int{http.StatusNotFound, http.StatusConflict, http.StatusInsufficientStorage},
	}, keepAnswer), func(ctx context.Context, in *createInput) (*createAnswer, error) {
		draft, caller := valueOf(in.Body), callerOf(ctx)
		if id := doneBefore(ctx); id != "" {
			d, err := s.desktops.Get(ctx, caller, id)
			return &createAnswer{"/v1/desktops/" + url.PathEscape(id), d}, err
		}
		if draft.Owner != "" && !caller.Local {
			return nil, desktop.Errorf(desktop.Invalid, "owner: only the operator on the administration socket names one")
		}
		if draft.Name != "" {
			if err := desktop.CheckName(draft.Name); err != nil {
				return nil, err
			}
		}
		d, err := s.create(ctx, caller, draft)
		if err == nil {
			about(ctx, d)
		}
		return &createAnswer{"/v1/desktops/" + url.PathEscape(d.ID), d}, err
	})

	type updateInput struct {
		DesktopPath
		Body desktop.Change
	}
	register(s, needs(desktop.CanManage), huma.Operation{
		OperationID: "updateDesktop", Method: http.MethodPatch, Path: desktopPath, Tags: []string{tagDesktops},
		Summary: "Change a desktop", Description: "What is absent stays as it is.",
		Errors: []int{http.StatusConflict},
	}, func(ctx context.Context, in *updateInput) (*desktopAnswer, error) {
		if in.Body.Name != nil {
			if err := desktop.CheckName(*in.Body.Name); err != nil {
				return nil, err
			}
		}
		for field, there := range map[string]bool{"name": in.Body.Name != nil, "keepAlive": in.Body.KeepAlive != nil,
			"approval": in.Body.Approval != nil, "agent": in.Body.Agent != nil} {
			if there {
				counts(ctx, field, 1)
			}
		}
		d, err := s.desktops.Update(ctx, callerOf(ctx), in.ID, in.Body)
		return &desktopAnswer{d}, err
	})

	register(s, needs(desktop.CanManage), huma.Operation{
		OperationID: "destroyDesktop", Method: http.MethodDelete, Path: desktopPath, Tags: []string{tagDesktops},
		Summary: "Destroy a desktop", Description: "With its disk, for good.",
		Errors: []int{http.StatusConflict},
	}, func(ctx context.Context, in *DesktopPath) (*struct{}, error) {
		return nil, s.desktops.Destroy(ctx, callerOf(ctx), in.ID)
	})
}

// valueOf is what an optional body holds, the zero value when there is none.
func valueOf[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
