package dialect

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"bureau/desktop"
)

// object reads the members of an action, each once. It remembers the first thing that is wrong, so
// that a translation is written without a check after every member, and knows at the end which
// members nobody asked for.
type object struct {
	fields  map[string]json.RawMessage
	mapping Mapping
	problem *problem
	safety  *Safety
}

// problem is why an action cannot be translated.
type problem struct {
	code    desktop.Code
	text    string
	details map[string]any
	unknown bool // the action itself is
}

func (p *problem) located(index int, dialect Name, action string) error {
	text := fmt.Sprintf("action %d (%s %s): %s", index, dialect, shorten(action), p.text)
	if p.unknown {
		text = fmt.Sprintf("action %d: %s is not an action of the dialect %s", index, quote(action), dialect)
	}
	details := map[string]any{"index": index, "dialect": dialect, "action": shorten(action)}
	maps.Copy(details, p.details)
	return &desktop.Error{Code: p.code, Message: text, Details: details}
}

// invalid is for what is wrong before an action is known.
func invalid(index int, complaint string) error {
	return &desktop.Error{
		Code: desktop.Invalid, Message: fmt.Sprintf("action %d %s", index, complaint),
		Details: map[string]any{"index": index},
	}
}

// shorten keeps what a client sent from filling an error.
func shorten(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}

func quote(s string) string { return strconv.Quote(shorten(s)) }

func (o *object) fail(format string, args ...any) {
	o.failWith(desktop.Invalid, format, args...)
}

func (o *object) failWith(code desktop.Code, format string, args ...any) {
	if o.problem == nil {
		o.problem = &problem{code: code, text: fmt.Sprintf(format, args...)}
	}
}

// outside says that something is not on the display, and how large that is.
func (o *object) outside(what string) {
	if o.problem == nil {
		size := o.mapping.Announced
		o.fail("%s is outside the display, which is %dx%d", what, size.Width, size.Height)
		o.problem.details = map[string]any{"display": size}
	}
}

// unknown says that the action is none, whatever else is wrong with it.
func (o *object) unknown() []Step {
	o.problem = &problem{code: desktop.Invalid, unknown: true}
	return nil
}

// finish complains about members that were not asked for.
func (o *object) finish() {
	for _, name := range slices.Sorted(maps.Keys(o.fields)) {
		if given(o.fields[name]) {
			o.fail("%s is not one of its members", quote(name))
			return
		}
	}
}

// take is a member, once; false when it is absent.
func (o *object) take(name string) (json.RawMessage, bool) {
	raw := o.fields[name]
	delete(o.fields, name)
	return raw, given(raw)
}

func (o *object) has(name string) bool { return given(o.fields[name]) }

func (o *object) missing(name string) { o.fail("%s is missing", name) }

// need complains when a member is absent.
func (o *object) need(names ...string) {
	for _, name := range names {
		if !o.has(name) {
			o.missing(name)
		}
	}
}

func (o *object) string(name string) string {
	raw, ok := o.take(name)
	var s string
	if ok && json.Unmarshal(raw, &s) != nil {
		o.fail("%s must be a string", name)
	}
	return s
}

// oneOf is a string out of some; the first is the default unless it is empty.
func (o *object) oneOf(name string, words ...string) string {
	if !o.has(name) {
		o.take(name)
		return words[0]
	}
	s := o.string(name)
	if !slices.Contains(words, s) || s == "" {
		o.fail("%s is %s; it must be one of %s", name, quote(s), strings.TrimPrefix(strings.Join(words, ", "), ", "))
	}
	return s
}

func (o *object) bool(name string, absent bool) bool {
	raw, ok := o.take(name)
	if ok && json.Unmarshal(raw, &absent) != nil {
		o.fail("%s must be true or false", name)
	}
	return absent
}

// number is a JSON number; false when it is absent or none.
func (o *object) number(name string) (float64, bool) {
	raw, ok := o.take(name)
	if !ok {
		return 0, false
	}
	v, ok := number(raw)
	if !ok {
		o.fail("%s must be a number", name)
	}
	return v, ok
}

func number(raw json.RawMessage) (float64, bool) {
	var v float64
	if !given(raw) || json.Unmarshal(raw, &v) != nil {
		return 0, false
	}
	return v, true
}

// whole is a number without a fraction, however it is written; models write 512.0 too.
func whole(raw json.RawMessage) (int, bool) {
	v, ok := number(raw)
	if !ok || v != math.Trunc(v) || math.Abs(v) > 1<<40 {
		return 0, false
	}
	return int(v), true
}

// int is a whole number of a range; nil when it is absent.
func (o *object) int(name string, low, high int) *int {
	raw, ok := o.take(name)
	if !ok {
		return nil
	}
	v, ok := whole(raw)
	switch {
	case !ok:
		o.fail("%s must be a whole number", name)
	case v < low || v > high:
		o.fail("%s is %d; it must be from %d to %d", name, v, low, high)
	default:
		return &v
	}
	return nil
}

// intOr is the same with a default.
func (o *object) intOr(name string, absent, low, high int) int {
	if v := o.int(name, low, high); v != nil {
		return *v
	}
	return absent
}

