package agent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bureau/desktop"
)

// How long the host gives a guest, beyond the caller's own patience.
const (
	firstStatusWait = 15 * time.Second
	actWait         = 30 * time.Minute // the longest batch of drags and typing
	captureWait     = 30 * time.Second
	deliverWait     = 5 * time.Minute
	execGrace       = 20 * time.Second // beyond the command's own time limit
	statusPause     = 10 * time.Millisecond
	deskWait        = 30 * time.Second // windows, clipboard, the display's size
	showWait        = 2 * time.Second  // between an answer and its end
)

// Connector makes sessions with agents. It implements desktop.AgentConnector.
type Connector struct {
	// Binary is the path of the host's own executable, which guests that run another one are
	// given: "/proc/self/exe", which stays right when the file is replaced. When it is empty any
	// agent will do.
	Binary string
	// Handler makes what answers the requests of one desktop's guest. That they are that desktop's is
	// known by the link they come over, and by nothing in them. May be nil.
	Handler func(desktopID string) http.Handler
	Log     *slog.Logger
}

var _ desktop.AgentConnector = (*Connector)(nil)

// Connect shakes hands, delivers the host's binary when the guest runs another one, and returns
// when the agent has told its status. It waits for a guest that is still booting until ctx ends.
func (c *Connector) Connect(ctx context.Context, desktopID string, pipe io.ReadWriteCloser) (desktop.Agent, error) {
	w := newWire(pipe, false, newToll())
	a, err := c.connect(ctx, desktopID, w)
	if err != nil {
		w.close()
		return nil, fmt.Errorf("connecting to the agent: %w", err)
	}
	return a, nil
}

func (c *Connector) connect(ctx context.Context, desktopID string, w *wire) (desktop.Agent, error) {
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var want [32]byte
	if c.Binary != "" {
		var err error
		if want, err = fingerprint(c.Binary); err != nil {
			return nil, err
		}
	}
	for delivered := false; ; delivered = true {
		l := w.leg()
		began := time.Now()
		p, err := greet(ctx, l)
		if err != nil {
			return nil, err
		}
		m, err := newMux(l, true, log)
		if err != nil {
			return nil, err
		}
		log.Debug("agent shook hands", "version", p.version, "took", time.Since(began))
		switch {
		case c.Binary == "" || p.binary == want:
			handler := http.NotFoundHandler()
			if c.Handler != nil {
				handler = c.Handler(desktopID)
			}
			s, err := newSession(ctx, w, m, handler, log)
			if err != nil {
				m.close()
				return nil, err
			}
			return s, nil
		case delivered:
			m.close()
			return nil, desktop.Errorf(desktop.Unavailable,
				"the desktop's agent is %s still, after this bureau's own was delivered to it: restart the desktop", p.version)
		}
		log.Info("delivering this bureau to a desktop whose agent is another", "version", p.version)
		err = c.deliver(ctx, m)
		m.close()
		if err != nil {
			return nil, fmt.Errorf("delivering the agent: %w", err)
		}
	}
}

// deliver puts the host's binary in the place of the guest's agent, which starts it when the
// session ends.
func (c *Connector) deliver(ctx context.Context, m *mux) error {
	f, err := os.Open(c.Binary)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deliverWait)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://agent"+routeAgent, io.LimitReader(f, size))
	if err != nil {
		return err
	}
	request.ContentLength = size
	request.Header.Set(sumHeader, hex.EncodeToString(h.Sum(nil)))
	transport := m.transport()
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		return readError(response.Body)
	}
	return nil
}

// session is the host's end of a session. It implements desktop.Agent.
type session struct {
	wire      *wire
	mux       *mux
	transport *http.Transport
	log       *slog.Logger

	status  atomic.Pointer[desktop.AgentStatus]
	changed chan struct{}
	serial  atomic.Uint64

	mu      sync.Mutex
	showing map[chan struct{}]struct{} // closed when what was done is on the display
	ended   bool
	work    sync.WaitGroup // those who wait for that

	cancel context.CancelFunc
	done   chan struct{}
}

