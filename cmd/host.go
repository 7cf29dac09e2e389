package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"bureau/desktop"
)

func (a *app) hostCommand() *cobra.Command {
	return &cobra.Command{
		Use: "host", Short: "Show what this host has, and how much of it is free for desktops",
		Long: `Show what the host has, what of it is promised to desktops and what is free. A desktop that
needs more than is free is refused when it is made or started. How much may be promised is set by
capacity.memory, capacity.vcpusPerCPU and capacity.disk.

Memory and processors are promised to desktops that run, disk to all. UNUSED is what the host has
to give right now, whoever it is promised to.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := a.remote()
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := r.call(c.Context(), request{method: http.MethodGet, path: "/v1/admin/host"}, &raw); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(raw)
			}
			var host desktop.HostState
			if err := json.Unmarshal(raw, &host); err != nil {
				return fmt.Errorf("the appliance's answer is not what the API promises: %w", err)
			}
			count := func(n int64) string { return strconv.FormatInt(n, 10) }
			err = a.table([]string{"", "HOST", "UNUSED", "FOR DESKTOPS", "PROMISED", "FREE"}, [][]string{
				resourceRow("memory", host.Memory, humanBytes), resourceRow("processors", host.VCPUs, count), resourceRow("disk", host.Disk, humanBytes),
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "\n%d of %d desktops run.\n", host.Running, host.Desktops)
			return err
		},
	}
}

// resourceRow is one thing of the host's in a table.
func resourceRow(name string, r desktop.Resource, amount func(int64) string) []string {
	or := func(n *int64, none string) string {
		if n == nil {
			return none
		}
		return amount(*n)
	}
	return []string{name, amount(r.Total), or(r.Available, ""), or(r.Limit, "any"), amount(r.Reserved), or(r.Free, "any")}
}

// checkCapacity tells whether there is room for another desktop; ok is false where that cannot be asked,
// as by somebody who is not the operator.
func (a *app) checkCapacity(ctx context.Context) (check Check, ok bool) {
	r, err := a.remote()
	if err != nil {
		return Check{}, false
	}
	var host desktop.HostState
	if err := r.call(ctx, request{method: http.MethodGet, path: "/v1/admin/host"}, &host); err != nil {
		return Check{}, false
	}
	free := func(r desktop.Resource, amount func(int64) string) string {
		if r.Free == nil {
			return "any amount"
		}
		return amount(*r.Free)
	}
	check = Check{Name: "capacity", OK: true, Detail: fmt.Sprintf("%d of %d desktops run; free for more are %s of memory, %s of processors, %s of disk",
		host.Running, host.Desktops, free(host.Memory, humanBytes), free(host.VCPUs, func(n int64) string { return strconv.FormatInt(n, 10) }), free(host.Disk, humanBytes))}
	for _, r := range []struct {
		desktop.Resource
		name, setting string
		least         int64
	}{
		{host.Memory, "memory", "memory", leastFreeMemory}, {host.VCPUs, "processors", "vcpusPerCPU", 1}, {host.Disk, "disk", "disk", leastFreeDisk},
	} {
		if r.Free != nil && *r.Free < r.least {
			check.OK, check.Warning = false, true
			check.Fix = "stop or destroy desktops (bureau host shows what they have), or set capacity." + r.setting
			check.Detail += "; there is too little " + r.name + " for another one"
		}
	}
	return check, true
}

// What the smallest tier of desktop can have.
const (
	leastFreeMemory = 512 << 20
	leastFreeDisk   = 1 << 30
)
