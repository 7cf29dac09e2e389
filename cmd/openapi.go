package cmd

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"bureau/desktop"
)

func (a *app) openapiCommand() *cobra.Command {
	return &cobra.Command{
		Use: "openapi", Short: "Print the API's OpenAPI 3.1 document", Args: cobra.NoArgs,
		Long: "Print the document that describes the API of this build, as /openapi.json serves it. No appliance has to run.",
		RunE: func(*cobra.Command, []string) error {
			if a.parts.OpenAPI == nil {
				return without("the API")
			}
			text, err := a.parts.OpenAPI()
			if err != nil {
				return err
			}
			return a.printJSON(json.RawMessage(text))
		},
	}
}

// without refuses a command that needs a part which this build does not have.
func without(part string) error {
	return desktop.Errorf(desktop.Unavailable,
		"this build of bureau is without %s: build it with cgo and -tags libvirt_dlopen, as make build does", part)
}
