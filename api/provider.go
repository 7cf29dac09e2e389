package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"

	"bureau/assistant/provider"
	"bureau/desktop"
)

// Providers is who lends models. A provider that the caller may not know of is NotFound.
type Providers interface {
	// List is the caller's, the default one first; for the operator the appliance's, or those of the
	// user whom owner names.
	List(ctx context.Context, caller desktop.Caller, owner string) ([]provider.Provider, error)
	Get(ctx context.Context, caller desktop.Caller, id string) (provider.Provider, error)
	Create(ctx context.Context, caller desktop.Caller, draft provider.Draft) (provider.Provider, error)
	Update(ctx context.Context, caller desktop.Caller, id string, change provider.Change) (provider.Provider, error)
	Delete(ctx context.Context, caller desktop.Caller, id string) error
	// Test asks a provider's model for a word. That it does not answer is no error.
	Test(ctx context.Context, caller desktop.Caller, id string) (provider.Verdict, error)

	// CheckConfig says what is wrong with a desktop's provider before the desktop is there.
	CheckConfig(caller desktop.Caller, config provider.Config) error
	// OfDesktop is a desktop's own provider; NotFound when it has none.
	OfDesktop(ctx context.Context, caller desktop.Caller, desktopID string) (provider.Provider, error)
	SetOfDesktop(ctx context.Context, caller desktop.Caller, desktopID string, config provider.Config) (provider.Provider, error)
	RemoveOfDesktop(ctx context.Context, caller desktop.Caller, desktopID string) error
	TestOfDesktop(ctx context.Context, caller desktop.Caller, desktopID string) (provider.Verdict, error)
}

// ProviderPath is the input of a route of one provider.
type ProviderPath struct {
	ID string `path:"providerId" doc:"The provider's id" example:"prv-4m2k8x6q"`
}

// aboutProvider notes which provider a request is about, in the log of its owner.
func aboutProvider(ctx context.Context, p provider.Provider) {
	entry := did(ctx)
	entry.Target, entry.TargetName, entry.Owner = p.ID, p.Name, p.Owner
}

