package api

import (
	"cmp"
	"context"
	"net/http"
	"net/mail"
	"net/url"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
)

// The bodies of the administration routes.
type (
	UserRequest struct {
		Email string       `json:"email" minLength:"3" maxLength:"254" example:"ada@example.org"`
		Role  desktop.Role `json:"role,omitempty" enum:"admin,user" default:"user"`
		Tier  string       `json:"tier,omitempty" maxLength:"64" doc:"The configured default when absent"`
	}
	UserUpdate struct {
		Role *desktop.Role `json:"role,omitempty" enum:"admin,user"`
		Tier *string       `json:"tier,omitempty" minLength:"1" maxLength:"64" doc:"For what is made from now on; desktops stay as large as they are"`
	}
	KeyDraft struct {
		User         string               `json:"user" minLength:"1" maxLength:"254" doc:"Id or e-mail address of the key's user"`
		Name         string               `json:"name,omitempty" maxLength:"100" doc:"What the key is for"`
		Capabilities []desktop.Capability `json:"capabilities,omitempty" enum:"desktop:read,desktop:lifecycle,desktop:control,desktop:chat,desktop:manage,desktop:files,provider:manage" doc:"desktop:read and desktop:chat when absent; they never change"`
		ExpiresAt    *time.Time           `json:"expiresAt,omitempty" doc:"Never when absent"`
	}
	// NewKey is a key with its secret, which nobody sees again.
	NewKey struct {
		desktop.Key
		Secret string `json:"secret" doc:"Shown this once" example:"sk_live_…"`
	}
)

// aboutKey notes which key a request is about, in the log of the key's user.
func aboutKey(ctx context.Context, key desktop.Key) {
	entry := did(ctx)
	entry.Target, entry.TargetName, entry.Owner = key.ID, key.Name, key.UserID
}

func (s *Server) adminRoutes() {
	type userAnswer struct {
		Body desktop.User
	}
	type usersAnswer struct {
		Body []desktop.User
	}
	type userInput struct {
		Body UserRequest
	}
	register(s, operator, huma.Operation{
		OperationID: "listUsers", Method: http.MethodGet, Path: "/v1/admin/users", Tags: []string{tagOperator},
		Summary: "List the users",
	}, func(ctx context.Context, _ *struct{}) (*usersAnswer, error) {
		users, err := s.accounts.Users(ctx)
		return &usersAnswer{append([]desktop.User{}, users...)}, err
	})
	register(s, operator, once(huma.Operation{
		OperationID: "createUser", Method: http.MethodPost, Path: "/v1/admin/users", Tags: []string{tagOperator},
		Summary: "Create a user", DefaultStatus: http.StatusCreated,
		Errors: []int{http.StatusConflict},
	}, keepAnswer), func(ctx context.Context, in *userInput) (*userAnswer, error) {
		if id := doneBefore(ctx); id != "" {
			users, err := s.accounts.Users(ctx)
			for _, user := range users {
				if user.ID == id {
					return &userAnswer{user}, nil
				}
			}
			return nil, cmp.Or(err, error(desktop.Errorf(desktop.NotFound, "there is no user %s", id)))
		}
		address, err := mail.ParseAddress(in.Body.Email)
		if err != nil || address.Address != in.Body.Email {
			return nil, desktop.Errorf(desktop.Invalid, "email: expected an e-mail address")
		}
		user, err := s.accounts.CreateUser(ctx, in.Body.Email, in.Body.Role, in.Body.Tier)
		did(ctx).Target, did(ctx).TargetName = user.ID, in.Body.Email
		return &userAnswer{user}, err
	})

	type userUpdateInput struct {
		ID   string `path:"id" maxLength:"254" doc:"The user's id or e-mail address" example:"usr-4m2k8x6q"`
		Body UserUpdate
	}
	register(s, operator, huma.Operation{
		OperationID: "updateUser", Method: http.MethodPatch, Path: "/v1/admin/users/{id}", Tags: []string{tagOperator},
		Summary: "Change a user", Description: "What is absent stays as it is. The last administrator stays one.",
		Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *userUpdateInput) (*userAnswer, error) {
		user, err := s.accounts.UpdateUser(ctx, in.ID, desktop.UserChange{Role: in.Body.Role, Tier: in.Body.Tier})
		did(ctx).Target, did(ctx).TargetName = cmp.Or(user.ID, in.ID), user.Email
		return &userAnswer{user}, err
	})

	type keysInput struct {
		User string `query:"user" doc:"Id or e-mail address; everybody's when absent"`
	}
	type keysAnswer struct {
		Body []desktop.Key
	}
	register(s, operator, huma.Operation{
		OperationID: "listKeys", Method: http.MethodGet, Path: "/v1/admin/keys", Tags: []string{tagOperator},
		Summary: "List the keys", Description: "Revoked and expired ones, too; never their secrets.",
		Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *keysInput) (*keysAnswer, error) {
		keys, err := s.accounts.Keys(ctx, in.User)
		return &keysAnswer{append([]desktop.Key{}, keys...)}, err
	})

	type keyInput struct {
		Body KeyDraft
	}
	type newKeyAnswer struct {
		Location string `header:"Location"`
		Body     NewKey
	}
	register(s, operator, once(huma.Operation{
		OperationID: "createKey", Method: http.MethodPost, Path: "/v1/admin/keys", Tags: []string{tagOperator},
		Summary: "Create a key", Description: "Its secret is in this answer and nowhere else.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, makeAnswer), func(ctx context.Context, in *keyInput) (*newKeyAnswer, error) {
		if id := doneBefore(ctx); id != "" {
			return nil, secretGone("key "+id, id, "revoke the key, and make another")
		}
		capabilities := in.Body.Capabilities
		if capabilities == nil {
			capabilities = desktop.DefaultCapabilities()
		}
		slices.Sort(capabilities)
		capabilities = slices.Compact(capabilities)
		key, secret, err := s.accounts.CreateKey(ctx, in.Body.User, in.Body.Name, capabilities, in.Body.ExpiresAt)
		aboutKey(ctx, key)
		return &newKeyAnswer{"/v1/admin/keys/" + url.PathEscape(key.ID), NewKey{key, secret}}, err
	})

	type keyPath struct {
		ID string `path:"id" doc:"The key's id" example:"key-9t3w5z7b"`
	}
	type keyAnswer struct {
		Body desktop.Key
	}
	register(s, operator, huma.Operation{
		OperationID: "revokeKey", Method: http.MethodDelete, Path: "/v1/admin/keys/{id}", Tags: []string{tagOperator},
		Summary: "Revoke a key", Description: "From the next request on. One that is revoked stays as it was.",
		Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *keyPath) (*keyAnswer, error) {
		key, err := s.accounts.RevokeKey(ctx, in.ID)
		aboutKey(ctx, key)
		if err != nil {
			did(ctx).Target = in.ID
		}
		return &keyAnswer{key}, err
	})
}
