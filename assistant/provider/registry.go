package provider

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/desktop"
)

// Check asks an endpoint's model for a word and says in a sentence what answered; its error is a
// *model.Error.
type Check func(ctx context.Context, endpoint model.Endpoint) (string, error)

// testTimeout bounds the trying of a provider.
const testTimeout = time.Minute

// Registry is the providers and who may use them.
type Registry struct {
	store    Store
	vault    *Vault
	check    Check
	anywhere bool // users' own providers may be anywhere, too
	log      *slog.Logger
}

var _ assistant.Providers = (*Registry)(nil)

// NewRegistry makes one. anywhere lets users' own providers be at addresses that are not public.
func NewRegistry(store Store, vault *Vault, check Check, anywhere bool, log *slog.Logger) *Registry {
	return &Registry{store: store, vault: vault, check: check, anywhere: anywhere, log: log}
}

// Reseal brings all keys under the first master key, and tells the operator of those that none opens.
func (r *Registry) Reseal(ctx context.Context) error {
	all, err := r.store.AllProviders(ctx)
	if err != nil {
		return err
	}
	for _, record := range all {
		key, current, err := r.vault.open(record.ID, record.Sealed)
		switch {
		case err != nil:
			r.log.Error("a model provider's key cannot be opened; it has to be given anew", "provider", record.ID, "name", record.Name, "error", err)
			continue
		case current:
			continue
		}
		_, err = r.store.UpdateProvider(ctx, record.ID, func(now *Record) error {
			now.Sealed = r.vault.seal(record.ID, key)
			return nil
		})
		if err != nil && desktop.CodeOf(err) != desktop.NotFound {
			return fmt.Errorf("seal the key of provider %s anew: %w", record.ID, err)
		}
		r.log.Info("a model provider's key was sealed with the new master key", "provider", record.ID)
	}
	return nil
}

// scope is whose providers a caller means. owner, an id or an e-mail address, is the operator's to
// name.
func (r *Registry) scope(ctx context.Context, caller desktop.Caller, owner string) (Scope, error) {
	switch {
	case owner == "" && caller.Local:
		return Scope{}, nil
	case owner == "":
		return Scope{Owner: caller.User.ID}, nil
	case !caller.Local:
		return Scope{}, desktop.Errorf(desktop.Invalid, "owner: only the operator on the administration socket names one")
	}
	find := r.store.User
	if strings.Contains(owner, "@") {
		find = r.store.UserByEmail
	}
	user, err := find(ctx, owner)
	return Scope{Owner: user.ID}, err
}

// List is the caller's providers, the default one first. For the operator they are the appliance's,
// or those of a user whom owner names.
func (r *Registry) List(ctx context.Context, caller desktop.Caller, owner string) ([]Provider, error) {
	scope, err := r.scope(ctx, caller, owner)
	if err != nil {
		return nil, err
	}
	records, err := r.store.Providers(ctx, scope)
	if err != nil {
		return nil, err
	}
	list := make([]Provider, len(records))
	for i, record := range records {
		list[i] = record.Provider
		list[i].Default = i == 0
	}
	return list, nil
}

// find is a provider that the caller may know of.
func (r *Registry) find(ctx context.Context, caller desktop.Caller, id string) (Record, error) {
	record, err := r.store.Provider(ctx, id)
	if desktop.CodeOf(err) == desktop.NotFound || err == nil && (!caller.Owns(record.Owner) || record.DesktopID != "") {
		return Record{}, desktop.Errorf(desktop.NotFound, "there is no provider %s", short(id))
	}
	return record, err
}

// show is a provider as it is now.
func (r *Registry) show(ctx context.Context, record Record) (Provider, error) {
	records, err := r.store.Providers(ctx, Scope{record.Owner, record.DesktopID})
	if err != nil {
		return Provider{}, err
	}
	p := record.Provider
	p.Default = len(records) > 0 && records[0].ID == p.ID
	return p, nil
}

// Get is one provider.
func (r *Registry) Get(ctx context.Context, caller desktop.Caller, id string) (Provider, error) {
	record, err := r.find(ctx, caller, id)
	if err != nil {
		return Provider{}, err
	}
	return r.show(ctx, record)
}

