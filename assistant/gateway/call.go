package gateway

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"bureau/assistant/model"
)

// vendor is whose words a request is in.
type vendor string

const (
	anthropic vendor = "anthropic"
	openai    vendor = "openai"
	gemini    vendor = "gemini"
)

// call is a request that the gateway lets through: what is left of it when all that is not known by
// name has been dropped.
type call struct {
	vendor    vendor
	method    string
	version   string // v1, v1beta
	path      string // below the version, as in "messages"; a Gemini action is apart
	action    string // of Gemini
	model     string
	generates bool // it asks a model for an answer, and takes a body
	counts    bool // it takes a body, and costs nothing
	query     url.Values
	hideUsage bool // the guest did not ask for the usage that the gateway asks for
}

func (c call) name() string {
	if c.vendor == "" {
		return ""
	}
	path := c.path
	if c.method == http.MethodGet || c.action != "" {
		path = "models" // their names may be anything
	}
	return c.method + " /" + string(c.vendor) + "/" + path + c.action
}

// formats are those of the providers that can answer. OpenAI's own service speaks both of its formats.
func (c call) formats() []model.Format {
	switch {
	case c.vendor == anthropic:
		return []model.Format{model.Anthropic}
	case c.vendor == gemini:
		return []model.Format{model.Gemini}
	case c.path == "responses":
		return []model.Format{model.OpenAI}
	}
	return []model.Format{model.OpenAI, model.OpenAIChat}
}

// maxTarget bounds the path and the query of a request.
const maxTarget = 2048

var (
	// plain are paths of characters that mean themselves: nothing is encoded, no segment is empty or
	// begins with a dot.
	plain = regexp.MustCompile(`^(/[A-Za-z0-9][A-Za-z0-9._:@-]*)+$`)
	hosts = regexp.MustCompile(`^(127\.0\.0\.1|localhost)(:[0-9]{1,5})?$`)
)

// parse finds what a request asks for; all else is refused. c has the vendor as soon as it is known.
func parse(r *http.Request) (c call, err error) {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	c.vendor = vendorOf(path)
	notFound := deny(http.StatusNotFound, "this gateway has no such path: it lends models and nothing else")
	switch {
	case len(r.RequestURI) > maxTarget:
		return c, deny(http.StatusRequestURITooLong, "the path is longer than %d bytes", maxTarget)
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace || !strings.HasPrefix(path, "/"):
		return c, deny(http.StatusMethodNotAllowed, "this is no proxy")
	case c.vendor == "" || !plain.MatchString(path):
		return c, notFound
	case r.Header.Get("Upgrade") != "" || strings.Contains(strings.ToLower(strings.Join(r.Header.Values("Connection"), ",")), "upgrade"):
		return c, deny(http.StatusBadRequest, "this gateway does not upgrade connections")
	case !hosts.MatchString(r.Host):
		return c, deny(http.StatusMisdirectedRequest, "this gateway answers at 127.0.0.1 and localhost alone")
	case r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "":
		// A page that a browser in the desktop has open must not spend what the desktop may spend.
		return c, deny(http.StatusForbidden, "this gateway does not serve web pages")
	}
	given, err := url.ParseQuery(query)
	if err != nil {
		return c, deny(http.StatusBadRequest, "the query cannot be read")
	}
	c.method = r.Method
	rest := strings.TrimPrefix(path, "/"+string(c.vendor)+"/")
	var known bool
	if c.version, c.path, known = strings.Cut(rest, "/"); !known {
		return c, notFound
	}
	var allowed []string
	switch c.vendor {
	case anthropic:
		known, allowed = c.parseAnthropic()
	case openai:
		known = c.parseOpenAI()
	case gemini:
		known, allowed = c.parseGemini()
	}
	if !known {
		return c, notFound
	}
	want := http.MethodGet
	if c.generates || c.counts {
		want = http.MethodPost
	}
	if c.method != want {
		return c, deny(http.StatusMethodNotAllowed, "this path is for %s", want)
	}
	c.query = url.Values{}
	for _, name := range allowed {
		if given.Has(name) {
			c.query.Set(name, given.Get(name))
		}
	}
	return c, nil
}

func vendorOf(path string) vendor {
	for _, v := range []vendor{anthropic, openai, gemini} {
		if strings.HasPrefix(path, "/"+string(v)+"/") {
			return v
		}
	}
	return ""
}

// models matches the listing of models, and one of them.
func (c *call) models(deep bool) bool {
	name, one := strings.CutPrefix(c.path, "models/")
	if !one {
		return c.path == "models"
	}
	c.model = name
	return deep && strings.Count(name, "/") < 4 || !strings.Contains(name, "/")
}

