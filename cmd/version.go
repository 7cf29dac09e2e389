package cmd

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// version is set by the linker: -X bureau/cmd.version=….
var version string

// Version names this build: what the linker was told, or else the commit.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	commit, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "-modified"
		}
	}
	if commit == "" {
		return "development"
	}
	return commit + modified
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var without []string
			if a.parts.Images == nil {
				without = append(without, "libvirt")
			}
			if a.json {
				text, err := json.Marshal(map[string]any{"version": Version(), "go": runtime.Version(),
					"platform": runtime.GOOS + "/" + runtime.GOARCH, "libvirt": a.parts.Images != nil})
				if err != nil {
					return err
				}
				return a.printJSON(json.RawMessage(text))
			}
			note := ""
			if len(without) > 0 {
				note = ", without " + strings.Join(without, ", ")
			}
			_, err := fmt.Fprintf(a.out, "bureau %s (%s, %s/%s%s)\n", Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH, note)
			return err
		},
	}
}
