package hypervisor

import (
	"context"
	"sync"
)

// watcher collects the ids of changed machines for one listener. An id that has not been taken yet
// is not added again, so a slow listener costs no more than one entry for each machine and misses
// no change.
type watcher struct {
	mu      sync.Mutex
	order   []string
	pending map[string]bool
	wake    chan struct{}
}

func (w *watcher) add(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pending[id] {
		return
	}
	w.pending[id] = true
	w.order = append(w.order, id)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) take() (id string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.order) == 0 {
		return "", false
	}
	id = w.order[0]
	w.order = w.order[1:]
	delete(w.pending, id)
	return id, true
}

func (h *Host) subscribe() *watcher {
	w := &watcher{pending: map[string]bool{}, wake: make(chan struct{}, 1)}
	h.mu.Lock()
	h.watchers[w] = struct{}{}
	h.mu.Unlock()
	return w
}

func (h *Host) unsubscribe(w *watcher) {
	h.mu.Lock()
	delete(h.watchers, w)
	h.mu.Unlock()
}

func (h *Host) notify(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		w.add(id)
	}
}

// Watch implements desktop.Machines. The channel is closed when ctx ends or the host is closed.
func (h *Host) Watch(ctx context.Context) <-chan string {
	out := make(chan string)
	if h.begin() != nil {
		close(out)
		return out
	}
	w := h.subscribe()
	go func() {
		defer h.wg.Done()
		defer close(out)
		defer h.unsubscribe(w)
		for {
			id, ok := w.take()
			if !ok {
				select {
				case <-w.wake:
				case <-ctx.Done():
					return
				case <-h.ctx.Done():
					return
				}
				continue
			}
			select {
			case out <- id:
			case <-ctx.Done():
				return
			case <-h.ctx.Done():
				return
			}
		}
	}()
	return out
}
