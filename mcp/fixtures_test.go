package mcp

//lint:file-ignore SA1019 the suite tests what the newest version of the protocol has deprecated

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// What the conformance suite expects of a server besides what the protocol does: tools, resources
// and prompts of these names that answer in these words.

var (
	onePixel, _ = base64.StdEncoding.DecodeString("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==")
	silence, _  = base64.StdEncoding.DecodeString("UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=")
)

func withFixtures(o *sdk.ServerOptions) func(*sdk.Server) {
	o.Capabilities.Resources.Subscribe = true
	o.SubscribeHandler = func(context.Context, *sdk.SubscribeRequest) error { return nil } // the SDK keeps account
	o.UnsubscribeHandler = func(context.Context, *sdk.UnsubscribeRequest) error { return nil }
	return addFixtures
}

func addFixtures(server *sdk.Server) {
	words := func(s string) *sdk.TextContent { return &sdk.TextContent{Text: s} }
	embedded := func(uri, text string) *sdk.EmbeddedResource {
		return &sdk.EmbeddedResource{Resource: &sdk.ResourceContents{URI: uri, MIMEType: "text/plain", Text: text}}
	}
	picture := &sdk.ImageContent{Data: onePixel, MIMEType: "image/png"}

	type handler = func(context.Context, *sdk.CallToolRequest) ([]sdk.Content, error)
	tool := func(name string, schema string, do handler) {
		t := &sdk.Tool{Name: name, Description: "A fixture of the conformance suite"}
		if schema != "" {
			t.InputSchema = json.RawMessage(schema)
		}
		sdk.AddTool(server, t, func(ctx context.Context, r *sdk.CallToolRequest, _ any) (*sdk.CallToolResult, any, error) {
			content, err := do(ctx, r)
			return &sdk.CallToolResult{Content: content}, nil, err
		})
	}
	always := func(content ...sdk.Content) handler {
		return func(context.Context, *sdk.CallToolRequest) ([]sdk.Content, error) { return content, nil }
	}
	tool("test_simple_text", "", always(words("This is a simple text response for testing.")))
	tool("test_image_content", "", always(picture))
	tool("test_audio_content", "", always(&sdk.AudioContent{Data: silence, MIMEType: "audio/wav"}))
	tool("test_embedded_resource", "", always(embedded("test://embedded-resource", "This is an embedded resource content.")))
	tool("test_multiple_content_types", "", always(words("Multiple content types test:"), picture,
		&sdk.EmbeddedResource{Resource: &sdk.ResourceContents{URI: "test://mixed-content-resource", MIMEType: "application/json", Text: `{"test":"data","value":123}`}}))
	tool("test_error_handling", "", func(context.Context, *sdk.CallToolRequest) ([]sdk.Content, error) {
		return nil, errors.New("this tool intentionally returns an error for testing")
	})
	tool("test_tool_with_logging", "", func(ctx context.Context, r *sdk.CallToolRequest) ([]sdk.Content, error) {
		for _, line := range []string{"started", "processing data", "completed"} {
			if err := r.Session.Log(ctx, &sdk.LoggingMessageParams{Level: "info", Data: "Tool execution " + line}); err != nil {
				return nil, err
			}
		}
		return []sdk.Content{words("logged")}, nil
	})
	tool("test_tool_with_progress", "", func(ctx context.Context, r *sdk.CallToolRequest) ([]sdk.Content, error) {
		token := r.Params.GetProgressToken()
		for _, done := range []float64{0, 50, 100} {
			if err := r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: token, Progress: done, Total: 100}); err != nil {
				return nil, err
			}
			time.Sleep(50 * time.Millisecond) // the suite wants to see them apart
		}
		return []sdk.Content{words(fmt.Sprint(token))}, nil
	})
	tool("test_sampling", `{"type":"object","properties":{"prompt":{"type":"string"}},"required":["prompt"]}`, sample)
	tool("test_elicitation", `{"type":"object","properties":{"message":{"type":"string"}},"required":["message"]}`, elicit(
		`{"type":"object","properties":{"username":{"type":"string","description":"User's response"},"email":{"type":"string","description":"User's email address"}},"required":["username","email"]}`))
	tool("test_elicitation_sep1034_defaults", "", elicit(`{"type":"object","properties":{
		"name":{"type":"string","default":"John Doe"},"age":{"type":"integer","default":30},"score":{"type":"number","default":95.5},
		"status":{"type":"string","enum":["active","inactive","pending"],"default":"active"},"verified":{"type":"boolean","default":true}}}`))
	tool("test_elicitation_sep1330_enums", "", elicit(`{"type":"object","properties":{
		"untitledSingle":{"type":"string","enum":["option1","option2","option3"]},
		"titledSingle":{"type":"string","oneOf":[{"const":"value1","title":"First Option"},{"const":"value2","title":"Second Option"},{"const":"value3","title":"Third Option"}]},
		"legacyEnum":{"type":"string","enum":["opt1","opt2","opt3"],"enumNames":["Option One","Option Two","Option Three"]},
		"untitledMulti":{"type":"array","items":{"type":"string","enum":["option1","option2","option3"]}},
		"titledMulti":{"type":"array","items":{"anyOf":[{"const":"value1","title":"First Choice"},{"const":"value2","title":"Second Choice"},{"const":"value3","title":"Third Choice"}]}}}}`))
	tool("json_schema_2020_12_tool", `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object",
		"$defs":{"address":{"type":"object","properties":{"street":{"type":"string"},"city":{"type":"string"}}}},
		"properties":{"name":{"type":"string"},"address":{"$ref":"#/$defs/address"}},"additionalProperties":false}`, always(words("called")))
	tool("test_reconnection", "", func(_ context.Context, r *sdk.CallToolRequest) ([]sdk.Content, error) {
		if r.Extra != nil && r.Extra.CloseSSEStream != nil {
			r.Extra.CloseSSEStream(sdk.CloseSSEStreamArgs{RetryAfter: 10 * time.Millisecond})
		}
		time.Sleep(100 * time.Millisecond) // the answer comes when the client is to be back
		return []sdk.Content{words("resumed")}, nil
	})

	read := func(mime string, contents sdk.ResourceContents) sdk.ResourceHandler {
		return func(_ context.Context, r *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
			one := contents
			one.URI, one.MIMEType = r.Params.URI, mime
			if id, ok := strings.CutPrefix(one.URI, "test://template/"); ok {
				one.Text = fmt.Sprintf(`{"id":%q,"templateTest":true}`, strings.TrimSuffix(id, "/data"))
			}
			return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{&one}}, nil
		}
	}
	server.AddResource(&sdk.Resource{URI: "test://static-text", Name: "static-text", MIMEType: "text/plain"},
		read("text/plain", sdk.ResourceContents{Text: "This is the content of the static text resource."}))
	server.AddResource(&sdk.Resource{URI: "test://static-binary", Name: "static-binary", MIMEType: "image/png"},
		read("image/png", sdk.ResourceContents{Blob: onePixel}))
	server.AddResource(&sdk.Resource{URI: "test://watched-resource", Name: "watched-resource", MIMEType: "text/plain"},
		read("text/plain", sdk.ResourceContents{Text: "Watched"}))
	server.AddResourceTemplate(&sdk.ResourceTemplate{URITemplate: "test://template/{id}/data", Name: "template", MIMEType: "application/json"},
		read("application/json", sdk.ResourceContents{}))

	prompt := func(name string, arguments []string, answer func(map[string]string) []sdk.Content) {
		p := &sdk.Prompt{Name: name, Description: "A fixture of the conformance suite"}
		for _, argument := range arguments {
			p.Arguments = append(p.Arguments, &sdk.PromptArgument{Name: argument, Required: true})
		}
		server.AddPrompt(p, func(_ context.Context, r *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
			result := &sdk.GetPromptResult{}
			for _, content := range answer(r.Params.Arguments) {
				result.Messages = append(result.Messages, &sdk.PromptMessage{Role: "user", Content: content})
			}
			return result, nil
		})
	}
	prompt("test_simple_prompt", nil, func(map[string]string) []sdk.Content {
		return []sdk.Content{words("This is a simple prompt for testing.")}
	})
	prompt("test_prompt_with_arguments", []string{"arg1", "arg2"}, func(a map[string]string) []sdk.Content {
		return []sdk.Content{words(fmt.Sprintf("Prompt with arguments: arg1='%s', arg2='%s'", a["arg1"], a["arg2"]))}
	})
	prompt("test_prompt_with_embedded_resource", []string{"resourceUri"}, func(a map[string]string) []sdk.Content {
		return []sdk.Content{embedded(a["resourceUri"], "Embedded resource content for testing."), words("Please process the embedded resource above.")}
	})
	prompt("test_prompt_with_image", nil, func(map[string]string) []sdk.Content {
		return []sdk.Content{picture, words("Please analyze the image above.")}
	})
}

