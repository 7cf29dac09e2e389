package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
	"bureau/desktop/picture"
)

// Region is a rectangle of the display, written "x,y,w,h".
type Region image.Rectangle

// maxCoordinate bounds what is taken for a pixel at all.
const maxCoordinate = 1 << 16

// UnmarshalText reads "x,y,w,h".
func (r *Region) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), ",")
	var n [4]int
	for i := range n {
		if len(parts) != len(n) {
			return fmt.Errorf("region: expected \"x,y,w,h\" in pixels")
		}
		value, err := strconv.Atoi(strings.TrimSpace(parts[i]))
		if err != nil || value < 0 || value > maxCoordinate || i >= 2 && value == 0 {
			return fmt.Errorf("region: expected \"x,y,w,h\" in pixels")
		}
		n[i] = value
	}
	*r = Region(image.Rect(n[0], n[1], n[0]+n[2], n[1]+n[3]))
	return nil
}

// MarshalText writes "x,y,w,h".
func (r Region) MarshalText() ([]byte, error) {
	box := image.Rectangle(r)
	return fmt.Appendf(nil, "%d,%d,%d,%d", box.Min.X, box.Min.Y, box.Dx(), box.Dy()), nil
}

// Picture says how a screenshot is wanted. The same options stand in the query of the screenshot
// route and in the screenshot member of the input actions.
type Picture struct {
	Format    string  `json:"format,omitempty" query:"format" enum:"png,jpeg,webp" default:"png"`
	Quality   int     `json:"quality,omitempty" query:"quality" minimum:"1" maximum:"100" doc:"Of a JPEG"`
	Region    Region  `json:"region,omitzero" query:"region" example:"0,0,640,400" doc:"Only this part of the display: x,y,w,h in pixels"`
	Scale     float64 `json:"scale,omitempty" query:"scale" minimum:"0.01" maximum:"2" doc:"Makes it smaller or larger"`
	MaxWidth  int     `json:"maxWidth,omitempty" query:"maxWidth" minimum:"1" maximum:"16384" doc:"Makes it smaller where it is wider"`
	MaxHeight int     `json:"maxHeight,omitempty" query:"maxHeight" minimum:"1" maximum:"16384" doc:"Makes it smaller where it is higher"`
	Cursor    bool    `json:"cursor" required:"false" query:"cursor" default:"true" doc:"Whether the pointer is drawn"`
	SettleMs  int     `json:"settleMs,omitempty" query:"settleMs" minimum:"0" maximum:"60000" doc:"Take it when the display has come to rest, at most so many milliseconds later"`

	// exact is the picture's size, when not zero; no caller can ask for it by itself.
	exact desktop.Size
}

// check is for pictures that were not checked against the schema, and for what that lets through.
func (p Picture) check() error {
	switch {
	case !slices.Contains([]string{"png", "jpeg", "webp"}, p.Format):
		return fmt.Errorf("format: expected png, jpeg or webp")
	case p.Quality < 0 || p.Quality > 100:
		return fmt.Errorf("quality: expected a number from 1 to 100")
	case p.Scale != 0 && !(p.Scale >= 0.01 && p.Scale <= 2): // so that NaN is none, either
		return fmt.Errorf("scale: expected a number from 0.01 to 2")
	case p.MaxWidth < 0 || p.MaxWidth > 16384:
		return fmt.Errorf("maxWidth: expected a number from 1 to 16384")
	case p.MaxHeight < 0 || p.MaxHeight > 16384:
		return fmt.Errorf("maxHeight: expected a number from 1 to 16384")
	case p.SettleMs < 0 || p.SettleMs > maxSettleMs:
		return fmt.Errorf("settleMs: expected a number from 0 to %d", maxSettleMs)
	}
	return p.plain().Check()
}

const maxSettleMs = int(desktop.MaxSettle / time.Millisecond)

func milliseconds(ms int) time.Duration { return time.Duration(ms) * time.Millisecond }

// plain are the renderer's options but for the region.
func (p Picture) plain() picture.Options {
	o := picture.Options{Format: picture.Format(p.Format), Quality: p.Quality, Scale: p.Scale, MaxWidth: p.MaxWidth, MaxHeight: p.MaxHeight, Cursor: p.Cursor}
	if p.exact != (desktop.Size{}) {
		o.Exact = &p.exact
	}
	return o
}

// options are the renderer's, for a display of the given bounds, which a region must lie in.
func (p Picture) options(display image.Rectangle) (picture.Options, error) {
	o := p.plain()
	if region := image.Rectangle(p.Region); !region.Empty() {
		if !region.In(display.Sub(display.Min)) {
			failure := desktop.Errorf(desktop.Invalid, "region: outside the display, which is %dx%d", display.Dx(), display.Dy())
			failure.Details = map[string]any{"display": desktop.Size{Width: display.Dx(), Height: display.Dy()}}
			return o, failure
		}
		region = region.Add(display.Min)
		o.Region = &region
	}
	return o, nil
}

// Wanted is the screenshot member of an input action: true, or how the picture is wanted.
type Wanted struct {
	how *Picture
}

// Want is the screenshot member of a request for that picture; none for nil.
func Want(p *Picture) *Wanted {
	if p == nil {
		return nil
	}
	return &Wanted{p}
}

// MarshalJSON writes what UnmarshalJSON reads.
func (w Wanted) MarshalJSON() ([]byte, error) {
	if w.how == nil {
		return []byte("false"), nil
	}
	return json.Marshal(w.how)
}

