package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
)

// Me is the caller as the API knows it.
type Me struct {
	ID           string               `json:"id" doc:"The user's id; empty for the operator on the administration socket"`
	UserID       string               `json:"userId" doc:"The same as id"`
	Email        string               `json:"email"`
	Role         desktop.Role         `json:"role" enum:"admin,user"`
	Tier         string               `json:"tier"`
	Capabilities []desktop.Capability `json:"capabilities" doc:"What this key allows" example:"[\"desktop:read\",\"desktop:chat\"]"`
	KeyID        string               `json:"keyId,omitempty" doc:"Id of this key"`
	KeyName      string               `json:"keyName,omitempty"`
	ExpiresAt    *time.Time           `json:"expiresAt" doc:"When this key expires; null for never"`
	Local        bool                 `json:"local,omitempty" doc:"True on the administration socket"`
}

func (s *Server) accountRoutes() {
	type answer struct {
		Body Me
	}
	register(s, anyKey, huma.Operation{
		OperationID: "getMe", Method: http.MethodGet, Path: "/v1/me", Tags: []string{tagAccount},
		Summary: "Who the caller is, and what its key allows",
	}, func(ctx context.Context, _ *struct{}) (*answer, error) {
		caller := callerOf(ctx)
		me := Me{
			ID: caller.User.ID, UserID: caller.User.ID, Email: caller.User.Email, Role: caller.User.Role, Tier: caller.User.Tier,
			Capabilities: append([]desktop.Capability{}, caller.Key.Capabilities...),
			KeyID:        caller.Key.ID, KeyName: caller.Key.Name, ExpiresAt: caller.Key.ExpiresAt, Local: caller.Local,
		}
		if caller.Local {
			me.Capabilities = desktop.Capabilities()
		}
		return &answer{me}, nil
	})
}