// Create keeps a new provider.
func (r *Registry) Create(ctx context.Context, caller desktop.Caller, draft Draft) (Provider, error) {
	scope, err := r.scope(ctx, caller, draft.Owner)
	if err != nil {
		return Provider{}, err
	}
	record, key := fresh(scope, draft), string(draft.APIKey)
	record.Private = caller.Local
	if record.FallbackProvider, err = r.fallback(ctx, scope, "", draft.FallbackProvider); err != nil {
		return Provider{}, err
	}
	if draft.Default {
		record.PreferredAt = record.CreatedAt
	}
	if err := r.insert(ctx, record, key); err != nil {
		return Provider{}, err
	}
	r.log.Info("model provider added", "provider", record.ID, "owner", record.Owner, "kind", record.Kind, "model", record.Model)
	return r.show(ctx, r.sealed(record, key))
}

// fresh fills in a draft.
func fresh(scope Scope, draft Draft) Record {
	kind := kinds[draft.Kind]
	created := now()
	return Record{Provider: Provider{
		ID: newID(), Owner: scope.Owner, DesktopID: scope.DesktopID,
		Name: cmp.Or(draft.Name, string(draft.Kind)), Kind: draft.Kind,
		BaseURL: cmp.Or(strings.TrimRight(draft.BaseURL, "/"), kind.baseURL),
		Model:   cmp.Or(draft.Model, kind.model), FallbackModel: draft.FallbackModel,
		CreatedAt: created, UpdatedAt: created,
	}}
}

func (r *Registry) insert(ctx context.Context, record Record, key string) error {
	if err := check(record.Provider, key, record.Private || r.anywhere); err != nil {
		return err
	}
	return r.store.InsertProvider(ctx, r.sealed(record, key), maxProviders)
}

func (r *Registry) sealed(record Record, key string) Record {
	record.Sealed, record.KeyEnd = r.vault.seal(record.ID, key), keyEnd(key)
	return record
}

// fallback finds the provider that another of the same owner is to fall back on.
func (r *Registry) fallback(ctx context.Context, scope Scope, of, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	records, err := r.store.Providers(ctx, Scope{Owner: scope.Owner})
	if err != nil {
		return "", err
	}
	for _, record := range records {
		if record.ID == name || strings.EqualFold(record.Name, name) {
			if record.ID == of {
				return "", desktop.Errorf(desktop.Invalid, "fallbackProvider: it is the provider itself")
			}
			return record.ID, nil
		}
	}
	return "", desktop.Errorf(desktop.Invalid, "fallbackProvider: there is no provider %q of the same owner", short(name))
}

// Update changes a provider. A new address needs the key again, so that nobody who may change a
// provider can have its key sent elsewhere.
func (r *Registry) Update(ctx context.Context, caller desktop.Caller, id string, change Change) (Provider, error) {
	record, err := r.find(ctx, caller, id)
	if err != nil {
		return Provider{}, err
	}
	if change.FallbackProvider != nil {
		found, err := r.fallback(ctx, Scope{Owner: record.Owner}, id, *change.FallbackProvider)
		if err != nil {
			return Provider{}, err
		}
		change.FallbackProvider = &found
	}
	if change.Default != nil && !*change.Default {
		return Provider{}, desktop.Errorf(desktop.Invalid, "default: make another provider the default instead")
	}
	record, err = r.store.UpdateProvider(ctx, id, func(now *Record) error { return r.apply(now, change, caller.Local) })
	if err != nil {
		return Provider{}, err
	}
	return r.show(ctx, record)
}

func (r *Registry) apply(record *Record, change Change, operator bool) error {
	for _, field := range []struct {
		to   *string
		from *string
	}{
		{&record.Name, change.Name}, {&record.Model, change.Model},
		{&record.FallbackModel, change.FallbackModel}, {&record.FallbackProvider, change.FallbackProvider},
	} {
		if field.from != nil {
			*field.to = *field.from
		}
	}
	if change.BaseURL != nil {
		address := cmp.Or(strings.TrimRight(*change.BaseURL, "/"), kinds[record.Kind].baseURL)
		if address != record.BaseURL && change.APIKey == nil {
			return desktop.Errorf(desktop.Invalid, "baseUrl: give apiKey too; a key is sent nowhere but where it was given for")
		}
		if address != record.BaseURL {
			record.BaseURL, record.Private = address, operator
		}
	}
	var key string
	if change.APIKey != nil {
		key = string(*change.APIKey)
		*record = r.sealed(*record, key)
	} else {
		var err error
		if key, err = r.unseal(*record); err != nil {
			return err
		}
	}
	if change.Default != nil {
		record.PreferredAt = now()
	}
	record.UpdatedAt = now()
	return check(record.Provider, key, record.Private || r.anywhere)
}

