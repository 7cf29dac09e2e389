package modeltest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg"
	_ "image/png"
	"net/http"
	"slices"
	"strings"

	_ "golang.org/x/image/webp"

	"bureau/assistant/model"
)

// Request is one that a server got, in no vendor's words.
type Request struct {
	Format    model.Format
	Model     string
	Stream    bool
	System    string
	Tools     []string       // names; the computer's is among them
	Computer  *model.Display // when it is offered; without a size where the format announces none
	MaxTokens int
	// Messages have the calls' Arguments as they came. Neighbours of one role are one.
	Messages []model.Message
	Header   http.Header
	Body     json.RawMessage
	// Step is that of the script that it took, -1 when it took none, and Usage what it was told to have used.
	Step  int
	Usage model.Usage
	// Problem is what was wrong with it.
	Problem string
}

// Text is what the last message says, results included.
func (r *Request) Text() string {
	said := r.last()
	return strings.TrimSpace(said.Result + "\n" + said.User)
}

func (r *Request) last() (said words) {
	if len(r.Messages) == 0 {
		return said
	}
	for _, part := range r.Messages[len(r.Messages)-1].Parts {
		if part.Result != nil {
			said.Result = strings.TrimSpace(said.Result + "\n" + part.Result.Text)
		}
		said.User = strings.TrimSpace(said.User + "\n" + part.Text)
	}
	return said
}

// Pictures are all that the conversation holds.
func (r *Request) Pictures() []*model.Picture {
	var pictures []*model.Picture
	for _, message := range r.Messages {
		for _, part := range message.Parts {
			if part.Picture != nil {
				pictures = append(pictures, part.Picture)
			}
			if part.Result != nil && part.Result.Picture != nil {
				pictures = append(pictures, part.Result.Picture)
			}
		}
	}
	return pictures
}

// answers is how many the model has given so far.
func (r *Request) answers() int {
	n := 0
	for _, message := range r.Messages {
		if message.Role == model.Assistant {
			n++
		}
	}
	return n
}

func (r *Request) add(role model.Role, parts ...model.Part) {
	if last := len(r.Messages) - 1; last >= 0 && r.Messages[last].Role == role {
		r.Messages[last].Parts = append(r.Messages[last].Parts, parts...)
		return
	}
	r.Messages = append(r.Messages, model.Message{Role: role, Parts: parts})
}

// check tells what every vendor would find wrong with a conversation, and, when strict, what is not
// as this project does it.
func (r *Request) check(strict bool) error {
	switch {
	case r.Model == "":
		return errors.New("no model is named")
	case len(r.Messages) == 0:
		return errors.New("there are no messages")
	case r.Messages[0].Role != model.User:
		return errors.New("the first message is not the user's")
	case r.Messages[len(r.Messages)-1].Role != model.User:
		return errors.New("the last message is not the user's")
	}
	open, seen := map[string]*model.Call{}, map[string]bool{}
	for i, message := range r.Messages {
		if len(message.Parts) == 0 {
			return fmt.Errorf("message %d is empty", i)
		}
		if message.Role == model.Assistant && len(open) > 0 {
			return fmt.Errorf("message %d: %s", i, missing(open))
		}
		for _, part := range message.Parts {
			switch {
			case part.Call != nil:
				if seen[part.Call.ID] {
					return fmt.Errorf("message %d: the call %q is there twice", i, part.Call.ID)
				}
				seen[part.Call.ID], open[part.Call.ID] = true, part.Call
			case part.Result != nil:
				call := open[part.Result.ID]
				if call == nil {
					return fmt.Errorf("message %d: the result %q answers no call of the message before", i, part.Result.ID)
				}
				delete(open, part.Result.ID)
				if err := checkPicture(part.Result.Picture); err != nil {
					return fmt.Errorf("message %d: the result %q: %w", i, part.Result.ID, err)
				}
				if p, d := part.Result.Picture, r.Computer; strict && p != nil && call.Tool == model.Computer && d != nil && d.Width > 0 && (p.Width > d.Width || p.Height > d.Height) {
					return fmt.Errorf("message %d: the picture of %q is %dx%d, and the display was announced as %dx%d", i, part.Result.ID, p.Width, p.Height, d.Width, d.Height)
				}
			case part.Picture != nil:
				if err := checkPicture(part.Picture); err != nil {
					return fmt.Errorf("message %d: %w", i, err)
				}
			}
		}
		if message.Role == model.User && len(open) > 0 {
			return fmt.Errorf("message %d: %s", i, missing(open))
		}
	}
	return nil
}