// text is what is to be typed.
func (o *object) text(name string) string {
	o.need(name)
	s := o.string(name)
	if utf8.RuneCountInString(s) > desktop.MaxTextLength {
		o.failWith(desktop.TooLarge, "%s is longer than %d characters", name, desktop.MaxTextLength)
	}
	return s
}

// strings is an array of strings, or one string; nil when it is absent.
func (o *object) strings(name string, most int) []string {
	raw, ok := o.take(name)
	if !ok {
		return nil
	}
	var list []string
	if raw[0] == '"' {
		list = []string{word(raw)}
	} else if json.Unmarshal(raw, &list) != nil {
		o.fail("%s must be a string or an array of strings", name)
	}
	if len(list) > most {
		o.failWith(desktop.TooLarge, "%s has more than %d entries", name, most)
		return nil
	}
	return list
}

// seconds is a duration; absent when it is absent.
func (o *object) seconds(name string, absent, most time.Duration) time.Duration {
	v, ok := o.number(name)
	switch {
	case !ok:
		return absent
	case v < 0 || v > most.Seconds():
		o.fail("%s is %v seconds; it must be from 0 to %v", name, v, most.Seconds())
		return 0
	}
	return time.Duration(math.Round(v*1000)) * time.Millisecond
}

// pixel takes a pixel of the announced display to a real one.
func (o *object) pixel(name string, p desktop.Point) desktop.Point {
	if !within(p, o.mapping.Announced) {
		o.outside(fmt.Sprintf("%s %d,%d", name, p.X, p.Y))
		return desktop.Point{}
	}
	return o.mapping.ToReal(p)
}

func within(p desktop.Point, size desktop.Size) bool {
	return p.X >= 0 && p.Y >= 0 && p.X < size.Width && p.Y < size.Height
}

// at is a place in two members; nil when both are absent.
func (o *object) at(x, y string) *desktop.Point {
	if o.has(x) != o.has(y) {
		o.fail("%s and %s belong together", x, y)
	}
	rawX, ok := o.take(x)
	rawY, _ := o.take(y)
	if !ok || o.problem != nil {
		return nil
	}
	return o.point(x+","+y, rawX, rawY)
}

// point is a place on the display.
func (o *object) point(name string, rawX, rawY json.RawMessage) *desktop.Point {
	x, okX := whole(rawX)
	y, okY := whole(rawY)
	if !okX || !okY {
		o.fail("%s must be whole numbers", name)
		return nil
	}
	p := o.pixel(name, desktop.Point{X: x, Y: y})
	return &p
}

// path is the places of a drag: objects with x and y, or pairs.
func (o *object) path(name string) []desktop.Point {
	raw, ok := o.take(name)
	if !ok {
		return nil
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		o.fail("%s must be an array of points", name)
		return nil
	}
	switch {
	case len(list) < 2:
		o.fail("%s needs two points or more", name)
		return nil
	case len(list) > desktop.MaxPathLength:
		o.failWith(desktop.TooLarge, "%s has more than %d points", name, desktop.MaxPathLength)
		return nil
	}
	path := make([]desktop.Point, 0, len(list))
	for i, raw := range list {
		where := fmt.Sprintf("%s[%d]", name, i)
		var p *desktop.Point
		var pair []json.RawMessage
		if m := members(raw); m != nil {
			if len(m) != 2 || m["x"] == nil || m["y"] == nil {
				o.fail("%s must have x and y and nothing else", where)
				return nil
			}
			p = o.point(where, m["x"], m["y"])
		} else if json.Unmarshal(raw, &pair) == nil && len(pair) == 2 {
			p = o.point(where, pair[0], pair[1])
		} else {
			o.fail("%s must be an object with x and y, or a pair", where)
		}
		if p == nil {
			return nil
		}
		path = append(path, *p)
	}
	return path
}

func (o *object) button(words ...string) string {
	button := o.oneOf("button", words...)
	if button == "wheel" {
		return "middle"
	}
	return button
}

// drag is one along a path or between two places, of which the first may be where the pointer is.
func drag(path []desktop.Point, start, end *desktop.Point) *desktop.Drag {
	d := &desktop.Drag{Path: path, Button: "left"}
	d.StartX, d.StartY = pair(start)
	d.EndX, d.EndY = pair(end)
	return d
}

func pair(p *desktop.Point) (x, y *int) {
	if p == nil {
		return nil, nil
	}
	return &p.X, &p.Y
}

func click(at *desktop.Point, button string, count int, modifiers []string) *desktop.Click {
	c := &desktop.Click{Button: button, Modifiers: modifiers}
	if c.X, c.Y = pair(at); count > 1 {
		c.Count = count
	}
	return c
}

func one(a desktop.Action) []Step { return []Step{{Act: &a}} }

func press(keys ...string) Step {
	return Step{Act: &desktop.Action{Press: &desktop.Press{Keys: keys}}}
}

// notch is how many pixels of a page a notch of the wheel stands for.
const notch = 100

// notches of the wheel for a distance in pixels: at least one, unless there is none to go.
func notches(pixels int) int {
	if pixels == 0 {
		return 0
	}
	if pixels < 0 {
		return -notches(-pixels)
	}
	return min(max(1, (pixels+notch/2)/notch), desktop.MaxScrollAmount)
}