// Delete forgets a provider and its key.
func (r *Registry) Delete(ctx context.Context, caller desktop.Caller, id string) error {
	if _, err := r.find(ctx, caller, id); err != nil {
		return err
	}
	if err := r.store.DeleteProvider(ctx, id); err != nil {
		return err
	}
	r.log.Info("model provider removed", "provider", id)
	return nil
}

// Test asks a provider's model for a word.
func (r *Registry) Test(ctx context.Context, caller desktop.Caller, id string) (Verdict, error) {
	record, err := r.find(ctx, caller, id)
	if err != nil {
		return Verdict{}, err
	}
	return r.test(ctx, record)
}

func (r *Registry) test(ctx context.Context, record Record) (Verdict, error) {
	key, err := r.unseal(record)
	if err != nil {
		return Verdict{}, err
	}
	trying, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	began := time.Now()
	answer, err := r.check(trying, endpoint(record, key, record.Model))
	verdict := Verdict{OK: err == nil, Message: answer, TookMs: float64(time.Since(began).Microseconds()) / 1000}
	var failure *model.Error
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return Verdict{}, ctx.Err()
	case trying.Err() != nil:
		verdict.Code, verdict.Message = string(model.Unreachable), fmt.Sprintf("it did not answer within %s", testTimeout)
	case errors.As(err, &failure):
		verdict.Code, verdict.Message = string(failure.Code), failure.Error()
	default:
		return Verdict{}, fmt.Errorf("trying provider %s: %w", record.ID, err)
	}
	return verdict, nil
}

// ofDesktop is the record of a desktop's own provider.
func (r *Registry) ofDesktop(ctx context.Context, caller desktop.Caller, desktopID string) (Scope, Record, error) {
	missing := desktop.Errorf(desktop.NotFound, "there is no desktop %s", short(desktopID))
	d, err := r.store.Desktop(ctx, desktopID)
	switch {
	case desktop.CodeOf(err) == desktop.NotFound:
		return Scope{}, Record{}, missing
	case err != nil:
		return Scope{}, Record{}, err
	case !caller.Owns(d.Owner) || !d.DestroyedAt.IsZero():
		return Scope{}, Record{}, missing
	}
	scope := Scope{Owner: d.Owner, DesktopID: d.ID}
	records, err := r.store.Providers(ctx, scope)
	if err != nil || len(records) == 0 {
		return scope, Record{}, err
	}
	return scope, records[0], nil
}

func noneOf(desktopID string) error {
	return desktop.Errorf(desktop.NotFound, "desktop %s has no provider of its own", short(desktopID))
}

// OfDesktop is a desktop's own provider; NotFound when it has none.
func (r *Registry) OfDesktop(ctx context.Context, caller desktop.Caller, desktopID string) (Provider, error) {
	_, record, err := r.ofDesktop(ctx, caller, desktopID)
	switch {
	case err != nil:
		return Provider{}, err
	case record.ID == "":
		return Provider{}, noneOf(desktopID)
	}
	record.Default = true
	return record.Provider, nil
}

// CheckConfig says what is wrong with a desktop's provider before it is there.
func (r *Registry) CheckConfig(caller desktop.Caller, config Config) error {
	record := fresh(Scope{}, config.draft())
	return check(record.Provider, string(config.APIKey), caller.Local || r.anywhere)
}

func (c Config) draft() Draft {
	return Draft{Kind: c.Kind, APIKey: c.APIKey, Model: c.Model, BaseURL: c.BaseURL, FallbackModel: c.FallbackModel}
}

// SetOfDesktop gives a desktop a provider of its own, in the place of the one it had.
func (r *Registry) SetOfDesktop(ctx context.Context, caller desktop.Caller, desktopID string, config Config) (Provider, error) {
	scope, former, err := r.ofDesktop(ctx, caller, desktopID)
	if err != nil {
		return Provider{}, err
	}
	record, key := fresh(scope, config.draft()), string(config.APIKey)
	record.Private = caller.Local
	if former.ID == "" {
		err = r.insert(ctx, record, key)
	} else {
		record.ID, record.CreatedAt = former.ID, former.CreatedAt
		if err = check(record.Provider, key, record.Private || r.anywhere); err == nil {
			_, err = r.store.UpdateProvider(ctx, former.ID, func(now *Record) error {
				*now = r.sealed(record, key)
				return nil
			})
		}
	}
	if err != nil {
		return Provider{}, err
	}
	r.log.Info("a desktop was given a model provider", "desktop", desktopID, "provider", record.ID, "kind", record.Kind, "model", record.Model)
	return r.OfDesktop(ctx, caller, desktopID)
}

