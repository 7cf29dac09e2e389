package cmd

import (
	"fmt"

	"github.com/spf13/cobra"

	"bureau/cmd/config"
	"bureau/desktop"
)

func (a *app) configCommand() *cobra.Command {
	return &cobra.Command{
		Use: "config [NAME]", Short: "Show the settings in effect",
		Long: `Show the settings in effect, from the defaults, the configuration file and BUREAU_… variables,
or the value of one of them.`,
		Example: "  bureau config\n  bureau config listen",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			settings, err := a.configuration(nil)
			if err != nil {
				return err
			}
			values := settings.Values()
			if len(args) == 1 {
				for _, v := range values {
					if v.Name == args[0] {
						_, err := fmt.Fprintln(a.out, v.Value)
						return err
					}
				}
				return desktop.Errorf(desktop.NotFound, "there is no setting %q", args[0])
			}
			if a.json {
				return a.printJSON(values)
			}
			var rows [][]string
			for _, v := range values {
				rows = append(rows, []string{v.Name, v.Value, config.EnvName(v.Name)})
			}
			for i := range rows {
				if len(rows[i][0]) > 6 && rows[i][0][:6] == "tiers." {
					rows[i][2] = "-"
				}
			}
			return a.table([]string{"SETTING", "VALUE", "VARIABLE"}, rows)
		},
	}
}
