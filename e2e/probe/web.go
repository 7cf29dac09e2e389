package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
)

// The page hands in the text that was typed when ctrl+Return is pressed: a browser handles its keys
// in order, so by then it has taken in all that came before. A text field would leave at a tab, so
// the page keeps it. The page is larger than any display, to be scrolled.
const page = `<!doctype html><meta charset=utf-8><title>bureau probe</title>
<style>body{margin:0;width:6000px;height:6000px}textarea{position:fixed;left:20px;top:140px;width:400px;height:120px;font:13px monospace;text-rendering:optimizeSpeed}</style>
<textarea id=t spellcheck=false autocomplete=off wrap=off></textarea>
<script>
const t = document.getElementById('t'); let n = 0;
t.addEventListener('keydown', e => {
  if (e.key === 'Tab' && !e.ctrlKey && !e.altKey) {
    e.preventDefault(); t.setRangeText('\t', t.selectionStart, t.selectionEnd, 'end');
  } else if (e.key === 'Enter' && e.ctrlKey) {
    e.preventDefault(); const text = t.value; t.value = ''; n++;
    fetch('/text/' + n, {method: 'POST', body: text});
  }
});
document.addEventListener('scroll', () => fetch('/scroll', {method: 'POST', body: scrollX + ' ' + scrollY}));
addEventListener('load', () => { t.focus(); fetch('/loaded', {method: 'POST', body: innerWidth + ' ' + innerHeight}); });
</script>`

// web serves the page on the loopback interface and keeps what it hands in as files: loaded,
// scroll, and 1, 2, … for each text.
func web(args []string) error {
	flags := flag.NewFlagSet("web", flag.ContinueOnError)
	addr := flags.String("addr", "127.0.0.1:8765", "address to listen on")
	dir := flags.String("dir", "", "folder for what is handed in")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	keep := func(w http.ResponseWriter, r *http.Request, name string) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			temporary := filepath.Join(*dir, "."+name)
			if err = os.WriteFile(temporary, body, 0o644); err == nil {
				err = os.Rename(temporary, filepath.Join(*dir, name))
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, page)
	})
	mux.HandleFunc("POST /text/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.PathValue("n"))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		keep(w, r, strconv.Itoa(n))
	})
	mux.HandleFunc("POST /scroll", func(w http.ResponseWriter, r *http.Request) { keep(w, r, "scroll") })
	mux.HandleFunc("POST /loaded", func(w http.ResponseWriter, r *http.Request) { keep(w, r, "loaded") })
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	return http.Serve(l, mux)
}
