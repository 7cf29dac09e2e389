// Package provider is who lends models: the vendors, brokers and local servers that the operator,
// users and desktops have been given access to, with their keys.
//
// A provider belongs to the appliance, to a user or to one desktop. A [Registry] keeps them and finds
// those that a desktop may use; it is the one place where a key exists in the clear on its way from
// the person who gives it to the request that carries it. A [Vault] seals keys for the store, and
// [Clients] make the connections: what a user has named is reached at public addresses only.
//
// The package knows neither HTTP routes nor SQL.
package provider

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"bureau/assistant/model"
	"bureau/desktop"
)

// Kind is whose service a provider is, or like whose it speaks.
type Kind string

// The kinds of provider.
const (
	Anthropic  Kind = "anthropic"
	OpenAI     Kind = "openai"
	OpenAIChat Kind = "openai-chat" // any server that speaks OpenAI's Chat Completions
	Gemini     Kind = "gemini"
	OpenRouter Kind = "openrouter"
)

// kinds are what is known of each. Without an address here one must be given, without a model too.
var kinds = map[Kind]struct {
	format  model.Format
	baseURL string
	model   string
}{
	Anthropic:  {model.Anthropic, "https://api.anthropic.com", "claude-sonnet-5-5"},
	OpenAI:     {model.OpenAI, "https://api.openai.com/v1", "gpt-5.5"},
	OpenAIChat: {format: model.OpenAIChat},
	Gemini:     {model.Gemini, "https://generativelanguage.googleapis.com", "gemini-3.5-flash"},
	OpenRouter: {format: model.OpenAIChat, baseURL: "https://openrouter.ai/api/v1"},
}

// Kinds are all there are.
func Kinds() []Kind { return []Kind{Anthropic, OpenAI, OpenAIChat, Gemini, OpenRouter} }

// Format is what a kind speaks.
func (k Kind) Format() model.Format { return kinds[k].format }

// Provider is one as people see it: never with its key.
type Provider struct {
	ID        string `json:"id" example:"prv-4m2k8x6q"`
	Name      string `json:"name" doc:"Unique among its owner's"`
	Owner     string `json:"owner" doc:"Id of the user whose it is; empty for the appliance's own, which all desktops may use"`
	DesktopID string `json:"desktopId,omitempty" doc:"The one desktop that it is for"`
	Kind      Kind   `json:"provider" enum:"anthropic,openai,openai-chat,gemini,openrouter" doc:"Whose service it is; openai-chat is any server that speaks OpenAI's Chat Completions"`
	BaseURL   string `json:"baseUrl" doc:"Where it is"`
	Model     string `json:"model" doc:"The model, as the provider names it"`
	// The fallback is asked when this one is overloaded or failing.
	FallbackModel    string    `json:"fallbackModel,omitempty" doc:"The provider's model to ask when the first is overloaded or failing"`
	FallbackProvider string    `json:"fallbackProvider,omitempty" doc:"Id of the owner's provider to ask when this one is overloaded or failing"`
	KeyEnd           string    `json:"keyEnd,omitempty" doc:"The last characters of the key, to recognise it by; absent when there is none"`
	Default          bool      `json:"default" doc:"The one of its owner's that is asked first"`
	CreatedAt        time.Time `json:"createdAt"`
	UpdatedAt        time.Time `json:"updatedAt"`
}

// Secret is a key on its way in. It shows itself nowhere.
type Secret string

func (Secret) String() string               { return "[secret]" }
func (Secret) GoString() string             { return "[secret]" }
func (Secret) LogValue() slog.Value         { return slog.StringValue("[secret]") }
func (Secret) MarshalJSON() ([]byte, error) { return json.Marshal("[secret]") }

// Draft is a provider to be made.
type Draft struct {
	Name             string `json:"name,omitempty" maxLength:"63" doc:"The kind's when absent"`
	Kind             Kind   `json:"provider" enum:"anthropic,openai,openai-chat,gemini,openrouter" doc:"Whose service it is; openai-chat is any server that speaks OpenAI's Chat Completions"`
	APIKey           Secret `json:"apiKey,omitempty" maxLength:"4096" doc:"Kept sealed and never shown again; a server of your own may need none"`
	Model            string `json:"model,omitempty" maxLength:"200" doc:"As the provider names it; anthropic, openai and gemini have a default"`
	BaseURL          string `json:"baseUrl,omitempty" maxLength:"2048" doc:"The vendor's own when absent; openai-chat needs one"`
	FallbackModel    string `json:"fallbackModel,omitempty" maxLength:"200" doc:"The provider's model to ask when the first is overloaded or failing"`
	FallbackProvider string `json:"fallbackProvider,omitempty" maxLength:"63" doc:"Id or name of the owner's provider to ask when this one is overloaded or failing"`
	Default          bool   `json:"default,omitempty" doc:"Ask this one first from now on; a first provider is so by itself"`
	Owner            string `json:"owner,omitempty" maxLength:"254" doc:"Id or e-mail address of the user whose it is to be; only on the administration socket, where it is the appliance's own when absent"`
}

