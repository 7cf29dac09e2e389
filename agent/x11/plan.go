package x11

// Typing what a layout lacks. A character without a key is bound to a spare one for the moment.
// Each spare key has two places, plain and with Shift. Binding a place again while an application
// still has strokes of its former meaning to read gives it the wrong characters, so every rebinding
// costs a fence (fence.go). Therefore the whole text is planned ahead: it is cut into chunks, each
// with as many distinct characters as there are places, and a character that stays needed keeps its
// place.

// place is where a character can be bound.
type place struct {
	code    byte
	shifted bool
}

func (p place) stroke() stroke {
	if p.shifted {
		return stroke{p.code, levelShift}
	}
	return stroke{p.code, 0}
}

// chunk is a part of a text that one binding serves.
type chunk struct {
	bind    map[place]rune // what must be bound anew before the text is typed
	strokes []stroke
}

// places lists the places of spare keys: all plain ones first, so that a few characters need no
// Shift.
func places(codes []byte, shift bool) []place {
	var all []place
	for _, code := range codes {
		all = append(all, place{code, false})
	}
	if shift {
		for _, code := range codes {
			all = append(all, place{code, true})
		}
	}
	return all
}

// missing counts the distinct characters of a text that the layout lacks.
func missing(text []rune, has func(rune) (stroke, bool)) int {
	distinct := make(map[rune]bool)
	for _, r := range text {
		if _, ok := has(r); !ok {
			distinct[r] = true
		}
	}
	return len(distinct)
}

// plan cuts a text into chunks. free must not be empty when the layout lacks a character.
func plan(text []rune, has func(rune) (stroke, bool), free []place) []chunk {
	var chunks []chunk
	bound := make(map[rune]place)
	for len(text) > 0 {
		// The chunk reaches as far as its distinct missing characters fit.
		needed := make(map[rune]bool)
		var order []rune
		end := len(text)
		for i, r := range text {
			if _, ok := has(r); ok || needed[r] {
				continue
			}
			if len(order) == len(free) {
				end = i
				break
			}
			needed[r] = true
			order = append(order, r)
		}
		taken := make(map[place]bool)
		for r, p := range bound {
			if needed[r] {
				taken[p] = true
			} else {
				delete(bound, r)
			}
		}
		c := chunk{bind: make(map[place]rune), strokes: make([]stroke, 0, end)}
		next := 0
		for _, r := range order {
			if _, ok := bound[r]; ok {
				continue
			}
			for taken[free[next]] {
				next++
			}
			p := free[next]
			taken[p], bound[r], c.bind[p] = true, p, r
		}
		for _, r := range text[:end] {
			s, ok := has(r)
			if !ok {
				s = bound[r].stroke()
			}
			c.strokes = append(c.strokes, s)
		}
		chunks = append(chunks, c)
		text = text[end:]
	}
	return chunks
}