func (s *Server) providerRoutes() {
	const path = "/v1/providers"
	type listInput struct {
		Owner string `query:"owner" doc:"Id or e-mail address of the user whose providers to list; only on the administration socket, where they are the appliance's own when absent"`
	}
	type listAnswer struct {
		Body []provider.Provider
	}
	type answer struct {
		Body provider.Provider
	}
	type verdict struct {
		Body provider.Verdict
	}
	register(s, needs(desktop.CanProvide), huma.Operation{
		OperationID: "listProviders", Method: http.MethodGet, Path: path, Tags: []string{tagModels},
		Summary: "List the caller's model providers", Description: "The one that is asked first comes first. Never their keys.",
		Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *listInput) (*listAnswer, error) {
		list, err := s.providers.List(ctx, callerOf(ctx), in.Owner)
		return &listAnswer{append([]provider.Provider{}, list...)}, err
	})

	type createInput struct {
		Body provider.Draft
	}
	type createAnswer struct {
		Location string `header:"Location" doc:"Path of the new provider"`
		Body     provider.Provider
	}
	register(s, needs(desktop.CanProvide), once(huma.Operation{
		OperationID: "createProvider", Method: http.MethodPost, Path: path, Tags: []string{tagModels},
		Summary: "Add a model provider", Description: "For the caller's desktops. Its key is kept sealed and never shown again.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, keepAnswer), func(ctx context.Context, in *createInput) (*createAnswer, error) {
		if id := doneBefore(ctx); id != "" {
			p, err := s.providers.Get(ctx, callerOf(ctx), id)
			return &createAnswer{path + "/" + url.PathEscape(id), p}, err
		}
		p, err := s.providers.Create(ctx, callerOf(ctx), in.Body)
		aboutProvider(ctx, p)
		return &createAnswer{path + "/" + url.PathEscape(p.ID), p}, err
	})

	const one = path + "/{providerId}"
	register(s, needs(desktop.CanProvide), huma.Operation{
		OperationID: "getProvider", Method: http.MethodGet, Path: one, Tags: []string{tagModels},
		Summary: "Get a model provider", Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *ProviderPath) (*answer, error) {
		p, err := s.providers.Get(ctx, callerOf(ctx), in.ID)
		return &answer{p}, err
	})

	type updateInput struct {
		ProviderPath
		Body provider.Change
	}
	register(s, needs(desktop.CanProvide), huma.Operation{
		OperationID: "updateProvider", Method: http.MethodPatch, Path: one, Tags: []string{tagModels},
		Summary: "Change a model provider", Description: "What is absent stays as it is. A new address needs the key again.",
		Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *updateInput) (*answer, error) {
		p, err := s.providers.Update(ctx, callerOf(ctx), in.ID, in.Body)
		aboutProvider(ctx, p)
		return &answer{p}, err
	})

	register(s, needs(desktop.CanProvide), huma.Operation{
		OperationID: "deleteProvider", Method: http.MethodDelete, Path: one, Tags: []string{tagModels},
		Summary: "Forget a model provider and its key", Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *ProviderPath) (*struct{}, error) {
		did(ctx).Target = in.ID
		return nil, s.providers.Delete(ctx, callerOf(ctx), in.ID)
	})

	register(s, needs(desktop.CanProvide), huma.Operation{
		OperationID: "testProvider", Method: http.MethodPost, Path: one + "/test", Tags: []string{tagModels},
		Summary:     "Try a model provider",
		Description: "Asks its model for a word, which costs next to nothing and proves address, key and model. A provider that does not answer is a 200 with `ok` false.",
		Errors:      []int{http.StatusNotFound},
	}, func(ctx context.Context, in *ProviderPath) (*verdict, error) {
		did(ctx).Target = in.ID
		v, err := s.providers.Test(ctx, callerOf(ctx), in.ID)
		return &verdict{v}, err
	})

	const own = desktopPath + "/provider"
	register(s, needs(desktop.CanManage), huma.Operation{
		OperationID: "getDesktopProvider", Method: http.MethodGet, Path: own, Tags: []string{tagModels},
		Summary: "Get a desktop's own model provider", Description: "404 when it has none and uses its owner's, or the appliance's.",
	}, func(ctx context.Context, in *DesktopPath) (*answer, error) {
		p, err := s.providers.OfDesktop(ctx, callerOf(ctx), in.ID)
		return &answer{p}, err
	})

	type setInput struct {
		DesktopPath
		Body provider.Config
	}
	register(s, needs(desktop.CanManage), huma.Operation{
		OperationID: "setDesktopProvider", Method: http.MethodPut, Path: own, Tags: []string{tagModels},
		Summary: "Give a desktop a model provider of its own", Description: "In the place of the one it had. The key is kept sealed on the host, and never in the desktop.",
	}, func(ctx context.Context, in *setInput) (*answer, error) {
		p, err := s.providers.SetOfDesktop(ctx, callerOf(ctx), in.ID, in.Body)
		did(ctx).Target, did(ctx).TargetName = p.ID, p.Name
		return &answer{p}, err
	})

	register(s, needs(desktop.CanManage), huma.Operation{
		OperationID: "deleteDesktopProvider", Method: http.MethodDelete, Path: own, Tags: []string{tagModels},
		Summary: "Forget a desktop's own model provider", Description: "It uses its owner's then, or the appliance's. Having none is success.",
	}, func(ctx context.Context, in *DesktopPath) (*struct{}, error) {
		return nil, s.providers.RemoveOfDesktop(ctx, callerOf(ctx), in.ID)
	})

	register(s, needs(desktop.CanManage), huma.Operation{
		OperationID: "testDesktopProvider", Method: http.MethodPost, Path: own + "/test", Tags: []string{tagModels},
		Summary: "Try a desktop's own model provider", Description: "As a test of any provider.",
	}, func(ctx context.Context, in *DesktopPath) (*verdict, error) {
		v, err := s.providers.TestOfDesktop(ctx, callerOf(ctx), in.ID)
		return &verdict{v}, err
	})
}

// DesktopDraft is a desktop to be made, and the provider of its models.
type DesktopDraft struct {
	desktop.Draft
	ProviderConfig *provider.Config `json:"providerConfig,omitempty" doc:"A model provider for this desktop alone; without it the owner's is used, or the appliance's"`
}

// create makes a desktop together with its provider, or neither.
func (s *Server) create(ctx context.Context, caller desktop.Caller, draft DesktopDraft) (desktop.Desktop, error) {
	if draft.ProviderConfig != nil {
		if err := s.providers.CheckConfig(caller, *draft.ProviderConfig); err != nil {
			return desktop.Desktop{}, err
		}
		draft.Prepare = func(ctx context.Context, id string) error {
			_, err := s.providers.SetOfDesktop(ctx, caller, id, *draft.ProviderConfig)
			return err
		}
	}
	return s.desktops.Create(ctx, caller, draft.Draft)
}
