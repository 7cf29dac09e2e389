package agent

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"bureau/desktop"
)

// What crosses the link inside HTTP requests and answers, in both directions of coding. Whatever
// comes from the guest is bounded here.

// The guest's routes.
const (
	routeStatus  = "/status"
	routeAct     = "/act"
	routeExec    = "/exec"
	routeCapture = "/capture"
	routeCursor  = "/cursor"
	routeWindows = "/windows"
	routeActive  = "/windows/active"
	routeClose   = "/windows/close"
	routeClip    = "/clipboard"
	routeSize    = "/size"
	routeAgent   = "/agent"
)

// Limits of what the guest may send.
const (
	maxStatus  = 64 << 10 // a line of /status
	maxAnswer  = 64 << 10 // a JSON answer, an error
	maxMessage = 1 << 10  // an error's message
	maxAddress = 64       // an address, and how many of them
	maxBinary  = 1 << 30  // what the guest takes as a binary
	maxWindows = 8 << 20  // the list of windows in JSON
	maxTitle   = 512      // a window's title
	maxClass   = 128      // its class and kind

	maxDisplaySide = desktop.MaxDisplaySide
	maxDisplay     = desktop.MaxDisplayPixels
	maxCursorSide  = 512
)

// maxRequest bounds the JSON of one request: the longest script and standard input, escaped.
const maxRequest = 64 << 20

type actRequest struct {
	Actions []desktop.Action `json:"actions"`
}

type actAnswer struct {
	desktop.Acted
	Synced bool `json:"synced,omitempty"`
}

// windowRequest names a window.
type windowRequest struct {
	ID uint32 `json:"id"`
}

// readWindows reads a JSON list of windows, one after another and no more than are taken: as values
// they are many times as large as they can be in JSON.
func readWindows(r io.Reader) ([]desktop.Window, error) {
	limited := &io.LimitedReader{R: r, N: maxWindows}
	in := json.NewDecoder(limited)
	fail := func(err error) ([]desktop.Window, error) {
		if limited.N == 0 {
			err = fmt.Errorf("more than %d bytes", maxWindows)
		}
		return nil, noEOF(err)
	}
	list := []desktop.Window{}
	switch start, err := in.Token(); {
	case err != nil:
		return fail(err)
	case start == nil: // none
		return list, nil
	case start != json.Delim('['):
		return fail(errors.New("no list"))
	}
	for in.More() && len(list) < desktop.MaxWindows {
		var w desktop.Window
		if err := in.Decode(&w); err != nil {
			return fail(err)
		}
		list = append(list, cleanWindow(w))
	}
	if len(list) == desktop.MaxWindows {
		return list, nil // those beyond are not looked at
	}
	if _, err := in.Token(); err != nil {
		return fail(err)
	}
	return list, nil
}

// cleanWindows bounds a list of windows.
func cleanWindows(list []desktop.Window) []desktop.Window {
	list = list[:min(len(list), desktop.MaxWindows)]
	for i := range list {
		list[i] = cleanWindow(list[i])
	}
	return list
}

func cleanWindow(w desktop.Window) desktop.Window {
	coordinate := func(n int) int { return min(max(n, math.MinInt16), math.MaxUint16) }
	w.Title, w.Class, w.Kind = cleanLine(w.Title, maxTitle), cleanLine(w.Class, maxClass), cleanLine(w.Kind, maxClass)
	w.X, w.Y = coordinate(w.X), coordinate(w.Y)
	w.Width, w.Height = max(0, coordinate(w.Width)), max(0, coordinate(w.Height))
	w.Workspace = min(max(w.Workspace, -1), math.MaxUint16)
	return w
}

// failure is an error on the wire.
type failure struct {
	Code    desktop.Code   `json:"code"`
	Message string         `json:"message"`
	Details map[string]any `json:"details,omitempty"`
}

// guestCodes are the codes that a guest may use; everything else of it is an internal fault.
var guestCodes = []desktop.Code{
	desktop.Invalid, desktop.NotFound, desktop.Conflict, desktop.TooLarge, desktop.Unavailable,
}

// failureOf puts an error on the wire.
func failureOf(err error) failure {
	f := failure{Code: desktop.Internal, Message: err.Error()}
	var e *desktop.Error
	if errors.As(err, &e) {
		f.Code, f.Message, f.Details = e.Code, e.Message, e.Details
	}
	if len(f.Message) > maxMessage {
		f.Message = strings.ToValidUTF8(f.Message[:maxMessage], "")
	}
	return f
}

// err is the error that the host makes of it. One that the guest does not know the kind of is a
// fault of ours, for the log.
func (f failure) err() error {
	message := cleanLine(f.Message, maxMessage)
	if message == "" {
		message = "the agent gave no reason"
	}
	if !slices.Contains(guestCodes, f.Code) {
		return fmt.Errorf("agent: %s", message)
	}
	e := &desktop.Error{Code: f.Code, Message: message}
	for _, key := range slices.Sorted(maps.Keys(f.Details)) {
		if len(e.Details) == 16 {
			break
		}
		if value, ok := cleanValue(f.Details[key], 2); ok {
			if e.Details == nil {
				e.Details = map[string]any{}
			}
			e.Details[cleanLine(key, 64)] = value
		}
	}
	return e
}