// RemoveOfDesktop forgets a desktop's own provider; having none is success.
func (r *Registry) RemoveOfDesktop(ctx context.Context, caller desktop.Caller, desktopID string) error {
	_, record, err := r.ofDesktop(ctx, caller, desktopID)
	if err != nil || record.ID == "" {
		return err
	}
	return r.store.DeleteProvider(ctx, record.ID)
}

// TestOfDesktop asks the model of a desktop's own provider for a word.
func (r *Registry) TestOfDesktop(ctx context.Context, caller desktop.Caller, desktopID string) (Verdict, error) {
	_, record, err := r.ofDesktop(ctx, caller, desktopID)
	switch {
	case err != nil:
		return Verdict{}, err
	case record.ID == "":
		return Verdict{}, noneOf(desktopID)
	}
	return r.test(ctx, record)
}

// Endpoints implements assistant.Providers: the default provider of the nearest scope that has one,
// and what it falls back on.
func (r *Registry) Endpoints(ctx context.Context, owner, desktopID string) ([]model.Endpoint, error) {
	chains, err := r.Chains(ctx, owner, desktopID)
	if err != nil {
		return nil, err
	}
	return chains[0], nil
}

// Chains are the providers of the nearest scope that has any of these formats (any at all when none
// is named), in their order: of each the endpoints to be tried one after another, all of these
// formats. desktop.NotFound when nobody has configured any.
func (r *Registry) Chains(ctx context.Context, owner, desktopID string, formats ...model.Format) ([][]model.Endpoint, error) {
	for _, scope := range []Scope{{owner, desktopID}, {Owner: owner}, {}} {
		records, err := r.store.Providers(ctx, scope)
		if err != nil {
			return nil, err
		}
		var chains [][]model.Endpoint
		for _, record := range records {
			if !record.speaks(formats) {
				continue
			}
			chain, err := r.chain(record, records, formats)
			if err != nil {
				return nil, err
			}
			chains = append(chains, chain)
		}
		if len(chains) > 0 {
			return chains, nil
		}
	}
	return nil, desktop.Errorf(desktop.NotFound, "no model provider is configured for this desktop, its owner or this appliance: add one with \"bureau provider add\"")
}

// chain are the endpoints of a provider and of its fallbacks, which are among others.
func (r *Registry) chain(first Record, others []Record, formats []model.Format) ([]model.Endpoint, error) {
	var chain []model.Endpoint
	seen := map[string]bool{}
	for record, found := first, true; found && !seen[record.ID]; {
		seen[record.ID] = true
		if record.speaks(formats) {
			key, err := r.unseal(record)
			if err != nil {
				return nil, err
			}
			chain = append(chain, endpoint(record, key, record.Model))
			if record.FallbackModel != "" && record.FallbackModel != record.Model {
				chain = append(chain, endpoint(record, key, record.FallbackModel))
			}
		}
		next := slices.IndexFunc(others, func(o Record) bool { return o.ID == record.FallbackProvider })
		if found = next >= 0; found {
			record = others[next]
		}
	}
	return chain[:min(len(chain), maxChain)], nil
}

func endpoint(record Record, key, name string) model.Endpoint {
	return model.Endpoint{Format: record.Kind.Format(), BaseURL: record.BaseURL, Key: key, Model: name,
		Provider: record.ID, Private: record.Private}
}

func (r *Registry) unseal(record Record) (string, error) {
	key, _, err := r.vault.open(record.ID, record.Sealed)
	if err != nil {
		return "", desktop.Errorf(desktop.Unavailable, "the key of provider %s cannot be opened, since %w: give it anew", record.Name, err)
	}
	return key, nil
}

func newID() string {
	b := make([]byte, 10)
	rand.Read(b)
	return "prv-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

// now is the present, in the precision that the store and the API keep.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// short bounds what is echoed of a request.
func short(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}
