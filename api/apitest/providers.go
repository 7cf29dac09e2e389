package apitest

import (
	"context"
	"fmt"
	"slices"

	"bureau/assistant/provider"
	"bureau/assistant/usage"
	"bureau/desktop"
)

// Providers is a World's model providers, which keep no keys.
type Providers struct{ w *World }

// Providers are the world's.
func (w *World) Providers() *Providers { return &Providers{w} }

// AddProvider makes a provider of a user, or of a desktop of theirs.
func (w *World) AddProvider(id, owner, desktopID string) provider.Provider {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := provider.Provider{ID: id, Name: id, Owner: owner, DesktopID: desktopID, Kind: provider.Anthropic, BaseURL: "https://api.anthropic.com",
		Model: "claude-sonnet-5-5", KeyEnd: "cdef", CreatedAt: Epoch, UpdatedAt: Epoch}
	w.providers = append(w.providers, p)
	return p
}

// find is the place of a provider that the caller may know of. The lock is held.
func (p *Providers) find(caller desktop.Caller, ok func(provider.Provider) bool) (int, error) {
	i := slices.IndexFunc(p.w.providers, func(one provider.Provider) bool { return caller.Owns(one.Owner) && ok(one) })
	if i < 0 {
		return 0, desktop.Errorf(desktop.NotFound, "there is no such provider")
	}
	return i, nil
}

func byID(id string) func(provider.Provider) bool {
	return func(p provider.Provider) bool { return p.ID == id && p.DesktopID == "" }
}

func ofDesktop(id string) func(provider.Provider) bool {
	return func(p provider.Provider) bool { return p.DesktopID == id }
}

func (p *Providers) List(_ context.Context, caller desktop.Caller, owner string) ([]provider.Provider, error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if owner == "" {
		owner = caller.User.ID
	}
	var list []provider.Provider
	for _, one := range p.w.providers {
		if one.Owner == owner && one.DesktopID == "" {
			list = append(list, one)
		}
	}
	return list, p.w.enter("ListProviders")
}

func (p *Providers) get(caller desktop.Caller, ok func(provider.Provider) bool) (provider.Provider, error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	i, err := p.find(caller, ok)
	if err != nil {
		return provider.Provider{}, err
	}
	return p.w.providers[i], nil
}

func (p *Providers) Get(_ context.Context, caller desktop.Caller, id string) (provider.Provider, error) {
	return p.get(caller, byID(id))
}

func (p *Providers) Create(_ context.Context, caller desktop.Caller, draft provider.Draft) (provider.Provider, error) {
	p.w.mu.Lock()
	p.w.next++
	id := fmt.Sprint("prv-new", p.w.next)
	err := p.w.enter("CreateProvider")
	p.w.mu.Unlock()
	if err != nil {
		return provider.Provider{}, err
	}
	return p.w.AddProvider(id, caller.User.ID, ""), nil
}

func (p *Providers) Update(_ context.Context, caller desktop.Caller, id string, change provider.Change) (provider.Provider, error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	i, err := p.find(caller, byID(id))
	if err != nil {
		return provider.Provider{}, err
	}
	if change.Model != nil {
		p.w.providers[i].Model = *change.Model
	}
	return p.w.providers[i], nil
}

func (p *Providers) remove(caller desktop.Caller, ok func(provider.Provider) bool) error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	i, err := p.find(caller, ok)
	if err == nil {
		p.w.providers = slices.Delete(p.w.providers, i, i+1)
	}
	return err
}

func (p *Providers) Delete(_ context.Context, caller desktop.Caller, id string) error {
	return p.remove(caller, byID(id))
}

func (p *Providers) test(caller desktop.Caller, ok func(provider.Provider) bool) (provider.Verdict, error) {
	_, err := p.get(caller, ok)
	return provider.Verdict{OK: true, Message: "The model answers.", TookMs: 1.5}, err
}

func (p *Providers) Test(_ context.Context, caller desktop.Caller, id string) (provider.Verdict, error) {
	return p.test(caller, byID(id))
}

func (p *Providers) CheckConfig(_ desktop.Caller, config provider.Config) error {
	if config.APIKey == "" {
		return desktop.Errorf(desktop.Invalid, "apiKey: %s needs one", config.Kind)
	}
	return nil
}

func (p *Providers) OfDesktop(_ context.Context, caller desktop.Caller, id string) (provider.Provider, error) {
	return p.get(caller, ofDesktop(id))
}

func (p *Providers) SetOfDesktop(_ context.Context, caller desktop.Caller, id string, _ provider.Config) (provider.Provider, error) {
	p.w.mu.Lock()
	err := p.w.enter("SetProvider")
	i, missing := p.find(caller, ofDesktop(id))
	if err == nil && missing == nil {
		defer p.w.mu.Unlock()
		return p.w.providers[i], nil
	}
	p.w.mu.Unlock()
	if err != nil {
		return provider.Provider{}, err
	}
	return p.w.AddProvider("prv-of-"+id, caller.User.ID, id), nil
}

func (p *Providers) RemoveOfDesktop(_ context.Context, caller desktop.Caller, id string) error {
	err := p.remove(caller, ofDesktop(id))
	if desktop.CodeOf(err) == desktop.NotFound {
		return nil
	}
	return err
}

func (p *Providers) TestOfDesktop(_ context.Context, caller desktop.Caller, id string) (provider.Verdict, error) {
	return p.test(caller, ofDesktop(id))
}

// Usage is one row for each of the caller's desktops.
func (w *World) Usage(_ context.Context, caller desktop.Caller, query usage.Query) ([]usage.Row, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var rows []usage.Row
	for _, d := range w.desktops {
		if caller.Owns(d.Owner) && (query.DesktopID == "" || query.DesktopID == d.ID) {
			row := usage.Row{Owner: d.Owner, DesktopID: d.ID, Provider: "prv-1", Format: "anthropic", Model: "claude-sonnet-5-5", Requests: 1}
			row.Input, row.Output = 10, 20
			rows = append(rows, row)
		}
	}
	return rows, w.enter("Usage")
}
