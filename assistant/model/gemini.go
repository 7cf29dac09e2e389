package model

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/genai"
)

// generateContent speaks Gemini's generateContent.
type generateContent struct {
	models *genai.Models
	model  string
}

func newGemini(endpoint Endpoint, client *http.Client) (*generateContent, error) {
	// The backend, the key and the base URL are all given, so none comes from the environment.
	c, err := genai.NewClient(context.Background(), &genai.ClientConfig{
		Backend: genai.BackendGeminiAPI, APIKey: endpoint.Key, HTTPClient: client,
		HTTPOptions: genai.HTTPOptions{BaseURL: endpoint.base("https://generativelanguage.googleapis.com", "v1beta", false), APIVersion: "v1beta"},
	})
	if err != nil {
		return nil, &Error{Code: Invalid, Message: "the client of Gemini cannot be made"} // its error may show the configuration
	}
	return &generateContent{c.Models, endpoint.Model}, nil
}

// geminiOpaque is what Gemini wants back with a call. A call may come without an id, and then goes
// back without.
type geminiOpaque struct {
	ID        string `json:"id,omitempty"`
	Signature []byte `json:"signature,omitempty"`
}

// unsigned stands for the signature of a call that Gemini has not made; the value is Google's.
const unsigned = "skip_thought_signature_validator"

func (g *generateContent) next(ctx context.Context, request Request, tell func(Delta)) (Response, error) {
	functions := map[string]bool{}
	for _, tool := range request.Tools {
		functions[tool.Name] = true
	}
	contents, err := g.contents(request.Messages)
	if err != nil {
		return Response{}, &Error{Code: Invalid, Message: "the conversation cannot be given to Gemini", Cause: err}
	}
	next, stop := iter.Pull2(g.models.GenerateContentStream(ctx, g.model, contents, g.config(request)))
	defer stop()

	var response Response
	var reading geminiReading
	finished := false
	for {
		chunk, err, ok := pull(next)
		if !ok {
			break
		}
		var refused genai.APIError
		if errors.As(err, &refused) {
			body, _ := json.Marshal(map[string]any{"error": refused}) // plain values
			return Response{}, classify(0, nil, body)
		}
		if err != nil {
			return Response{}, err
		}
		if chunk.ModelVersion != "" {
			response.Model = chunk.ModelVersion
		}
		if u := chunk.UsageMetadata; u != nil { // the sums so far
			response.Usage = Usage{
				Input:     int64(max(0, u.PromptTokenCount+u.ToolUsePromptTokenCount-u.CachedContentTokenCount)),
				CacheRead: int64(u.CachedContentTokenCount),
				Output:    int64(u.CandidatesTokenCount + u.ThoughtsTokenCount),
			}
		}
		if f := chunk.PromptFeedback; f != nil && f.BlockReason != "" {
			response.Stop, finished = Refusal, true
		}
		if len(chunk.Candidates) == 0 {
			continue
		}
		candidate := chunk.Candidates[0]
		if candidate.Content != nil {
			for _, part := range candidate.Content.Parts {
				if part == nil {
					continue
				}
				if err := reading.read(part, functions, request.Computer != nil, tell); err != nil {
					return Response{}, err
				}
			}
		}
		if candidate.FinishReason != "" && candidate.FinishReason != genai.FinishReasonUnspecified {
			finished = true
			if response.Stop, err = geminiStop(candidate); err != nil {
				return Response{}, err
			}
		}
	}
	if !finished {
		return Response{}, errCut()
	}
	response.Message.Parts = reading.parts
	return response, nil
}

// pull takes the next chunk. The SDK takes an answer of another shape than it expects for a
// programmer's error and panics; it is the provider's.
func pull(next func() (*genai.GenerateContentResponse, error, bool)) (chunk *genai.GenerateContentResponse, err error, ok bool) {
	defer func() {
		if recovered := recover(); recovered != nil {
			chunk, err, ok = nil, fmt.Errorf("reading an event: %v", recovered), true
		}
	}()
	chunk, err, ok = next()
	if ok && err == nil && chunk == nil {
		err = errors.New("an event without content")
	}
	return chunk, err, ok
}

