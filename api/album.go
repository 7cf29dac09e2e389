package api

import (
	"container/list"
	"fmt"
	"hash/maphash"
	"image"
	"sync"
	"weak"

	"bureau/desktop"
	"bureau/desktop/picture"
)

// album keeps what was made of displays, so that one that has not changed is neither looked at nor
// encoded again, however often and by however many it is asked for.
//
// A frame is known by its address, because it never changes and a screen hands out the same one
// while nothing does; the pointer is weak, which keeps no pixels alive and is never equal to that
// of another frame in the same place. Pixels are hashed once, those that two frames share, which
// differ in their cursors alone, too. A picture is
// kept by its tag, which is made of those hashes and not of the frame: a display that comes back to
// what it was, as with a cursor that blinks, finds its pictures again.
//
// It is safe for concurrent use.
type album struct {
	render Renderer
	limit  int // bytes of all pictures

	mu       sync.Mutex
	contents map[string]*content // the newest of each desktop, by its id
	shots    map[shotKey]*shot
	recent   *list.List // of *shot, the most recently used first
	size     int        // bytes
}

const (
	albumBytes      = 64 << 20
	shotsPerDesktop = 8    // the same display in other formats and regions, and as it was before
	manyContents    = 1024 // of which those are forgotten whose frames are gone
)

// content is what a frame shows, as hashes.
type content struct {
	frame          weak.Pointer[desktop.Frame]
	image          weak.Pointer[image.RGBA] // its pixels
	pixels, cursor func() uint64            // computed once
}

type shotKey struct{ desktop, tag string }

type shot struct {
	key   shotKey
	take  func() (picture.Picture, error) // rendered once, for all who wait
	place *list.Element
	size  int
}

func newAlbum(render Renderer, limit int) *album {
	return &album{render: render, limit: limit, contents: map[string]*content{}, shots: map[shotKey]*shot{}, recent: list.New()}
}

var seed = maphash.MakeSeed()

// tag is the ETag of a picture of a desktop's frame.
func (a *album) tag(id string, frame *desktop.Frame, how Picture) string {
	c := a.content(id, frame)
	how.SettleMs = 0 // which is when, not how
	if how.Quality == 0 {
		how.Quality = picture.DefaultQuality
	}
	about := struct {
		pixels, cursor uint64
		how            Picture
	}{pixels: c.pixels(), how: how}
	if how.Cursor {
		about.cursor = c.cursor()
	}
	return fmt.Sprintf(`"%016x"`, maphash.Comparable(seed, about))
}

// content is that of a frame.
func (a *album) content(id string, frame *desktop.Frame) *content {
	a.mu.Lock()
	defer a.mu.Unlock()
	address := weak.Make(frame)
	before := a.contents[id]
	if before != nil && before.frame == address {
		return before
	}
	if len(a.contents) >= manyContents {
		for id, c := range a.contents {
			if c.frame.Value() == nil {
				delete(a.contents, id)
			}
		}
	}
	pixels, cursor := frame.Pixels, frame.Cursor // not the frame, which then is let go of with its pixels
	c := &content{
		frame:  address,
		image:  weak.Make(pixels),
		pixels: sync.OnceValue(func() uint64 { return hashOf(pixels) }),
		cursor: sync.OnceValue(func() uint64 { return cursorHash(cursor) }),
	}
	if before != nil && before.image == c.image {
		c.pixels = before.pixels
	}
	a.contents[id] = c
	return c
}

// hashOf is of a picture's size and pixels.
func hashOf(m *image.RGBA) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	box := m.Bounds()
	maphash.WriteComparable(&h, box)
	for y := box.Min.Y; y < box.Max.Y; y++ {
		row := m.PixOffset(box.Min.X, y)
		h.Write(m.Pix[row : row+4*box.Dx()])
	}
	return h.Sum64()
}

func cursorHash(c *desktop.Cursor) uint64 {
	if c == nil || c.Image == nil {
		return 0
	}
	return maphash.Comparable(seed, struct {
		shape        uint64
		hot, pointed image.Point
	}{hashOf(c.Image), c.Hot, c.Position})
}

// picture is one of a desktop's frame. options say the same as how, for this display.
func (a *album) picture(id string, frame *desktop.Frame, how Picture, options picture.Options) (picture.Picture, error) {
	key := shotKey{id, a.tag(id, frame, how)}
	a.mu.Lock()
	s := a.shots[key]
	if s != nil {
		a.recent.MoveToFront(s.place)
	} else {
		s = &shot{key: key}
		s.take = sync.OnceValues(func() (image picture.Picture, err error) {
			failed := true
			defer func() { a.taken(s, len(image.Bytes), failed) }() // also when the renderer panics
			image, err = a.render(frame, options)
			failed = err != nil
			return image, err
		})
		a.makeRoom(id)
		a.shots[key], s.place = s, a.recent.PushFront(s)
	}
	a.mu.Unlock()
	return s.take()
}

// makeRoom lets the oldest picture of a desktop go that has its share. a.mu must be held.
func (a *album) makeRoom(id string) {
	count := 0
	var oldest *shot
	for e := a.recent.Back(); e != nil; e = e.Prev() {
		if s := e.Value.(*shot); s.key.desktop == id {
			if count++; oldest == nil {
				oldest = s
			}
		}
	}
	if count >= shotsPerDesktop {
		a.drop(oldest)
	}
}

// taken counts a picture, or forgets one that has failed.
func (a *album) taken(s *shot, size int, failed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.shots[s.key] != s {
		return // it has been dropped meanwhile
	}
	if failed {
		a.drop(s)
		return
	}
	s.size = size
	a.size += size
	for a.size > a.limit {
		a.drop(a.recent.Back().Value.(*shot))
	}
}

// drop forgets a picture. a.mu must be held.
func (a *album) drop(s *shot) {
	a.size -= s.size
	a.recent.Remove(s.place)
	delete(a.shots, s.key)
}
