// Package modeltest is a server that speaks the wire formats of the model providers and answers from
// a script, so that what asks models can be tested whole, and tried by a person, where none can be
// reached. No model's judgment is in it.
//
// One [Server] speaks all four of package model's formats at once, streaming and not: Anthropic's
// Messages, OpenAI's Responses and Chat Completions, Gemini's generateContent, and their lists of
// models. The script knows no vendor: what it wants done on the display is said in bureau's own
// dialect of actions, and each format gets it in its vendor's words.
//
// It is strict. A request is read into the vendor's SDK's own types and must hold nothing that these
// do not know; its key, roles, pictures, calls and their results, and what is to be cached are
// checked. What is wrong is answered with 400 in the vendor's form and remembered in
// [Server.Problems], which a test asks at its end (or gives the server Failf).
//
//	server := modeltest.New("secret", modeltest.Script{Steps: []modeltest.Step{
//		{Text: "I look.", Calls: []modeltest.Call{modeltest.Computer(`{"type":"screenshot"}`)}},
//		{Fail: &modeltest.Failure{Kind: modeltest.RateLimited, RetryAfter: "1"}},
//		{Calls: []modeltest.Call{modeltest.Use("bash", `{"command":"head -1 poem.txt"}`)}},
//		{Text: `The first line is {{line 1 .Result}}`},
//	}})
//	host := httptest.NewServer(server)
//	defer host.Close()
//	endpoint := modeltest.Endpoint(model.Anthropic, host.URL, "secret")
//
// Each request that is in order takes the next step. With Script.Stateless the step is instead the one
// after as many as the conversation has answers of the model, so that conversations do not disturb
// each other and a server may be restarted in their middle; failures then last for ever. A request that
// offers no tools, such as model.Check's, takes no step that has calls, and is told OK.
package modeltest
