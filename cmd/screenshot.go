package cmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) desktopScreenshot() *cobra.Command {
	var output, format, region string
	var quality, maxWidth, maxHeight int
	var scale float64
	var noCursor bool
	var settle time.Duration
	c := &cobra.Command{
		Use: "screenshot DESKTOP", Short: "Take a picture of the display",
		Long: `Take a picture of the display. The file's ending decides its format: png, jpg, jpeg or
webp. Without -o the picture goes to NAME.png; -o - writes it to standard output.`,
		Example: `  bureau desktop screenshot demo -o now.webp
  bureau desktop screenshot demo --settle 2s --region 0,0,640,400 -o - | display`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if output == "" {
				output = strings.Map(func(r rune) rune {
					if r == '/' || r == 0 {
						return '-'
					}
					return r
				}, strings.TrimLeft(args[0], ".")) + "." + extension(format)
			}
			if format == "" && output != "-" {
				var ok bool
				if format, ok = formats[strings.ToLower(filepath.Ext(output))]; !ok {
					return usage("%s: the picture's format is not clear from its ending: use .png, .jpg or .webp, or --format", output)
				}
			}
			if _, tty := terminal(a.out); tty && output == "-" {
				return usage("a picture on a terminal is of no use: redirect it, or name a file")
			}
			query := url.Values{}
			set := func(name, value string, given bool) {
				if given {
					query.Set(name, value)
				}
			}
			set("format", format, format != "")
			set("region", region, region != "")
			set("quality", strconv.Itoa(quality), quality != 0)
			set("maxWidth", strconv.Itoa(maxWidth), maxWidth != 0)
			set("maxHeight", strconv.Itoa(maxHeight), maxHeight != 0)
			set("scale", strconv.FormatFloat(scale, 'g', -1, 64), scale != 0)
			set("cursor", "false", noCursor)
			set("settleMs", strconv.Itoa(milliseconds(settle)), settle != 0)
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			answer, err := r.send(c.Context(), request{method: http.MethodGet, path: path + "/screenshot", query: query,
				accept: "image/*, application/json;q=0.5"})
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			if output == "-" {
				_, err := io.Copy(a.out, answer.Body)
				return err
			}
			size, err := save(output, answer.Body)
			if err != nil {
				return err
			}
			if a.json {
				text, err := json.Marshal(map[string]any{"file": output, "contentType": answer.Header.Get("Content-Type"), "bytes": size})
				if err != nil {
					return err
				}
				return a.printJSON(json.RawMessage(text))
			}
			_, err = fmt.Fprintln(a.out, output)
			return err
		},
	}
	f := c.Flags()
	f.StringVarP(&output, "output", "o", "", "file to write, - for standard output (default NAME.png)")
	f.StringVar(&format, "format", "", "png, jpeg or webp (default: by the file's ending)")
	f.IntVar(&quality, "quality", 0, "1 to 100, for jpeg")
	f.StringVar(&region, "region", "", "part of the display: X,Y,WIDTH,HEIGHT")
	f.Float64Var(&scale, "scale", 0, "scale it by this factor")
	f.IntVar(&maxWidth, "max-width", 0, "scale it down to this width")
	f.IntVar(&maxHeight, "max-height", 0, "scale it down to this height")
	f.BoolVar(&noCursor, "no-cursor", false, "leave the mouse pointer out")
	f.DurationVar(&settle, "settle", 0, "wait until the display is quiet, at most this long")
	return c
}

var formats = map[string]string{".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

func extension(format string) string {
	if format == "" {
		return "png"
	}
	return format
}

// save writes a file that is either whole or not there.
func save(path string, from io.Reader) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".bureau-*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	size, err = io.Copy(f, from)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return size, os.Rename(f.Name(), path)
}