var _ desktop.Agent = (*session)(nil)

// newSession returns when the guest has told its status. On an error the wire is the caller's.
func newSession(ctx context.Context, w *wire, m *mux, handler http.Handler, log *slog.Logger) (*session, error) {
	life, cancel := context.WithCancel(context.Background())
	s := &session{
		wire: w, mux: m, transport: m.transport(), log: log,
		changed: make(chan struct{}, 1), showing: make(map[chan struct{}]struct{}),
		cancel: cancel, done: make(chan struct{}),
	}
	lines, err := s.firstStatus(ctx, life)
	if err != nil {
		cancel()
		s.transport.CloseIdleConnections()
		return nil, err
	}
	var working sync.WaitGroup
	working.Go(func() { m.serve(life, handler, guestStreams, log) })
	working.Go(func() {
		s.follow(lines)
		m.close() // a session without its status is none
	})
	go func() {
		<-m.done()
		cancel()
		w.close()
		m.close()
		working.Wait()
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		s.work.Wait()
		s.transport.CloseIdleConnections()
		close(s.done)
	}()
	return s, nil
}

// statusLines is the answer to /status, read line by line.
type statusLines struct {
	scanner *bufio.Scanner
	close   context.CancelFunc
}

func (l *statusLines) next() (desktop.AgentStatus, error) {
	var status desktop.AgentStatus
	if !l.scanner.Scan() {
		if err := l.scanner.Err(); err != nil {
			return status, err
		}
		return status, io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(l.scanner.Bytes(), &status); err != nil {
		return status, fmt.Errorf("a status that cannot be read: %w", err)
	}
	return cleanStatus(status), nil
}

// firstStatus asks for the status, for life, and waits for its first line.
func (s *session) firstStatus(ctx, life context.Context) (*statusLines, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, firstStatusWait,
		desktop.Errorf(desktop.Unavailable, "the desktop's agent has shaken hands and tells no status"))
	defer cancel()
	life, abort := context.WithCancel(life)
	stop := context.AfterFunc(ctx, abort)
	fail := func(err error) (*statusLines, error) {
		abort()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	response, err := s.do(life, http.MethodGet, routeStatus, nil)
	if err != nil {
		return fail(err)
	}
	lines := &statusLines{
		scanner: bufio.NewScanner(response.Body),
		close:   func() { abort(); response.Body.Close() },
	}
	lines.scanner.Buffer(make([]byte, 4096), maxStatus)
	status, err := lines.next()
	if err != nil || !stop() {
		lines.close()
		return fail(err)
	}
	s.status.Store(&status)
	return lines, nil
}

// follow reads the status until the session ends.
func (s *session) follow(lines *statusLines) {
	defer lines.close()
	for {
		status, err := lines.next()
		if err != nil {
			s.log.Debug("the agent's status ended", "error", err)
			return
		}
		s.status.Store(&status)
		notify(s.changed)
		// A guest that reports without end is read at a bounded pace.
		select {
		case <-time.After(statusPause):
		case <-s.mux.done():
			return
		}
	}
}

func (s *session) Status() desktop.AgentStatus { return *s.status.Load() }
func (s *session) Changed() <-chan struct{}    { return s.changed }
func (s *session) Done() <-chan struct{}       { return s.done }

func (s *session) Close() error {
	s.mux.close()
	<-s.done
	return nil
}

// do makes a request. The answer is one of success; its body is the caller's to close.
func (s *session) do(ctx context.Context, method, route string, message any) (*http.Response, error) {
	var body io.Reader
	switch message := message.(type) {
	case nil:
	case string: // a text, as it is
		body = strings.NewReader(message)
	default:
		data, err := json.Marshal(message)
		if err != nil {
			return nil, fmt.Errorf("writing the request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+route, body)
	if err != nil {
		return nil, err
	}
	response, err := s.transport.RoundTrip(request)
	if err != nil {
		return nil, s.lost(ctx, err)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusNoContent {
		defer response.Body.Close()
		return nil, theirs(ctx, readError(response.Body))
	}
	return response, nil
}

// theirs is an error of the guest's, unless the caller has gone: what the guest says of that is an
// echo.
func theirs(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// lost makes the caller's error of one that the link had.
func (s *session) lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return desktop.Errorf(desktop.Unavailable, "the desktop's agent went away: %w", err)
}

// within bounds a call that the guest could draw out for ever.
func within(ctx context.Context, wait time.Duration, doing string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, wait,
		desktop.Errorf(desktop.Unavailable, "the desktop's agent did not finish %s", doing))
}

// Act implements desktop.Agent.
func (s *session) Act(ctx context.Context, actions ...desktop.Action) (desktop.Acted, error) {
	ctx, cancel := within(ctx, actWait, "the input")
	defer cancel()
	body, ending, err := s.perform(ctx, routeAct, actRequest{actions})
	if err != nil {
		return desktop.Acted{}, err
	}
	answered := false
	defer func() { ending(answered) }()
	var answer actAnswer
	if err := decodeLine(body, maxAnswer, &answer); err != nil {
		return desktop.Acted{}, s.lost(ctx, err)
	}
	answered = true
	answer.Acted.Synced = answer.Synced
	return answer.Acted, nil
}

// perform asks for something to be done whose answer ends, after the news of it, when the display shows
// it. The caller reads the news, and then says by ending whether they were complete: if so, the end
// is waited for, by Shown.
func (s *session) perform(ctx context.Context, route string, message any) (body io.Reader, ending func(answered bool), err error) {
	// The end comes after the caller's context has.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	response, err := s.do(life, http.MethodPost, route, message)
	if err != nil {
		cancel()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, nil, err
	}
	return response.Body, func(answered bool) {
		if !answered || !stop() || !s.await(response.Body, cancel) {
			response.Body.Close()
			cancel()
		}
	}, nil
}

// await has the end of an answer waited for, unless the session has ended.
func (s *session) await(body io.ReadCloser, cancel context.CancelFunc) bool {
	shown := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.showing[shown] = struct{}{}
	s.work.Go(func() {
		limit := time.AfterFunc(showWait, cancel)
		_, _ = io.Copy(io.Discard, io.LimitReader(body, maxAnswer))
		limit.Stop()
		body.Close()
		cancel()
		s.mu.Lock()
		delete(s.showing, shown)
		s.mu.Unlock()
		close(shown)
	})
	return true
}

// Shown implements desktop.Agent.
func (s *session) Shown(ctx context.Context) error {
	s.mu.Lock()
	showing := slices.Collect(maps.Keys(s.showing))
	s.mu.Unlock()
	for _, shown := range showing {
		select {
		case <-shown:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Capture implements desktop.Agent.
func (s *session) Capture(ctx context.Context) (*desktop.Frame, error) {
	ctx, cancel := within(ctx, captureWait, "the picture")
	defer cancel()
	response, err := s.do(ctx, http.MethodGet, routeCapture, nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	f, err := readCapture(response.Body)
	if err != nil {
		return nil, s.lost(ctx, fmt.Errorf("reading the picture: %w", err))
	}
	f.Serial = s.serial.Add(1)
	return f, nil
}

// Cursor implements desktop.Agent.
func (s *session) Cursor(ctx context.Context) (*desktop.Cursor, error) {
	ctx, cancel := within(ctx, captureWait, "the cursor")
	defer cancel()
	response, err := s.do(ctx, http.MethodGet, routeCursor, nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	c, err := readCursor(response.Body)
	if err != nil {
		return nil, s.lost(ctx, fmt.Errorf("reading the cursor: %w", err))
	}
	return c, nil
}

// Exec implements desktop.Agent.
func (s *session) Exec(ctx context.Context, command desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
	limit := command.Timeout
	if limit <= 0 {
		limit = desktop.DefaultExecTimeout
	}
	ctx, cancel := within(ctx, min(limit, desktop.MaxExecTimeout)+execGrace, "the command")
	defer cancel()
	var result desktop.ExecResult
	body, ending, err := s.perform(ctx, routeExec, command)
	if err != nil {
		return result, err
	}
	answered := false
	defer func() { ending(answered) }()

	var written [3]int
	kept := [3]keptOutput{chunkStdout: {raw: command.Raw}, chunkStderr: {raw: command.Raw}}
	dropped, truncated := 0, false
	buf := make([]byte, maxChunk)
	for {
		kind, content, err := readChunk(body, buf)
		if err != nil {
			return result, s.lost(ctx, noEOF(err))
		}
		switch kind {
		case chunkStdout, chunkStderr:
			room := desktop.MaxExecOutput - written[kind]
			if len(content) > room {
				// Our agent stops by itself.
				if dropped += len(content) - room; dropped > desktop.MaxExecOutput {
					return result, s.lost(ctx, errors.New("it sends output without end"))
				}
				content, truncated = content[:room], true
			}
			written[kind] += len(content)
			switch {
			case len(content) == 0:
			case output == nil:
				kept[kind].add(content)
			case kind == chunkStdout:
				output(desktop.Stdout, content)
			default:
				output(desktop.Stderr, content)
			}
		case chunkExit:
			if err := json.Unmarshal(content, &result); err != nil {
				return result, fmt.Errorf("agent: an ending that cannot be read: %w", err)
			}
			answered = true
			result.Signal = cleanLine(result.Signal, 32)
			result.Stdout, result.Stderr = kept[chunkStdout].end(), kept[chunkStderr].end()
			result.Truncated = result.Truncated || truncated || kept[chunkStdout].full || kept[chunkStderr].full
			return result, nil
		case chunkError:
			return result, theirs(ctx, readError(bytes.NewReader(content)))
		default:
			return result, s.lost(ctx, errors.New("a chunk of unknown kind"))
		}
	}
}

// keptOutput is output that is kept: at most MaxExecOutput bytes, and unless it is raw, valid UTF-8,
// however it was cut into pieces. It is made valid as it comes and lies in blocks, so that there is
// neither a second copy of it nor memory that it has grown out of, until it is asked for as a whole.
type keptOutput struct {
	raw    bool
	blocks [][]byte
	size   int
	held   []byte // the beginning of a character
	full   bool   // something was dropped
}

func (k *keptOutput) add(piece []byte) {
	if k.raw {
		k.put(piece)
		return
	}
	piece = append(k.held, piece...)
	whole := wholeRunes(piece)
	k.put(piece[:whole])
	k.held = bytes.Clone(piece[whole:])
}

func (k *keptOutput) put(piece []byte) {
	if !k.raw {
		piece = bytes.ToValidUTF8(piece, []byte("\uFFFD"))
	}
	if room := desktop.MaxExecOutput - k.size; len(piece) > room {
		k.full = true
		if !k.raw {
			room = wholeRunes(piece[:room])
		}
		piece = piece[:room]
	}
	k.size += len(piece)
	if last := len(k.blocks) - 1; last >= 0 && len(k.blocks[last]) < maxChunk {
		k.blocks[last] = append(k.blocks[last], piece...)
	} else if len(piece) > 0 {
		k.blocks = append(k.blocks, bytes.Clone(piece))
	}
}

// end is the whole output.
func (k *keptOutput) end() string {
	k.put(k.held) // it never became a character
	var text strings.Builder
	text.Grow(k.size)
	for i, block := range k.blocks {
		text.Write(block)
		k.blocks[i] = nil
	}
	return text.String()
}
