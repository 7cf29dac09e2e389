package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

type healthAnswer struct {
	Body struct {
		Status string `json:"status" enum:"ok"`
	} `nameHint:"Health"`
}

func healthy() *healthAnswer {
	answer := &healthAnswer{}
	answer.Body.Status = "ok"
	return answer
}

func (s *Server) healthRoutes() {
	register(s, anybody, huma.Operation{
		OperationID: "getHealth", Method: http.MethodGet, Path: "/healthz", Tags: []string{tagService},
		Summary: "Whether the server lives", Description: "Answers as long as the process does; for a supervisor that restarts it.",
	}, func(context.Context, *struct{}) (*healthAnswer, error) { return healthy(), nil })

	register(s, anybody, huma.Operation{
		OperationID: "getReadiness", Method: http.MethodGet, Path: "/readyz", Tags: []string{tagService},
		Summary: "Whether the server can do its work", Description: "The database answers and the hypervisor is there; for a load balancer.",
		Errors: []int{http.StatusServiceUnavailable},
	}, func(ctx context.Context, _ *struct{}) (*healthAnswer, error) {
		if err := s.desktops.Ready(ctx); err != nil {
			return nil, err
		}
		return healthy(), nil
	})
}
