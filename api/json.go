package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
)

// unmarshal decodes a body. huma asks twice: first for plain values, which it checks against the
// schema, then for the route's type.
func unmarshal(data []byte, into any) error {
	if !utf8.Valid(data) {
		return errors.New("not valid UTF-8")
	}
	err := json.Unmarshal(data, into)
	if _, plain := into.(*any); plain {
		if err != nil {
			return fmt.Errorf("not valid JSON: %w", err)
		}
		return nil
	}
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		// The schema has allowed what Go's integers do not take: 100.0, or 1e2. Written anew a whole
		// number has no fraction.
		var plain any
		if json.Unmarshal(data, &plain) == nil {
			if again, failure := json.Marshal(plain); failure == nil {
				err = json.Unmarshal(again, into)
			}
		}
		if errors.As(err, &mismatch) {
			return fmt.Errorf("%s: %s does not fit", mismatch.Field, mismatch.Value)
		}
	}
	return err
}

// jsonFormat is how bodies are read and written.
var jsonFormat = huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshal}

// respond writes a JSON answer, where huma cannot because the route has other answers too.
func respond(ctx huma.Context, status int, value any) {
	w := humagin.Unwrap(ctx).Writer
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := jsonFormat.Marshal(w, value); err != nil {
		exchangeOf(ctx.Context()).log.DebugContext(ctx.Context(), "the answer was not sent", "error", err)
	}
}

// jsonContent is the documentation of such an answer.
func jsonContent(schema *huma.Schema) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{"application/json": {Schema: schema}}
}