func missing(open map[string]*model.Call) string {
	var ids []string
	for id, call := range open {
		ids = append(ids, call.Tool+" "+id)
	}
	slices.Sort(ids)
	return "the calls " + strings.Join(ids, ", ") + " have no result"
}

// checkPicture reads a picture, and its size into it.
func checkPicture(picture *model.Picture) error {
	if picture == nil {
		return nil
	}
	decoded, kind, err := image.Decode(bytes.NewReader(picture.Data))
	if err != nil {
		return fmt.Errorf("a picture cannot be decoded: %w", err)
	}
	if "image/"+kind != picture.MediaType {
		return fmt.Errorf("a picture is said to be %s and is image/%s", picture.MediaType, kind)
	}
	picture.Width, picture.Height = decoded.Bounds().Dx(), decoded.Bounds().Dy()
	return nil
}

func dataURL(url string) (*model.Picture, error) {
	head, data, ok := strings.Cut(url, ";base64,")
	kind, is := strings.CutPrefix(head, "data:")
	if !ok || !is {
		return nil, errors.New("a picture is not a data URL in base64")
	}
	return base64Picture(kind, data)
}

func base64Picture(kind, data string) (*model.Picture, error) {
	decoded, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return nil, fmt.Errorf("a picture is not base64: %w", err)
	}
	return &model.Picture{MediaType: kind, Data: decoded}, nil
}

// measure makes up how many tokens a request is: one for four bytes, one for 750 pixels. What was
// there when the model answered last is read from the cache.
func (r *Request) measure() model.Usage {
	count := func(messages []model.Message) (n int64) {
		for _, message := range messages {
			for _, part := range message.Parts {
				n += int64(len(part.Text))/4 + 1
				if part.Call != nil {
					n += int64(len(part.Call.Arguments)) / 4
				}
				if part.Result != nil {
					n += int64(len(part.Result.Text)) / 4
				}
			}
		}
		one := Request{Messages: messages}
		for _, picture := range one.Pictures() {
			n += int64(picture.Width * picture.Height / 750)
		}
		return n
	}
	all := int64(len(r.System))/4 + count(r.Messages) + int64(100*len(r.Tools))
	before := 0
	for i, message := range r.Messages {
		if message.Role == model.Assistant {
			before = i
		}
	}
	var usage model.Usage
	if before > 0 {
		usage.CacheRead = int64(len(r.System))/4 + count(r.Messages[:before]) + int64(100*len(r.Tools))
	}
	usage.Input = all - usage.CacheRead
	if r.Format == model.Anthropic && usage.Input > 10 { // the only one that tells
		usage.CacheWrite, usage.Input = usage.Input-10, 10
	}
	return usage
}

// unknown tells what of a JSON document got lost on its way through a type.
func unknown(data []byte, through any) error {
	again, err := json.Marshal(through)
	if err != nil {
		return fmt.Errorf("writing what was read: %w", err)
	}
	var a, b any
	if err := json.Unmarshal(data, &a); err != nil {
		return err
	}
	if err := json.Unmarshal(again, &b); err != nil {
		return err
	}
	if path := lost(a, b); path != "" {
		return fmt.Errorf("%s is not known to the SDK's types", path)
	}
	return nil
}

func lost(a, b any) string {
	switch a := a.(type) {
	case map[string]any:
		m, ok := b.(map[string]any)
		if !ok {
			return "."
		}
		for key, value := range a {
			other, ok := m[key]
			if !ok {
				return "." + key
			}
			if path := lost(value, other); path != "" {
				return strings.TrimSuffix("."+key+path, ".")
			}
		}
	case []any:
		l, ok := b.([]any)
		if !ok || len(l) != len(a) {
			return "."
		}
		for i := range a {
			if path := lost(a[i], l[i]); path != "" {
				return strings.TrimSuffix(fmt.Sprintf("[%d]%s", i, path), ".")
			}
		}
	default:
		if a != b {
			return "."
		}
	}
	return ""
}
