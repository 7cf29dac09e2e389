package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bureau/desktop"
)

// freeAddress is an address on loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A program's request reaches the host with its path, its Host and its headers, and the answer
// comes back piece by piece; when the program goes away the host hears of it.
func TestModelsOverTheLink(t *testing.T) {
	p, address := newPort(), freeAddress(t)
	startGuest(t, p, Options{Models: address})
	ask := func(ctx context.Context, path string) (*http.Response, error) {
		request, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+path, strings.NewReader(`{"model":"m"}`))
		request.Header.Set("Anthropic-Version", "2023-06-01")
		return http.DefaultTransport.RoundTrip(request)
	}

	// No host yet.
	var response *http.Response
	poll(t, "the agent listens", func() (ok bool) {
		var err error
		response, err = ask(testContext(t), "/anthropic/v1/messages")
		return err == nil
	})
	body, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" ||
		!strings.Contains(string(body), `"error"`) || response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("without a host: %s %s", response.Status, body)
	}

	next, gone := make(chan string), make(chan struct{})
	connect(t, &Connector{Handler: func(id string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			sent, _ := io.ReadAll(r.Body)
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "%s %s %s %s %s\n", id, r.Host, r.RequestURI, r.Header.Get("Anthropic-Version"), sent)
			flush := http.NewResponseController(w)
			flush.Flush()
			for {
				select {
				case line := <-next:
					fmt.Fprintln(w, line)
					flush.Flush()
				case <-r.Context().Done():
					close(gone)
					return
				}
			}
		})
	}}, p.connect())
	ctx, cancel := context.WithCancel(testContext(t))
	response, err := ask(ctx, "/anthropic/v1/messages?beta=true")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	first, err := lines.ReadString('\n')
	want := testDesktop + " " + address + ` /anthropic/v1/messages?beta=true 2023-06-01 {"model":"m"}` + "\n"
	if err != nil || first != want {
		t.Fatalf("the host got %q, %v", first, err)
	}
	for _, line := range []string{"one", "two"} {
		next <- line // and no more until it has been read
		if got, err := lines.ReadString('\n'); err != nil || got != line+"\n" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	cancel()
	wait(t, gone, "the host's hearing that the program has gone")
}

// A busy port is tried again, and the host knows of it.
func TestModelsOnABusyPort(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, address := newPort(), busy.Addr().String()
	startGuest(t, p, Options{Models: address})
	host := connect(t, &Connector{Handler: func(string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	}}, p.connect())
	answers(t, host)
	poll(t, "the host's hearing of it", func() bool { return strings.Contains(host.Status().Models, "another program listens at "+address) })
	busy.Close()
	poll(t, "the agent listens", func() bool {
		response, err := http.Get("http://" + address + "/")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusTeapot
	})
	poll(t, "the host's hearing that it is well", func() bool { return host.Status().Models == "" })
}

// Commands, login shells and sessions find the models, and what a user has set stays.
func TestModelVariables(t *testing.T) {
	r := testRunner(t)
	r.lent = modelVariables(DefaultModels)
	got, err := collected(testContext(t), r, desktop.Exec{Script: "echo $ANTHROPIC_BASE_URL $OPENAI_BASE_URL $GOOGLE_GEMINI_BASE_URL ${GEMINI_API_KEY:+key}",
		Env: map[string]string{"OPENAI_BASE_URL": "mine"}})
	if err != nil || got.Stdout != "http://127.0.0.1:7879/anthropic mine http://127.0.0.1:7879/gemini key\n" {
		t.Errorf("a command sees %q, %v", got.Stdout, err)
	}

	root := t.TempDir()
	for _, dir := range []string{"etc/profile.d", "etc/X11/Xsession.d"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	announceModels(root, DefaultModels, testLog(t))
	before, err := os.Stat(filepath.Join(root, "etc/profile.d/bureau-models.sh"))
	if err != nil {
		t.Fatal(err)
	}
	announceModels(root, DefaultModels, testLog(t)) // nothing to do
	after, err := os.Stat(filepath.Join(root, "etc/profile.d/bureau-models.sh"))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("a file that was right was written anew: %v", err)
	}
	if _, err := os.Stat(filepath.Join(root, "etc/X11/xinit")); !os.IsNotExist(err) {
		t.Errorf("a folder was made that this system does not have: %v", err)
	}
	for _, script := range []string{"etc/profile.d/bureau-models.sh", "etc/X11/Xsession.d/61bureau-models"} {
		// As Xsession reads it: the shell ends at the first failure.
		c := exec.Command("/bin/sh", "-euc", ". "+filepath.Join(root, script)+"; env")
		c.Env = []string{"OPENAI_API_KEY=mine"}
		out, err := c.CombinedOutput()
		seen := "\n" + string(out)
		if err != nil || !strings.Contains(seen, "\nANTHROPIC_BASE_URL=http://127.0.0.1:7879/anthropic\n") ||
			!strings.Contains(seen, "\nGEMINI_API_KEY="+placeholder+"\n") || !strings.Contains(seen, "\nOPENAI_API_KEY=mine\n") || strings.Contains(seen, "OPENAI_BASE_URL") {
			t.Errorf("%s: %v%s", script, err, seen)
		}
	}
	assigned, err := os.ReadFile(filepath.Join(root, "run/environment.d/61-bureau-models.conf"))
	if err != nil || !strings.Contains(string(assigned), "OPENAI_BASE_URL=${OPENAI_BASE_URL:-http://127.0.0.1:7879/openai/v1}\n") {
		t.Errorf("%v %s", err, assigned)
	}
}
