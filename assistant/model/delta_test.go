package model_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
)

// noticed is a ResponseWriter that notices when a word is sent.
type noticed struct {
	http.ResponseWriter
	word []byte
	at   chan time.Time
}

func (n *noticed) Write(p []byte) (int, error) {
	if bytes.Contains(p, n.word) {
		select {
		case n.at <- time.Now():
		default: // it is sent again with the whole message
		}
	}
	return n.ResponseWriter.Write(p)
}

func (n *noticed) Unwrap() http.ResponseWriter { return n.ResponseWriter }

// BenchmarkFirstDelta is how long after the provider has sent the first word it is told, and how long
// a whole exchange takes, its server included.
func BenchmarkFirstDelta(b *testing.B) {
	for _, format := range model.Formats() {
		b.Run(string(format), func(b *testing.B) {
			server := modeltest.New(key, modeltest.Script{Repeat: true, Steps: []modeltest.Step{{Text: "Word."}}})
			server.Failf = b.Errorf
			sent := make(chan time.Time, 1)
			host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				server.ServeHTTP(&noticed{w, []byte("Word."), sent}, r)
			}))
			defer host.Close()
			m := newModel(b, modeltest.Endpoint(format, host.URL, key))
			r := request("Work.")
			var late, worst time.Duration
			for b.Loop() {
				told := false
				if _, err := m.Next(b.Context(), r, func(model.Delta) {
					if !told {
						told = true
						took := time.Since(<-sent)
						late += took
						worst = max(worst, took)
					}
				}); err != nil {
					b.Fatal(err)
				}
				select { // of the whole message
				case <-sent:
				default:
				}
			}
			b.ReportMetric(float64(late.Microseconds())/float64(b.N), "µs-late")
			b.ReportMetric(float64(worst.Microseconds()), "µs-late-worst")
		})
	}
}
