package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bureau/desktop"
)

// settling is the flag with which an input command waits for the display to come to rest.
type settling time.Duration

func (s *settling) flag(c *cobra.Command) {
	c.Flags().DurationVar((*time.Duration)(s), "settle", 0, "then wait until the display is quiet, at most this long")
}

// act posts an input action and tells where the pointer is then.
func (a *app) act(ctx context.Context, argument, action string, body any, settle settling) error {
	if settle != 0 {
		whole, err := withSettle(body, milliseconds(time.Duration(settle)))
		if err != nil {
			return err
		}
		body = whole
	}
	r, path, err := a.onDesktop(ctx, argument)
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := r.call(ctx, request{method: http.MethodPost, path: path + "/" + action, body: body}, &raw); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	var acted struct {
		desktop.Acted
		rest
	}
	if err := json.Unmarshal(raw, &acted); err != nil {
		return fmt.Errorf("the appliance's answer is not what the API promises: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "pointer at %d,%d of %dx%d, %.1f ms%s\n",
		acted.Cursor.X, acted.Cursor.Y, acted.Display.Width, acted.Display.Height, acted.TookMs, acted.ended())
	return err
}

// rest is how the waiting for the display ended.
type rest struct {
	Settled  *bool   `json:"settled"`
	WaitedMs float64 `json:"waitedMs"`
}

func (r rest) ended() string {
	switch {
	case r.Settled == nil:
		return ""
	case *r.Settled:
		return fmt.Sprintf(", display at rest after %.0f ms", r.WaitedMs)
	}
	return fmt.Sprintf(", display still changing after %.0f ms", r.WaitedMs)
}

// withSettle adds a member to a body.
func withSettle(body any, ms int) (map[string]any, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	whole := map[string]any{}
	if err := json.Unmarshal(text, &whole); err != nil {
		return nil, err
	}
	whole["settleMs"] = ms
	return whole, nil
}

// pixels reads coordinates.
func pixels(args ...string) ([]int, error) {
	numbers := make([]int, len(args))
	for i, arg := range args {
		n, err := strconv.Atoi(arg)
		if err != nil {
			return nil, usage("%q is not a coordinate: give whole pixels, counted from the top left corner", arg)
		}
		numbers[i] = n
	}
	return numbers, nil
}

func milliseconds(d time.Duration) int { return int(d / time.Millisecond) }

func (a *app) desktopClick() *cobra.Command {
	var click desktop.Click
	var settle settling
	c := &cobra.Command{
		Use: "click DESKTOP [X Y]", Short: "Click with the mouse",
		Long: "Click at a pixel, or without one where the pointer is.",
		Example: `  bureau desktop click demo 640 400
  bureau desktop click demo 640 400 --button right
  bureau desktop click demo 100 200 --count 2 --modifiers ctrl,shift`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 3 {
				return usage("give a desktop, and both coordinates or neither")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 3 {
				at, err := pixels(args[1:]...)
				if err != nil {
					return err
				}
				click.X, click.Y = &at[0], &at[1]
			}
			return a.act(c.Context(), args[0], "click", click, settle)
		},
	}
	f := c.Flags()
	f.StringVar(&click.Button, "button", "", "left, middle, right, back or forward (default left)")
	f.IntVar(&click.Count, "count", 0, "2 for a double, 3 for a triple click (default 1)")
	f.BoolVar(&click.Double, "double", false, "the same as --count 2")
	f.StringSliceVar(&click.Modifiers, "modifiers", nil, "keys held during the click, such as ctrl,shift")
	f.StringVar(&click.Action, "action", "", "click, or only half of it: down or up (default click)")
	settle.flag(c)
	return c
}

func (a *app) desktopMove() *cobra.Command {
	var settle settling
	c := &cobra.Command{
		Use: "move DESKTOP X Y", Short: "Move the pointer", Args: cobra.ExactArgs(3),
		RunE: func(c *cobra.Command, args []string) error {
			to, err := pixels(args[1:]...)
			if err != nil {
				return err
			}
			return a.act(c.Context(), args[0], "move", desktop.Move{X: to[0], Y: to[1]}, settle)
		},
	}
	settle.flag(c)
	return c
}

func (a *app) desktopDrag() *cobra.Command {
	var drag desktop.Drag
	var settle settling
	var duration time.Duration
	c := &cobra.Command{
		Use: "drag DESKTOP X Y X Y [X Y …]", Short: "Drag with the mouse",
		Long:    "Press the button at the first pixel, move over the others, and let go at the last.",
		Example: "  bureau desktop drag demo 300 100 600 400",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 5 || len(args)%2 == 0 {
				return usage("give a desktop and two points or more, each as X Y")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			at, err := pixels(args[1:]...)
			if err != nil {
				return err
			}
			if len(at) == 4 {
				drag.StartX, drag.StartY, drag.EndX, drag.EndY = &at[0], &at[1], &at[2], &at[3]
			} else {
				for i := 0; i < len(at); i += 2 {
					drag.Path = append(drag.Path, desktop.Point{X: at[i], Y: at[i+1]})
				}
			}
			drag.DurationMs = milliseconds(duration)
			return a.act(c.Context(), args[0], "drag", drag, settle)
		},
	}
	f := c.Flags()
	f.StringVar(&drag.Button, "button", "", "left, middle, right, back or forward (default left)")
	f.StringSliceVar(&drag.Modifiers, "modifiers", nil, "keys held during the drag, such as ctrl,shift")
	f.DurationVar(&duration, "duration", 0, "how long the movement takes, such as 500ms")
	settle.flag(c)
	return c
}

func (a *app) desktopScroll() *cobra.Command {
	var scroll desktop.Scroll
	var settle settling
	var at []int
	c := &cobra.Command{
		Use: "scroll DESKTOP up|down|left|right [NOTCHES]", Short: "Turn the mouse wheel",
		Example: "  bureau desktop scroll demo down 5 --at 640,400",
		Args:    cobra.RangeArgs(2, 3),
		RunE: func(c *cobra.Command, args []string) error {
			scroll.Direction = args[1]
			if len(args) == 3 {
				n, err := strconv.Atoi(args[2])
				if err != nil {
					return usage("%q is not a number of notches", args[2])
				}
				scroll.Amount = &n
			}
			switch len(at) {
			case 0:
			case 2:
				scroll.X, scroll.Y = &at[0], &at[1]
			default:
				return usage("--at takes two coordinates: X,Y")
			}
			return a.act(c.Context(), args[0], "scroll", scroll, settle)
		},
	}
	c.Flags().IntSliceVar(&at, "at", nil, "where: X,Y (default: where the pointer is)")
	c.Flags().StringSliceVar(&scroll.Modifiers, "modifiers", nil, "keys held meanwhile, such as ctrl")
	settle.flag(c)
	return c
}

func (a *app) desktopType() *cobra.Command {
	var typ desktop.Type
	var settle settling
	var delay time.Duration
	c := &cobra.Command{
		Use: "type DESKTOP TEXT|-", Short: "Type text",
		Long: "Type text as a person would, whatever the keyboard layout. - reads it from standard input.",
		Example: `  bureau desktop type demo 'Grüße, 世界 👋'
  bureau desktop type demo --sensitive - <password.txt`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			typ.Text = args[1]
			if args[1] == "-" {
				text, err := a.readInput(4 * desktop.MaxTextLength)
				if err != nil {
					return err
				}
				typ.Text = text
			}
			typ.DelayMs = milliseconds(delay)
			return a.act(c.Context(), args[0], "type", typ, settle)
		},
	}
	c.Flags().DurationVar(&delay, "delay", 0, "pause after each character, such as 20ms")
	c.Flags().BoolVar(&typ.Sensitive, "sensitive", false, "keep the text out of every log")
	settle.flag(c)
	return c
}

