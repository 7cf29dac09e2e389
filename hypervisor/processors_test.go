package hypervisor

import (
	"testing"

	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

// What a machine uses of the processors is seen, and libvirt gives one that yields less than others for
// as long as it is on.
func TestYield(t *testing.T) {
	h := openTest(t, testOptions(t))
	ctx := testContext(t)
	spec := testSpec(importEmpty(t, h, "empty"))
	wantCode(t, h.Yield(ctx, spec.ID, true), desktop.NotFound)
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	shares := func() (shares uint64) {
		t.Helper()
		domain(t, h, spec.ID, func(d *libvirt.Domain) error {
			parameters, err := d.GetSchedulerParametersFlags(libvirt.DOMAIN_AFFECT_LIVE)
			if err == nil {
				shares = parameters.CpuShares
			}
			return err
		})
		return shares
	}
	ordinary := shares()
	for _, yields := range []bool{false, true, true, false} {
		if err := h.Yield(ctx, spec.ID, yields); err != nil {
			t.Fatal(err)
		}
		want := ordinary
		if yields {
			want /= yieldingPart
		}
		if got := shares(); got != want {
			t.Errorf("it yields: %v; it has %d shares, want %d where %d are ordinary", yields, got, want, ordinary)
		}
	}

	// Its firmware looks for something to boot from, all the time.
	first, err := h.Processors(ctx)
	if err != nil {
		t.Fatal(err)
	}
	then := first
	for then.Machines[spec.ID] == first.Machines[spec.ID] { // until ctx ends at the latest
		if then, err = h.Processors(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if first.Processors < 1 || then.Idle < first.Idle || then.Machines[spec.ID] <= first.Machines[spec.ID] || len(then.Machines) != 1 {
		t.Errorf("%+v, then %+v", first, then)
	}

	if err := h.Yield(ctx, spec.ID, true); err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(ctx, spec.ID, 0); err != nil {
		t.Fatal(err)
	}
	wantCode(t, h.Yield(ctx, spec.ID, false), desktop.NotFound)
	if use, err := h.Processors(ctx); err != nil || len(use.Machines) != 0 {
		t.Errorf("%+v, %v of machines that are off", use, err)
	}
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	if got := shares(); got != ordinary {
		t.Errorf("turned on again it has %d shares", got)
	}
}
