package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
)

func (s *Server) hostRoutes() {
	type hostAnswer struct {
		Body desktop.HostState
	}
	register(s, operator, huma.Operation{
		OperationID: "getHost", Method: http.MethodGet, Path: "/v1/admin/host", Tags: []string{tagOperator},
		Summary: "What the host has, and how much of it is free", Description: "A desktop that needs more than is free is refused (507) when it is made or started.",
	}, func(ctx context.Context, _ *struct{}) (*hostAnswer, error) {
		state, err := s.desktops.Host(ctx)
		return &hostAnswer{state}, err
	})
}