// readInput reads standard input up to a limit of bytes.
func (a *app) readInput(limit int) (string, error) {
	text, err := io.ReadAll(io.LimitReader(a.in, int64(limit)+1))
	if err != nil {
		return "", fmt.Errorf("standard input: %w", err)
	}
	if len(text) > limit {
		return "", usage("standard input has more than %d bytes", limit)
	}
	return string(text), nil
}

func (a *app) desktopKey() *cobra.Command {
	var repeat int
	var settle settling
	var hold time.Duration
	c := &cobra.Command{
		Use: "key DESKTOP KEY…", Short: "Press keys and key combinations",
		Long: `Press keys or combinations of keys, one after another. Names are those of X11 (Return,
Page_Down), of the DOM (ArrowUp) or upper-case ones (ENTER), in any case.`,
		Example: "  bureau desktop key demo ctrl+a ctrl+c\n  bureau desktop key demo Down --repeat 5",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			body := map[string]any{"key": args[1:]}
			if len(args) == 2 {
				body["key"] = args[1]
			}
			if repeat > 0 {
				body["repeat"] = repeat
			}
			if hold > 0 {
				body["holdMs"] = milliseconds(hold)
			}
			return a.act(c.Context(), args[0], "key", body, settle)
		},
	}
	c.Flags().IntVar(&repeat, "repeat", 0, "how often the whole list is pressed (default 1)")
	c.Flags().DurationVar(&hold, "hold", 0, "how long each is held, such as 500ms")
	settle.flag(c)
	return c
}

// shellWords makes a command line of arguments that a shell splits the same way again. One
// argument alone is a command line already.
func shellWords(args []string) string {
	if len(args) == 1 {
		return args[0]
	}
	quoted := make([]string, len(args))
	for i, arg := range args {
		if arg != "" && strings.Trim(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+,.:/@%^") == "" {
			quoted[i] = arg
			continue
		}
		quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
