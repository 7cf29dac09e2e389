package api

import (
	"context"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"bureau/assistant/provider"
	"bureau/assistant/usage"
	"bureau/desktop"
)

// bearer is the name of the one security scheme.
const bearer = "bearer"

// Tags of the routes, in the order of the document.
const (
	tagDesktops = "Desktops"
	tagControl  = "Control"
	tagModels   = "Models"
	tagChat     = "Chat"
	tagAccount  = "Account"
	tagOperator = "Administration"
	tagService  = "Service"
)

const introduction = `Bureau gives programs and people Linux desktops: virtual machines that are made, started, seen and controlled over HTTP.

**Authentication.** Every request carries ` + "`Authorization: Bearer sk_live_…`" + `. A key has capabilities, which never change; each operation names the one that it needs. On the administration socket of the host no key is needed.

**Bodies** are JSON objects of exactly the members that are documented. A member that is null counts as one that is not there.

**Errors** are problem documents (RFC 9457, ` + "`application/problem+json`" + `). The member ` + "`error`" + ` is one short sentence; ` + "`type`" + ` names the kind, and is the path where the server explains it:

`

// description is the head of the OpenAPI document, and how huma works here.
func description(version string) huma.Config {
	if version == "" {
		version = "development"
	}
	var list strings.Builder
	list.WriteString(introduction)
	list.WriteString("| type | status | meaning |\n| --- | --- | --- |\n")
	for _, k := range kinds {
		list.WriteString("| `" + problemPath + k.Name + "` | " + strconv.Itoa(k.Status) + " | " + k.Meaning + " |\n")
	}

	config := huma.DefaultConfig("Bureau", version)
	config.Info.Description = list.String()
	config.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		bearer: {Type: "http", Scheme: "bearer", Description: "An API key, sk_live_…"},
	}
	config.Tags = []*huma.Tag{
		{Name: tagDesktops, Description: "Desktops and their lives"},
		{Name: tagControl, Description: "Seeing and acting, while a desktop is running with agentReady true; 503 otherwise"},
		{Name: tagModels, Description: "The providers of the models that desktops use, and what these took"},
		{Name: tagChat, Description: "The AI agent of a desktop"},
		{Name: tagAccount, Description: "The caller"},
		{Name: tagOperator, Description: "Users and keys, for the operator on the administration socket"},
		{Name: tagService, Description: "The service itself"},
	}
	config.Formats = map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat}
	// The document is a route like the others; the pages that huma has for it load scripts from
	// elsewhere, and its links to schemas would add a member to every answer.
	config.OpenAPIPath, config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", "", nil
	return config
}

// schemaName is what the document calls a type: packages whose names say what their types are of lend
// it to them.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.PkgPath() {
	case reflect.TypeFor[provider.Provider]().PkgPath():
		return "Provider" + strings.TrimPrefix(name, "Provider")
	case reflect.TypeFor[usage.Row]().PkgPath():
		return "Usage" + name
	}
	return name
}

// problemResponse documents an error.
func (s *Server) problemResponse(status int) *huma.Response {
	kind := kindOf(codeOfStatus(status))
	response := &huma.Response{
		Description: kind.Meaning,
		Content: map[string]*huma.MediaType{
			"application/problem+json": {Schema: s.schema(reflect.TypeFor[Problem]())},
		},
	}
	switch status {
	case http.StatusUnauthorized:
		response.Headers = map[string]*huma.Param{"WWW-Authenticate": {Schema: &huma.Schema{Type: huma.TypeString}}}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		response.Headers = map[string]*huma.Param{"Retry-After": {Description: "Seconds to wait",
			Schema: &huma.Schema{Type: huma.TypeInteger}}}
	}
	return response
}

// schema is a reference to the schema of a type.
func (s *Server) schema(t reflect.Type) *huma.Schema {
	return s.api.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
}

func (s *Server) documentRoutes() {
	type document struct {
		ContentType string `header:"Content-Type" hidden:"true"`
		Body        []byte
	}
	register(s, anybody, huma.Operation{
		OperationID: "getOpenAPI", Method: http.MethodGet, Path: "/openapi.json", Tags: []string{tagService},
		Summary: "This document",
		Responses: map[string]*huma.Response{"200": {Description: "An OpenAPI 3.1 document",
			Content: jsonContent(&huma.Schema{Type: huma.TypeObject})}},
	}, func(context.Context, *struct{}) (*document, error) {
		return &document{ContentType: "application/json", Body: s.document}, nil
	})

	type kindPath struct {
		Name string `path:"name" doc:"The last part of the type" example:"not-found"`
	}
	type kindAnswer struct {
		Body Kind
	}
	register(s, anybody, huma.Operation{
		OperationID: "getProblem", Method: http.MethodGet, Path: problemPath + "{name}", Tags: []string{tagService},
		Summary: "Explain a type of problem", Errors: []int{http.StatusNotFound},
	}, func(_ context.Context, in *kindPath) (*kindAnswer, error) {
		for _, k := range kinds {
			if k.Name == in.Name {
				return &kindAnswer{k}, nil
			}
		}
		return nil, desktop.Errorf(desktop.NotFound, "there is no kind of problem %q", shorten(in.Name))
	})
}