// Config is the provider of one desktop, in the hosted service's words.
type Config struct {
	Kind          Kind   `json:"provider" enum:"anthropic,openai,openai-chat,gemini,openrouter" doc:"Whose service it is; openai-chat is any server that speaks OpenAI's Chat Completions"`
	APIKey        Secret `json:"apiKey,omitempty" maxLength:"4096" doc:"Kept sealed, never shown again, and never in the desktop"`
	Model         string `json:"model,omitempty" maxLength:"200" doc:"As the provider names it; anthropic, openai and gemini have a default"`
	BaseURL       string `json:"baseUrl,omitempty" maxLength:"2048" doc:"The vendor's own when absent; openai-chat needs one"`
	FallbackModel string `json:"fallbackModel,omitempty" maxLength:"200" doc:"The provider's model to ask when the first is overloaded or failing"`

	EmbeddingsAPIKey Secret `json:"embeddingsApiKey,omitempty" maxLength:"4096" doc:"Taken for the hosted service's sake and dropped: nothing here makes embeddings"`
	EmbeddingsModel  string `json:"embeddingsModel,omitempty" maxLength:"200" doc:"Taken for the hosted service's sake and dropped"`
}

// Change is what may be changed of a provider; nil leaves a field as it is.
type Change struct {
	Name             *string `json:"name,omitempty" maxLength:"63"`
	APIKey           *Secret `json:"apiKey,omitempty" maxLength:"4096" doc:"The new key"`
	Model            *string `json:"model,omitempty" maxLength:"200"`
	BaseURL          *string `json:"baseUrl,omitempty" maxLength:"2048" doc:"Needs apiKey too: a key is sent nowhere but where it was given for"`
	FallbackModel    *string `json:"fallbackModel,omitempty" maxLength:"200" doc:"Empty for none"`
	FallbackProvider *string `json:"fallbackProvider,omitempty" maxLength:"63" doc:"Id or name of another of the owner's; empty for none"`
	Default          *bool   `json:"default,omitempty" doc:"true asks this one first from now on"`
}

// Verdict is what came of trying a provider.
type Verdict struct {
	OK      bool    `json:"ok"`
	Code    string  `json:"code,omitempty" example:"unauthorized" doc:"The kind of failure"`
	Message string  `json:"message" doc:"What answered, or what is wrong"`
	TookMs  float64 `json:"tookMs"`
}

const (
	maxProviders = 50 // of one owner
	maxChain     = 4  // endpoints that are tried for one request
	shownKey     = 4  // characters of a key
	leastShown   = 16 // of a key, for its end to be shown
	maxKey       = 4096
	maxModel     = 200
	maxURL       = 2048
)

// check says what is wrong with a provider and its key. operator tells that the operator made it.
func check(p Provider, key string, unlimited bool) error {
	if err := desktop.CheckName(p.Name); err != nil {
		return err
	}
	if _, ok := kinds[p.Kind]; !ok {
		return desktop.Errorf(desktop.Invalid, "provider: expected one of %v", Kinds())
	}
	if err := checkModel("model", p.Model); err != nil {
		return err
	}
	if p.FallbackModel != "" {
		if err := checkModel("fallbackModel", p.FallbackModel); err != nil {
			return err
		}
	}
	if err := checkURL(p.BaseURL, unlimited); err != nil {
		return err
	}
	return checkKey(p, key)
}

func checkModel(field, name string) error {
	switch {
	case name == "":
		return desktop.Errorf(desktop.Invalid, "%s: say which model, as the provider names it", field)
	case len(name) > maxModel:
		return desktop.Errorf(desktop.Invalid, "%s is longer than %d characters", field, maxModel)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
		return desktop.Errorf(desktop.Invalid, "%s has characters that no model's name has", field)
	}
	return nil
}

// checkURL says what is wrong with an address. That of a user, who is not unlimited, is encrypted and
// public; where its name leads is looked at when it is used.
func checkURL(address string, unlimited bool) error {
	u, err := url.Parse(address)
	switch {
	case address == "":
		return desktop.Errorf(desktop.Invalid, "baseUrl: say where the server is, such as https://models.example.org/v1")
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || len(address) > maxURL:
		return desktop.Errorf(desktop.Invalid, "baseUrl: expected an address such as https://models.example.org/v1")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return desktop.Errorf(desktop.Invalid, "baseUrl: expected an address without a user, a query and a fragment")
	case unlimited:
		return nil
	case u.Scheme != "https":
		return desktop.Errorf(desktop.Invalid, "baseUrl: expected https, since the key travels with every request")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !public(ip) {
		return desktop.Errorf(desktop.Invalid, "baseUrl: %s is not a public address; the operator of this appliance may allow others", ip)
	}
	return nil
}

func checkKey(p Provider, key string) error {
	switch {
	case len(key) > maxKey:
		return desktop.Errorf(desktop.Invalid, "apiKey is longer than %d characters", maxKey)
	case strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }):
		return desktop.Errorf(desktop.Invalid, "apiKey has characters that no key has")
	case key == "" && (p.Kind == Gemini || p.BaseURL == kinds[p.Kind].baseURL):
		return desktop.Errorf(desktop.Invalid, "apiKey: %s needs one", p.Kind)
	}
	return nil
}

// keyEnd is what is shown of a key: little of a long one, nothing of a short one.
func keyEnd(key string) string {
	if len(key) < leastShown {
		return ""
	}
	return key[len(key)-shownKey:]
}

// speaks tells whether a provider's format is one of those.
func (p Provider) speaks(formats []model.Format) bool {
	return len(formats) == 0 || slices.Contains(formats, p.Kind.Format())
}