// sample asks the client's model, and elicit its person.
func sample(ctx context.Context, r *sdk.CallToolRequest) ([]sdk.Content, error) {
	var in struct{ Prompt string }
	if err := json.Unmarshal(r.Params.Arguments, &in); err != nil {
		return nil, err
	}
	answer, err := r.Session.CreateMessage(ctx, &sdk.CreateMessageParams{MaxTokens: 100,
		Messages: []*sdk.SamplingMessage{{Role: "user", Content: &sdk.TextContent{Text: in.Prompt}}}})
	if err != nil {
		return nil, err
	}
	text, _ := answer.Content.(*sdk.TextContent)
	if text == nil {
		return nil, errors.New("the model's answer is no text")
	}
	return []sdk.Content{&sdk.TextContent{Text: "LLM response: " + text.Text}}, nil
}

func elicit(schema string) func(context.Context, *sdk.CallToolRequest) ([]sdk.Content, error) {
	return func(ctx context.Context, r *sdk.CallToolRequest) ([]sdk.Content, error) {
		answer, err := r.Session.Elicit(ctx, &sdk.ElicitParams{Message: "A question of the conformance suite", RequestedSchema: json.RawMessage(schema)})
		if err != nil {
			return nil, err
		}
		content, err := json.Marshal(answer.Content)
		if err != nil {
			return nil, err
		}
		return []sdk.Content{&sdk.TextContent{Text: fmt.Sprintf("User response: action=%s, content=%s", answer.Action, content)}}, nil
	}
}
