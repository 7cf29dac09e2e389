package agent

import "sync"

// unread keeps account of what the guest has sent on streams and nobody has read yet. Each stream has a
// window of its own, of 256 KiB, and the windows of all streams that the guest may open are together
// more than a desktop may have of the host's memory. At the most the link is read no further, until
// somebody reads, or until the session ends, because no answer to a ping arrives either. Streams that
// the host has opened do not count: there are as many as calls are under way, and a caller who reads
// slowly must not end the session.
type unread struct {
	most int

	mu      sync.Mutex
	moved   *sync.Cond
	total   int
	streams map[uint32]*heap // those that are there
	closed  bool
}

// heap is what lies on one stream.
type heap struct {
	guests bool // the guest has opened it
	bytes  int
	high   int // the most since its buffer was let go
}

// maxUnread is more than the sixteen requests that a desktop may have under way can leave unread.
const maxUnread = 6 << 20

func newUnread(most int) *unread {
	u := &unread{most: most, streams: map[uint32]*heap{}}
	u.moved = sync.NewCond(&u.mu)
	return u
}

// opened takes note of a stream.
func (u *unread) opened(id uint32, guests bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.streams[id] = &heap{guests: guests}
}

// arrived takes note of bytes. Those of a stream that is not there are dropped by the multiplexer.
func (u *unread) arrived(id uint32, n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if h := u.streams[id]; h != nil {
		u.add(h, n)
		h.high = max(h.high, h.bytes)
	}
}

// read takes note of bytes that somebody has read, and tells whether the stream's buffer is empty and
// larger than a frame: the multiplexer would keep it.
func (u *unread) read(id uint32, n int) (shrink bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	h := u.streams[id]
	if h == nil {
		return false
	}
	u.add(h, -n)
	if h.bytes == 0 && h.high > maxBody {
		h.high, shrink = 0, true
	}
	return shrink
}

// add changes what lies on a stream. u.mu must be held.
func (u *unread) add(h *heap, n int) {
	h.bytes += n
	if h.guests {
		u.total += n
	}
	if n < 0 {
		u.moved.Broadcast()
	}
}

// gone takes note of a stream's end, with all that lay on it.
func (u *unread) gone(id uint32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if h := u.streams[id]; h != nil {
		u.add(h, -h.bytes)
		delete(u.streams, id)
	}
}

// wait returns when there is room for more; false when it is closed.
func (u *unread) wait() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.total >= u.most && !u.closed {
		u.moved.Wait()
	}
	return !u.closed
}

func (u *unread) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	u.moved.Broadcast()
}