// UnmarshalJSON takes true, false or an object. It checks what the schema cannot say in a way that
// names the fault.
func (w *Wanted) UnmarshalJSON(data []byte) error {
	how := Picture{Format: "png", Cursor: true}
	switch text := string(data); {
	case text == "false", text == "null":
		w.how = nil
		return nil
	case text == "true":
	case text[0] != '{':
		return fmt.Errorf("screenshot: expected true or an object")
	default:
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.DisallowUnknownFields()
		err := decoder.Decode(&how)
		var mismatch *json.UnmarshalTypeError
		if errors.As(err, &mismatch) {
			return mismatch // unmarshal knows which numbers are whole ones all the same
		}
		if err != nil {
			return fmt.Errorf("screenshot: %s", strings.TrimPrefix(err.Error(), "json: "))
		}
		if err := how.check(); err != nil {
			return fmt.Errorf("screenshot: %w", err)
		}
	}
	w.how = &how
	return nil
}

// Schema documents both forms. They are an extension to huma, which would otherwise say of a fault
// inside no more than that neither form fits.
func (*Wanted) Schema(r huma.Registry) *huma.Schema {
	return &huma.Schema{Extensions: map[string]any{"oneOf": []*huma.Schema{
		{Type: huma.TypeBoolean}, r.Schema(reflect.TypeFor[Picture](), true, ""),
	}}}
}

// Screenshot is a picture in an answer.
type Screenshot struct {
	ContentType string `json:"contentType" enum:"image/png,image/jpeg,image/webp"`
	Width       int    `json:"width"`
	Height      int    `json:"height"`
	Data        []byte `json:"data" doc:"The image file in base64"`
}

func (s *Server) screenshotRoutes() {
	type input struct {
		DesktopPath
		Picture
		Known string `header:"If-None-Match" doc:"ETags of pictures that the caller has: 304 when the display has not changed since"`
	}
	type answer struct {
		Status       int
		ContentType  string `header:"Content-Type" hidden:"true"`
		ETag         string `header:"ETag" doc:"Changes when the picture does"`
		CacheControl string `header:"Cache-Control"`
		Source       string `header:"X-Bureau-Source" enum:"dbus,rfb,agent" doc:"Where the picture came from"`
		Width        string `header:"X-Bureau-Width" doc:"Of the picture, in pixels"`
		Height       string `header:"X-Bureau-Height" doc:"Of the picture, in pixels"`
		Display      string `header:"X-Bureau-Display" example:"1280x800" doc:"Size of the whole display"`
		Settled      string `header:"X-Bureau-Settled" enum:"true,false" doc:"With settleMs: whether the display had come to rest in time"`
		WaitedMs     string `header:"X-Bureau-Waited-Ms" doc:"With settleMs: how long that was waited for, in milliseconds"`
		ServerTiming string `header:"Server-Timing" example:"see;dur=1.2, encode;dur=9.8" doc:"Milliseconds that seeing the display and making the file took (W3C Server Timing); a file that somebody had asked for before takes none"`
		Body         []byte
	}
	file := &huma.Schema{Type: huma.TypeString, Format: "binary"}
	register(s, needs(desktop.CanControl), huma.Operation{
		OperationID: "getScreenshot", Method: http.MethodGet, Path: desktopPath + "/screenshot", Tags: []string{tagControl},
		Summary: "See the display", Description: "A picture of the display as it is now, or with `settleMs` when it has come to rest. " +
			"A display that has not changed costs next to nothing to ask for again: send its `ETag`.",
		Errors: []int{http.StatusConflict},
		Responses: map[string]*huma.Response{
			"200": {Description: "The picture", Content: map[string]*huma.MediaType{
				"image/png": {Schema: file}, "image/jpeg": {Schema: file}, "image/webp": {Schema: file}}},
			"304": {Description: "The caller has that picture"},
		},
	}, func(ctx context.Context, in *input) (*answer, error) {
		if err := in.Picture.check(); err != nil {
			return nil, desktop.Errorf(desktop.Invalid, "%w", err)
		}
		began := time.Now()
		sight, err := s.desktops.See(ctx, callerOf(ctx), in.ID, milliseconds(in.SettleMs))
		if err != nil {
			return nil, err
		}
		seen := time.Now()
		frame := sight.Frame
		display := frame.Pixels.Bounds()
		options, err := in.Picture.options(display)
		if err != nil {
			return nil, err
		}
		out := &answer{
			Status:       http.StatusOK,
			ETag:         s.album.tag(in.ID, frame, in.Picture),
			CacheControl: "private, no-cache", // kept only to be asked about
			Source:       string(frame.Source),
			Display:      fmt.Sprintf("%dx%d", display.Dx(), display.Dy()),
		}
		if in.SettleMs > 0 {
			out.Settled, out.WaitedMs = strconv.FormatBool(sight.Settled), strconv.FormatInt(sight.Waited.Milliseconds(), 10)
		}
		if matches(in.Known, out.ETag) {
			out.Status = http.StatusNotModified
			return out, nil
		}
		encoding := time.Now()
		image, err := s.album.picture(in.ID, frame, in.Picture, options)
		if err != nil {
			return nil, err
		}
		out.ServerTiming = fmt.Sprintf("see;dur=%.2f, encode;dur=%.2f", inMs(seen.Sub(began)), inMs(time.Since(encoding)))
		out.ContentType, out.Body = image.ContentType, image.Bytes
		out.Width, out.Height = strconv.Itoa(image.Width), strconv.Itoa(image.Height)
		return out, nil
	})
}

func inMs(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// matches tells whether an If-None-Match header names the tag.
func matches(header, tag string) bool {
	for one := range strings.SplitSeq(header, ",") {
		one = strings.TrimSpace(one)
		if one == "*" || strings.TrimPrefix(one, "W/") == tag {
			return true
		}
	}
	return false
}