func geminiStop(candidate *genai.Candidate) (Stop, error) {
	switch candidate.FinishReason {
	case genai.FinishReasonMaxTokens, genai.FinishReasonContinuation:
		return MaxTokens, nil
	case genai.FinishReasonSafety, genai.FinishReasonRecitation, genai.FinishReasonLanguage, genai.FinishReasonBlocklist,
		genai.FinishReasonProhibitedContent, genai.FinishReasonSPII, genai.FinishReasonImageSafety:
		return Refusal, nil
	case genai.FinishReasonMalformedFunctionCall, genai.FinishReasonUnexpectedToolCall, genai.FinishReasonTooManyToolCalls:
		return "", &Error{Code: Malformed, Message: "the model made a call that cannot be read (" + string(candidate.FinishReason) + ")"}
	case genai.FinishReasonOther:
		return "", &Error{Code: Overloaded, Message: "the model stopped without saying why"}
	}
	return EndTurn, nil
}

// geminiReading puts the pieces of a message together.
type geminiReading struct{ parts []Part }

func (r *geminiReading) read(part *genai.Part, functions map[string]bool, computer bool, tell func(Delta)) error {
	last := func() *Part {
		if len(r.parts) == 0 {
			return &Part{}
		}
		return &r.parts[len(r.parts)-1]
	}
	switch {
	case part.FunctionCall != nil:
		call, err := geminiCall(part, functions, computer)
		if err != nil {
			return err
		}
		r.parts = append(r.parts, Part{Call: call})
		tell(Delta{Call: &CallDelta{ID: call.ID, Tool: call.Tool}})
		tell(Delta{Call: &CallDelta{ID: call.ID, Tool: call.Tool, Arguments: string(call.Arguments)}})
		return nil
	case part.Thought:
		if part.Text == "" {
			return nil
		}
		if l := last(); l.Reasoning != nil && l.Reasoning.Opaque == nil {
			l.Reasoning.Text += part.Text
		} else {
			r.parts = append(r.parts, Part{Reasoning: &Reasoning{Text: part.Text, Format: Gemini}})
		}
		tell(Delta{Reasoning: part.Text})
		return nil
	case part.Text != "":
		if l := last(); l.Text != "" {
			l.Text += part.Text
		} else {
			r.parts = append(r.parts, Part{Text: part.Text})
		}
		tell(Delta{Text: part.Text})
	}
	if len(part.ThoughtSignature) > 0 {
		// It belongs to the text before it.
		opaque, err := json.Marshal(geminiOpaque{Signature: part.ThoughtSignature})
		if err != nil {
			return err
		}
		r.parts = append(r.parts, Part{Reasoning: &Reasoning{Format: Gemini, Opaque: opaque}})
	}
	return nil
}

// geminiCall reads a call. Those of the computer tool are its predefined functions, so whatever is
// no function of ours is one.
func geminiCall(part *genai.Part, functions map[string]bool, computer bool) (*Call, error) {
	args := part.FunctionCall.Args
	if args == nil {
		args = map[string]any{}
	}
	call := &Call{ID: part.FunctionCall.ID, Tool: part.FunctionCall.Name, Format: Gemini}
	var value any = args
	if computer && !functions[call.Tool] {
		call.Tool = Computer
		value = geminiAction{part.FunctionCall.Name, args}
	}
	var err error
	if call.Arguments, err = json.Marshal(value); err != nil {
		return nil, err
	}
	if call.Opaque, err = json.Marshal(geminiOpaque{ID: call.ID, Signature: part.ThoughtSignature}); err != nil {
		return nil, err
	}
	if call.ID == "" {
		call.ID = newID()
	}
	return call, nil
}

type geminiAction struct {
	Name string         `json:"name"`
	Args map[string]any `json:"args"`
}

func (g *generateContent) config(request Request) *genai.GenerateContentConfig {
	off := false
	config := &genai.GenerateContentConfig{
		MaxOutputTokens:       int32(min(request.MaxTokens, 1<<30)),
		AutomaticContinuation: &off, // it asks again by itself
	}
	if v := geminiVersion(g.model); v == 0 || v >= 2.5 {
		config.ThinkingConfig = &genai.ThinkingConfig{IncludeThoughts: true}
	}
	if request.System != "" {
		config.SystemInstruction = &genai.Content{Parts: []*genai.Part{{Text: request.System}}}
	}
	var functions []*genai.FunctionDeclaration
	for _, tool := range request.Tools {
		functions = append(functions, &genai.FunctionDeclaration{Name: tool.Name, Description: tool.Description, ParametersJsonSchema: tool.Schema})
	}
	if len(functions) > 0 {
		config.Tools = append(config.Tools, &genai.Tool{FunctionDeclarations: functions})
	}
	if request.Computer != nil {
		environment := genai.EnvironmentDesktop
		if v := geminiVersion(g.model); v != 0 && v < 3.5 {
			environment = genai.EnvironmentBrowser // all that those models were taught
		}
		config.Tools = append(config.Tools, &genai.Tool{ComputerUse: &genai.ComputerUse{Environment: environment}})
	}
	return config
}