// cleanValue bounds one member of an error's details: scalars, and maps and lists of them.
func cleanValue(v any, depth int) (any, bool) {
	switch v := v.(type) {
	case bool:
		return v, true
	case string:
		return cleanLine(v, maxMessage), true
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int(v), true
		}
		return v, true
	case map[string]any:
		if depth == 0 || len(v) > 16 {
			return nil, false
		}
		out := make(map[string]any, len(v))
		for key, member := range v {
			if member, ok := cleanValue(member, depth-1); ok {
				out[cleanLine(key, 64)] = member
			}
		}
		return out, true
	case []any:
		if depth == 0 || len(v) > 64 {
			return nil, false
		}
		out := make([]any, 0, len(v))
		for _, member := range v {
			if member, ok := cleanValue(member, depth-1); ok {
				out = append(out, member)
			}
		}
		return out, true
	}
	return nil, false
}

// cleanLine makes one line of valid UTF-8 of at most limit bytes, which holds nothing of a longer one.
func cleanLine(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(cut(s, limit), "\uFFFD"))
	return strings.Clone(cut(s, limit)) // it may have become longer
}

// cut is at most limit bytes of s, without half a character at their end.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return s[:wholeRunes(s[:limit])]
}

// wholeRunes is the length of text without the beginning of a character at its end.
func wholeRunes[T string | []byte](text T) int {
	for back := 1; back <= min(utf8.UTFMax-1, len(text)); back++ {
		if b := text[len(text)-back]; utf8.RuneStart(b) {
			if b >= utf8.RuneSelf && !utf8.FullRune([]byte(text[len(text)-back:])) {
				return len(text) - back
			}
			break
		}
	}
	return len(text)
}

// cleanStatus bounds a status.
func cleanStatus(s desktop.AgentStatus) desktop.AgentStatus {
	s.Reason = cleanLine(s.Reason, maxMessage)
	s.Models = cleanLine(s.Models, maxMessage)
	s.Version = cleanLine(s.Version, versionLength)
	s.BootID = cleanLine(s.BootID, 64)
	s.Display.Width = min(max(s.Display.Width, 0), maxDisplaySide)
	s.Display.Height = min(max(s.Display.Height, 0), maxDisplaySide)
	s.Addresses = slices.Clone(s.Addresses[:min(len(s.Addresses), maxAddress)])
	for i, address := range s.Addresses {
		s.Addresses[i] = cleanLine(address, maxAddress)
	}
	return s
}

// writeError answers a request with an error.
func writeError(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	json.NewEncoder(w).Encode(failureOf(err)) // a peer that is gone needs no answer
}

// readError reads what writeError wrote.
func readError(r io.Reader) error {
	var f failure
	if err := decode(r, maxAnswer, &f); err != nil {
		return fmt.Errorf("agent: an error that cannot be read: %w", err)
	}
	return f.err()
}

// decode reads JSON of at most limit bytes.
func decode(r io.Reader, limit int64, into any) error {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return err
	}
	if int64(len(data)) > limit {
		return fmt.Errorf("more than %d bytes", limit)
	}
	return json.Unmarshal(data, into)
}