func (c *call) parseAnthropic() (bool, []string) {
	switch {
	case c.version != "v1":
		return false, nil
	case c.path == "messages":
		c.generates = true
	case c.path == "messages/count_tokens":
		c.counts = true
	default:
		return c.models(false), []string{"beta", "limit", "after_id", "before_id"}
	}
	return true, []string{"beta"}
}

func (c *call) parseOpenAI() bool {
	if c.version != "v1" {
		return false
	}
	c.generates = c.path == "responses" || c.path == "chat/completions"
	return c.generates || c.models(true) // brokers' names have slashes
}

func (c *call) parseGemini() (bool, []string) {
	if !slices.Contains([]string{"v1", "v1beta", "v1alpha"}, c.version) || !c.models(false) {
		return false, nil
	}
	name, action, acts := strings.Cut(c.model, ":")
	if !acts {
		return true, []string{"pageSize", "pageToken"}
	}
	c.model, c.path, c.action = name, "models/"+name, action
	switch action {
	case "generateContent", "streamGenerateContent":
		c.generates = true
	case "countTokens":
		c.counts = true
	default:
		return false, nil
	}
	return true, []string{"alt"}
}

// target is where an endpoint has what is asked for. Base URLs are given with their version and
// without.
func (c call) target(endpoint model.Endpoint, name string) (string, error) {
	base, err := url.Parse(strings.TrimRight(endpoint.BaseURL, "/"))
	if err != nil || base.Host == "" {
		return "", fmt.Errorf("the address of provider %s cannot be read", endpoint.Provider)
	}
	path := strings.TrimRight(base.Path, "/")
	switch c.vendor {
	case openai:
		if path == "" {
			path = "/" + c.version
		}
		path += "/" + c.path
	case anthropic:
		path = strings.TrimSuffix(path, "/v1") + "/" + c.version + "/" + c.path
	case gemini:
		path = strings.TrimSuffix(path, "/v1beta") + "/" + c.version + "/"
		if c.action == "" {
			path += c.path
		} else {
			path += "models/" + name + ":" + c.action
		}
	}
	return (&url.URL{Scheme: base.Scheme, Host: base.Host, Path: path, RawQuery: c.query.Encode()}).String(), nil
}

// request is what is asked of an endpoint, for a model of that name.
func (c call) request(ctx context.Context, endpoint model.Endpoint, name string, sent *object, given http.Header) (*http.Request, error) {
	target, err := c.target(endpoint, name)
	if err != nil {
		return nil, err
	}
	var body []byte
	if sent != nil {
		if c.action == "" && name != c.model {
			sent = sent.with("model", quote(name))
		}
		body = sent.text
	}
	request, err := http.NewRequestWithContext(ctx, c.method, target, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("asking provider %s: %w", endpoint.Provider, err)
	}
	request.Header = c.headers(endpoint, given)
	if sent != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

// passed are the headers that go on to a provider, besides those that the gateway makes.
var passed = map[vendor][]string{
	anthropic: {"Accept", "User-Agent", "Anthropic-Version", "Anthropic-Beta"},
	openai:    {"Accept", "User-Agent", "Openai-Beta"},
	gemini:    {"Accept", "User-Agent"},
}

func (c call) headers(endpoint model.Endpoint, given http.Header) http.Header {
	header := http.Header{"Accept-Encoding": {"identity"}, "User-Agent": {"bureau"}}
	for _, name := range passed[c.vendor] {
		if values := given.Values(name); len(values) > 0 {
			header[name] = slices.Clone(values)
		}
	}
	if c.vendor == anthropic && header.Get("Anthropic-Version") == "" {
		header.Set("Anthropic-Version", "2023-06-01")
	}
	if endpoint.Key == "" {
		return header
	}
	switch c.vendor {
	case anthropic:
		header.Set("X-Api-Key", endpoint.Key)
		if !strings.HasSuffix(hostOf(endpoint.BaseURL), ".anthropic.com") {
			header.Set("Authorization", "Bearer "+endpoint.Key) // as others who speak like it want it
		}
	case openai:
		header.Set("Authorization", "Bearer "+endpoint.Key)
	case gemini:
		header.Set("X-Goog-Api-Key", endpoint.Key)
	}
	return header
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// returned are the headers of an answer that go on to the guest. Others tell of the account.
var returned = []string{"Content-Type", "Retry-After", "Retry-After-Ms", "X-Should-Retry", "Request-Id", "X-Request-Id"}

func copyHeaders(to, from http.Header) {
	for _, name := range returned {
		if values := from.Values(name); len(values) > 0 {
			to[name] = slices.Clone(values)
		}
	}
	to.Set("Cache-Control", "no-store")
	to.Set("X-Content-Type-Options", "nosniff")
}
