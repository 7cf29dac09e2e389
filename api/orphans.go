package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
)

// Adoption is a machine to make a desktop of.
type Adoption struct {
	Machine string `json:"machine" minLength:"1" maxLength:"128" doc:"The id that the machine carries, or the hypervisor's name for it" example:"bureau-dt-7k3m9q2w5x8r4t6y"`
	Owner   string `json:"owner,omitempty" maxLength:"254" doc:"Id or e-mail address of the user to make it for; when absent the one who owned it"`
}

func (s *Server) orphanRoutes() {
	type orphansAnswer struct {
		Body desktop.Orphans
	}
	register(s, operator, huma.Operation{
		OperationID: "listOrphans", Method: http.MethodGet, Path: "/v1/admin/orphans", Tags: []string{tagOperator},
		Summary:     "List what no desktop owns",
		Description: "Machines that carry a desktop's id and have no record here, and volumes that nothing needs. Nothing of it is touched by itself.",
	}, func(ctx context.Context, _ *struct{}) (*orphansAnswer, error) {
		found, err := s.desktops.Orphans(ctx, callerOf(ctx))
		found.Machines = append([]desktop.Stranger{}, found.Machines...)
		found.Volumes = append([]desktop.Volume{}, found.Volumes...)
		return &orphansAnswer{found}, err
	})

	type volumePath struct {
		Name string `path:"name" maxLength:"255" doc:"The volume's name" example:"desktop-dt-7k3m9q2w5x8r4t6y.qcow2"`
	}
	register(s, operator, huma.Operation{
		OperationID: "removeOrphan", Method: http.MethodDelete, Path: "/v1/admin/orphans/volumes/{name}", Tags: []string{tagOperator},
		Summary: "Delete a volume that no desktop owns", Description: "For good. Only one that is listed: whether it is still without an owner is looked at again.",
		Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *volumePath) (*struct{}, error) {
		did(ctx).TargetName = in.Name
		return nil, s.desktops.RemoveOrphan(ctx, callerOf(ctx), in.Name)
	})

	type adoptInput struct {
		Body Adoption
	}
	type adoptAnswer struct {
		Location string `header:"Location" doc:"Path of the desktop"`
		Body     desktop.Desktop
	}
	register(s, operator, once(huma.Operation{
		OperationID: "adoptMachine", Method: http.MethodPost, Path: "/v1/admin/orphans/adopt", Tags: []string{tagOperator},
		Summary: "Make a desktop of a machine that has no record", Description: "It stays as it is: one that runs goes on running. Its tier is the smallest that it fits into.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, keepAnswer), func(ctx context.Context, in *adoptInput) (*adoptAnswer, error) {
		caller := callerOf(ctx)
		if id := doneBefore(ctx); id != "" {
			d, err := s.desktops.Get(ctx, caller, id)
			return &adoptAnswer{"/v1/desktops/" + url.PathEscape(id), d}, err
		}
		did(ctx).TargetName = in.Body.Machine
		d, err := s.desktops.Adopt(ctx, caller, in.Body.Machine, in.Body.Owner)
		if err == nil {
			about(ctx, d)
		}
		return &adoptAnswer{"/v1/desktops/" + url.PathEscape(d.ID), d}, err
	})
}