var geminiNumber = regexp.MustCompile(`gemini-(\d+(\.\d+)?)`)

// geminiVersion is the number in a model's name, 0 when there is none.
func geminiVersion(model string) float64 {
	if found := geminiNumber.FindStringSubmatch(model); found != nil {
		v, _ := strconv.ParseFloat(found[1], 64)
		return v
	}
	return 0
}

func (g *generateContent) contents(messages []Message) ([]*genai.Content, error) {
	var contents []*genai.Content
	calls := map[string]*Call{}
	for _, message := range adapt(messages, Gemini) {
		content := &genai.Content{Role: genai.RoleUser}
		if message.Role == Assistant {
			content.Role = genai.RoleModel
			clear(calls)
		}
		// Google counts the results after calls; what is said besides comes after them, apart.
		apart := &genai.Content{Role: genai.RoleUser}
		foreign := true // until the message has a call that Gemini has signed
		for _, part := range message.Parts {
			if part.Call != nil && part.Call.Format == Gemini {
				foreign = false
			}
		}
		for _, part := range message.Parts {
			switch {
			case part.Reasoning != nil:
				var opaque geminiOpaque
				last := len(content.Parts) - 1
				if json.Unmarshal(part.Reasoning.Opaque, &opaque) == nil && last >= 0 && content.Parts[last].Text != "" {
					content.Parts[last].ThoughtSignature = opaque.Signature
				}
			case part.Call != nil:
				calls[part.Call.ID] = part.Call
				p, err := geminiCallPart(part.Call)
				if err != nil {
					return nil, err
				}
				if foreign { // the first of a message has to be signed
					p.ThoughtSignature, foreign = []byte(unsigned), false
				}
				content.Parts = append(content.Parts, p)
			case part.Result != nil:
				content.Parts = append(content.Parts, geminiResult(calls[part.Result.ID], part.Result))
			default:
				to := content
				if message.Role == User && len(content.Parts) > 0 && content.Parts[0].FunctionResponse != nil {
					to = apart
				}
				p := &genai.Part{Text: part.Text}
				if part.Picture != nil {
					p = &genai.Part{InlineData: &genai.Blob{MIMEType: part.Picture.MediaType, Data: part.Picture.Data}}
				}
				to.Parts = append(to.Parts, p)
			}
		}
		for _, c := range []*genai.Content{content, apart} {
			if len(c.Parts) > 0 {
				contents = append(contents, c)
			}
		}
	}
	return contents, nil
}

func geminiCallPart(call *Call) (*genai.Part, error) {
	var opaque geminiOpaque
	if call.Format == Gemini && len(call.Opaque) > 0 {
		if err := json.Unmarshal(call.Opaque, &opaque); err != nil {
			return nil, fmt.Errorf("reading what a call came with: %w", err)
		}
	}
	action := geminiAction{Name: call.Tool}
	var err error
	if call.Tool == Computer {
		err = decode(call.Arguments, &action)
	} else {
		err = decode(call.Arguments, &action.Args)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the arguments of a call: %w", err)
	}
	return &genai.Part{
		FunctionCall:     &genai.FunctionCall{ID: opaque.ID, Name: action.Name, Args: action.Args},
		ThoughtSignature: opaque.Signature,
	}, nil
}

// decode keeps numbers as they are written.
func decode(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(into)
}

func geminiResult(call *Call, result *Result) *genai.Part {
	response := &genai.FunctionResponse{Name: result.Tool, Response: map[string]any{}}
	if call != nil {
		var opaque geminiOpaque
		if json.Unmarshal(call.Opaque, &opaque) == nil {
			response.ID = opaque.ID
		}
		if call.Tool == Computer {
			var action geminiAction
			if json.Unmarshal(call.Arguments, &action) == nil {
				response.Name = action.Name
			}
			response.Response["url"] = "about:blank" // which a browser would show; Gemini asks for it
		}
	}
	if text := strings.TrimSpace(result.Text); result.Failed {
		if text == "" {
			text = "It failed."
		}
		response.Response["error"] = text
	} else if text != "" || result.Picture == nil {
		response.Response["output"] = result.Text
	}
	if len(result.Acknowledged) > 0 {
		response.Response["safety_acknowledgement"] = true
	}
	if result.Picture != nil {
		response.Parts = []*genai.FunctionResponsePart{{InlineData: &genai.FunctionResponseBlob{MIMEType: result.Picture.MediaType, Data: result.Picture.Data}}}
	}
	return &genai.Part{FunctionResponse: response}
}
