package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bureau/desktop"
	"bureau/desktop/dialect"
)

func (a *app) desktopActions() *cobra.Command {
	var settle time.Duration
	var words, display string
	var agreed bool
	c := &cobra.Command{
		Use: "actions DESKTOP [FILE|-]", Short: "Do several actions, in any model's words",
		Long: `Do the actions in a file, or in standard input: a JSON array of action objects, or one. They
are bureau's own, or those of Anthropic's, OpenAI's or Gemini's computer tools as the models give
them. The answer is JSON: the results to give back to the model.`,
		Example: `  echo '[{"type":"key","key":"ctrl+l"},{"type":"type","text":"example.org\n"}]' | bureau desktop actions demo
  bureau desktop actions demo tool_use.json --display 1280x800`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := a.readActions(args[1:])
			if err != nil {
				return err
			}
			body := map[string]any{"actions": text}
			if words != "" {
				body["dialect"] = words
			}
			if c.Flags().Changed("settle") {
				body["settleMs"] = milliseconds(settle)
			}
			if display != "" {
				size, err := dimensions(display)
				if err != nil {
					return err
				}
				body["display"] = size
			}
			if agreed {
				body["safetyAcknowledged"] = true
			}
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := r.call(c.Context(), request{method: http.MethodPost, path: path + "/actions", body: body}, &raw); err != nil {
				return err
			}
			return a.printJSON(raw)
		},
	}
	f := c.Flags()
	f.StringVar(&words, "dialect", "", "whose actions they are: bureau, anthropic, openai or gemini (default: found out)")
	f.StringVar(&display, "display", "", "the display's size as it was announced to the model: WIDTHxHEIGHT")
	f.DurationVar(&settle, "settle", 0, "how long each picture waits for the display to be quiet (default 2s for models' actions)")
	f.BoolVar(&agreed, "safety-acknowledged", false, "a person has agreed to what the model's vendor asks confirmation for")
	return c
}

// readActions is the JSON in a file, or in standard input.
func (a *app) readActions(args []string) (json.RawMessage, error) {
	var data []byte
	if len(args) == 0 || args[0] == "-" {
		text, err := a.readInput(dialect.MaxBytes)
		if err != nil {
			return nil, err
		}
		data = []byte(text)
	} else {
		file, err := os.Open(args[0])
		if err != nil {
			return nil, usage("%v", err)
		}
		defer file.Close()
		if data, err = io.ReadAll(io.LimitReader(file, dialect.MaxBytes+1)); err != nil {
			return nil, err
		}
	}
	if len(data) > dialect.MaxBytes || !json.Valid(data) {
		return nil, usage("the actions are not JSON of at most %d bytes", dialect.MaxBytes)
	}
	return data, nil
}

// dimensions reads WIDTHxHEIGHT.
func dimensions(text string) (desktop.Size, error) {
	width, height, _ := strings.Cut(text, "x")
	w, errW := strconv.Atoi(width)
	h, errH := strconv.Atoi(height)
	if errW != nil || errH != nil || w < 1 || h < 1 {
		return desktop.Size{}, usage("%q is not a size: give WIDTHxHEIGHT in pixels, such as 1280x800", text)
	}
	return desktop.Size{Width: w, Height: h}, nil
}

func (a *app) desktopClipboard() *cobra.Command {
	return &cobra.Command{
		Use: "clipboard DESKTOP [TEXT|-]", Short: "Show or fill the clipboard",
		Long:    "Print the text on the clipboard or, given one, put a text there. - reads it from standard input.",
		Example: "  bureau desktop clipboard demo >copied.txt\n  bureau desktop clipboard demo - <notes.txt",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			var text string
			if len(args) == 2 {
				text = args[1]
				if text == "-" {
					var err error
					if text, err = a.readInput(desktop.MaxClipboardBytes); err != nil {
						return err
					}
				}
			}
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			path += "/clipboard"
			if len(args) == 2 {
				return r.call(c.Context(), request{method: http.MethodPut, path: path, body: map[string]string{"text": text}}, nil)
			}
			var raw json.RawMessage
			if err := r.call(c.Context(), request{method: http.MethodGet, path: path}, &raw); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(raw)
			}
			var clipboard struct{ Text string }
			if err := json.Unmarshal(raw, &clipboard); err != nil {
				return fmt.Errorf("the appliance's answer is not what the API promises: %w", err)
			}
			_, err = io.WriteString(a.out, clipboard.Text)
			return err
		},
	}
}

func (a *app) desktopWindows() *cobra.Command {
	var activate, shut uint32
	c := &cobra.Command{
		Use: "windows DESKTOP", Short: "List the windows, activate or close one",
		Long: "List the windows, the topmost first; or give one, by its id, the focus or ask for it to be closed.",
		Example: `  bureau desktop windows demo
  bureau desktop windows demo --activate 27262979`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			path += "/windows"
			switch {
			case activate != 0:
				return r.call(c.Context(), request{method: http.MethodPost, path: fmt.Sprintf("%s/%d/activate", path, activate)}, nil)
			case shut != 0:
				return r.call(c.Context(), request{method: http.MethodDelete, path: fmt.Sprintf("%s/%d", path, shut)}, nil)
			}
			var raw json.RawMessage
			if err := r.call(c.Context(), request{method: http.MethodGet, path: path}, &raw); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(raw)
			}
			var list []desktop.Window
			if err := json.Unmarshal(raw, &list); err != nil {
				return fmt.Errorf("the appliance's answer is not what the API promises: %w", err)
			}
			rows := make([][]string, len(list))
			for i, w := range list {
				state := ""
				switch {
				case w.Focused:
					state = "focused"
				case w.Minimized:
					state = "minimized"
				}
				rows[i] = []string{strconv.FormatUint(uint64(w.ID), 10), w.Class, w.Kind, fmt.Sprintf("%dx%d+%d+%d", w.Width, w.Height, w.X, w.Y), state, w.Title}
			}
			return a.table([]string{"ID", "CLASS", "KIND", "PLACE", "STATE", "TITLE"}, rows)
		},
	}
	c.Flags().Uint32Var(&activate, "activate", 0, "give this window the focus")
	c.Flags().Uint32Var(&shut, "close", 0, "ask this window's application to close it")
	c.MarkFlagsMutuallyExclusive("activate", "close")
	return c
}

func (a *app) desktopResize() *cobra.Command {
	return &cobra.Command{
		Use: "resize DESKTOP WIDTHxHEIGHT", Short: "Change the display's size", Example: "  bureau desktop resize demo 1920x1080",
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			size, err := dimensions(args[1])
			if err != nil {
				return err
			}
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			return r.call(c.Context(), request{method: http.MethodPatch, path: path + "/display", body: size}, nil)
		},
	}
}