// decodeLine is decode for the first line of what goes on.
func decodeLine(r io.Reader, limit int64, into any) error {
	line, err := bufio.NewReader(io.LimitReader(r, limit+1)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if int64(len(line)) > limit {
		return fmt.Errorf("more than %d bytes", limit)
	}
	return json.Unmarshal(line, into)
}

// A chunk is a piece of the answer to an exec: one byte of kind, the length in four bytes, the
// content. The last one is a chunkExit or a chunkError.
const (
	chunkStdout = 1
	chunkStderr = 2
	chunkExit   = 3 // the desktop.ExecResult in JSON, without output
	chunkError  = 4 // a failure in JSON

	chunkHeader = 5
	maxChunk    = 64 << 10
)

func writeChunk(w io.Writer, kind byte, content []byte) error {
	b := make([]byte, 0, chunkHeader+len(content))
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	_, err := w.Write(append(b, content...))
	return err
}

// readChunk reads one chunk into buf, which holds maxChunk.
func readChunk(r io.Reader, buf []byte) (kind byte, content []byte, err error) {
	var header [chunkHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length > maxChunk {
		return 0, nil, fmt.Errorf("a chunk of %d bytes", length)
	}
	content = buf[:length]
	if _, err := io.ReadFull(r, content); err != nil {
		return 0, nil, noEOF(err)
	}
	return header[0], content, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A capture is the display's width and height, then the cursor's header, then the display's pixels,
// then the cursor's, as 8-bit RGBA row by row. A cursor's header is six numbers: width and height of
// its image, 0 for no cursor; its hot spot; its place. Numbers have 32 bits.
const (
	captureHeader = 2 * 4
	cursorHeader  = 6 * 4
)

func writeCapture(w io.Writer, f *desktop.Frame) error {
	size := f.Pixels.Rect.Size()
	header := appendNumbers(nil, size.X, size.Y)
	if _, err := w.Write(appendCursor(header, f.Cursor)); err != nil {
		return err
	}
	if err := writePixels(w, f.Pixels); err != nil {
		return err
	}
	return writeShape(w, f.Cursor)
}

// writeCursor writes a cursor alone: its header and its pixels.
func writeCursor(w io.Writer, c *desktop.Cursor) error {
	if _, err := w.Write(appendCursor(nil, c)); err != nil {
		return err
	}
	return writeShape(w, c)
}

func appendCursor(b []byte, c *desktop.Cursor) []byte {
	if c == nil || c.Image == nil {
		return appendNumbers(b, 0, 0, 0, 0, 0, 0)
	}
	shape := c.Image.Rect.Size()
	return appendNumbers(b, shape.X, shape.Y, c.Hot.X, c.Hot.Y, c.Position.X, c.Position.Y)
}

func writeShape(w io.Writer, c *desktop.Cursor) error {
	if c == nil || c.Image == nil {
		return nil
	}
	return writePixels(w, c.Image)
}

func appendNumbers(b []byte, numbers ...int) []byte {
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint32(b, uint32(int32(n)))
	}
	return b
}

// number is the nth number of a header.
func number(header []byte, n int) int { return int(int32(binary.BigEndian.Uint32(header[4*n:]))) }

func writePixels(w io.Writer, m *image.RGBA) error {
	width, height := 4*m.Rect.Dx(), m.Rect.Dy()
	if m.Stride == width {
		_, err := w.Write(m.Pix[:width*height])
		return err
	}
	for y := range height {
		if _, err := w.Write(m.Pix[y*m.Stride:][:width]); err != nil {
			return err
		}
	}
	return nil
}

func readCapture(r io.Reader) (*desktop.Frame, error) {
	var header [captureHeader + cursorHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, noEOF(err)
	}
	width, height := number(header[:], 0), number(header[:], 1)
	if width < 1 || height < 1 || width > maxDisplaySide || height > maxDisplaySide || width*height > maxDisplay {
		return nil, fmt.Errorf("a display of %d by %d", width, height)
	}
	pixels, err := readPixels(r, width, height)
	if err != nil {
		return nil, err
	}
	for i := 3; i < len(pixels.Pix); i += 4 {
		pixels.Pix[i] = 0xFF
	}
	cursor, err := readShape(r, header[captureHeader:])
	if err != nil {
		return nil, err
	}
	return &desktop.Frame{Pixels: pixels, Cursor: cursor, Source: desktop.SourceAgent}, nil
}

// readCursor reads what writeCursor wrote.
func readCursor(r io.Reader) (*desktop.Cursor, error) {
	var header [cursorHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, noEOF(err)
	}
	return readShape(r, header[:])
}

// readShape reads the pixels of the cursor that a header describes.
func readShape(r io.Reader, header []byte) (*desktop.Cursor, error) {
	width, height := number(header, 0), number(header, 1)
	if width == 0 && height == 0 {
		return nil, nil
	}
	hot, position := image.Pt(number(header, 2), number(header, 3)), image.Pt(number(header, 4), number(header, 5))
	const far = 2 * maxDisplaySide
	switch {
	case width < 1 || height < 1 || width > maxCursorSide || height > maxCursorSide:
		return nil, fmt.Errorf("a cursor of %d by %d", width, height)
	case !hot.In(image.Rect(0, 0, width, height)), !position.In(image.Rect(-far, -far, far, far)):
		return nil, fmt.Errorf("a cursor out of place")
	}
	shape, err := readPixels(r, width, height)
	if err != nil {
		return nil, err
	}
	// Premultiplied colours are never above their alpha.
	for i := 0; i < len(shape.Pix); i += 4 {
		p := shape.Pix[i : i+4 : i+4]
		p[0], p[1], p[2] = min(p[0], p[3]), min(p[1], p[3]), min(p[2], p[3])
	}
	return &desktop.Cursor{Image: shape, Hot: hot, Position: position}, nil
}

// readPixels takes memory as pixels arrive, not as they are announced.
func readPixels(r io.Reader, width, height int) (*image.RGBA, error) {
	const step = 4 << 20
	size := 4 * width * height
	pix := make([]byte, 0, min(size, step))
	for len(pix) < size {
		if len(pix) == cap(pix) {
			pix = slices.Grow(pix, min(size-len(pix), len(pix)))
		}
		n, err := io.ReadFull(r, pix[len(pix):min(size, cap(pix))])
		pix = pix[:len(pix)+n]
		if err != nil {
			return nil, noEOF(err)
		}
	}
	return &image.RGBA{Pix: pix, Stride: 4 * width, Rect: image.Rect(0, 0, width, height)}, nil
}
