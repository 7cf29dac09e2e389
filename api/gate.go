package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"bureau/desktop"
)

// gate is a listener that keeps the number of connections within bounds, in all and of each address, so
// that strangers use up neither the process's file descriptors nor each other's share.
//
// Who comes when there are too many is let in at the cost of the oldest connection that has not shown a
// good key yet: clients that hold connections without authenticating take nobody's place. When all have
// shown one, the newcomer is turned away.
type gate struct {
	net.Listener
	total, each int // 0 for any number
	proxies     []netip.Prefix
	plain       bool // HTTP, not TLS
	log         *slog.Logger

	mu        sync.Mutex
	open      map[*connection]struct{}
	addresses map[netip.Prefix]int
	told      time.Time // when the log was last told of full ones
	refused   int       // since then
	displaced int
}

// connection is one that a gate counts.
type connection struct {
	net.Conn
	gate    *gate
	address netip.Prefix // the zero prefix where those of its address are not counted
	since   time.Time
	known   atomic.Bool // a request on it has shown a good key
}

// tellEvery is how often the log is told of connections that are turned away.
const tellEvery = time.Minute

// Accept returns the next connection that there is room for.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if one := g.admit(conn); one != nil {
			return one, nil
		}
		g.turnAway(conn)
	}
}

// admit counts a connection; nil when there is no room for it.
func (g *gate) admit(conn net.Conn) *connection {
	one := &connection{Conn: conn, gate: g, since: time.Now()}
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		if address := plain(tcp.AddrPort().Addr()); !amongst(address, g.proxies) {
			one.address = neighbourhood(address)
		}
	}
	var displaced *connection
	g.mu.Lock()
	defer func() {
		g.mu.Unlock()
		if displaced != nil {
			_ = displaced.Conn.Close()
		}
	}()
	if g.open == nil {
		g.open, g.addresses = map[*connection]struct{}{}, map[netip.Prefix]int{}
	}
	crowded := one.address.IsValid() && g.each > 0 && g.addresses[one.address] >= g.each
	if crowded || g.total > 0 && len(g.open) >= g.total {
		if displaced = g.oldestStranger(crowded, one.address); displaced == nil {
			g.refused++
			g.tell()
			return nil
		}
		g.remove(displaced)
		g.displaced++
		g.tell()
	}
	g.open[one] = struct{}{}
	g.addresses[one.address]++
	return one
}

// oldestStranger is the oldest connection, of one address or of all, that has not shown a good key.
func (g *gate) oldestStranger(ofOne bool, address netip.Prefix) (oldest *connection) {
	for one := range g.open {
		if one.known.Load() || ofOne && one.address != address || oldest != nil && !one.since.Before(oldest.since) {
			continue
		}
		oldest = one
	}
	return oldest
}

// remove forgets a connection. The lock is held.
func (g *gate) remove(one *connection) {
	if _, ok := g.open[one]; !ok {
		return
	}
	delete(g.open, one)
	if g.addresses[one.address]--; g.addresses[one.address] == 0 {
		delete(g.addresses, one.address)
	}
}

// tell logs, now and then, that there are too many. The lock is held.
func (g *gate) tell() {
	if now := time.Now(); now.Sub(g.told) >= tellEvery {
		g.log.Warn("there are as many connections as there may be", "connections", len(g.open), "refused", g.refused, "displaced", g.displaced)
		g.told, g.refused, g.displaced = now, 0, 0
	}
}

// Close ends the connection and makes room for another.
func (c *connection) Close() error {
	c.gate.mu.Lock()
	c.gate.remove(c)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite lets net/http end an answer before the connection, so that it is not lost.
func (c *connection) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// turnAway ends a connection that there is no room for, and says so where the client can read it.
func (g *gate) turnAway(conn net.Conn) {
	if g.plain {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second)) // a new connection takes this much at once
		_, _ = io.WriteString(conn, tooMany)
	}
	_ = conn.Close()
}

// tooMany is what a client is told that is turned away. There is no request yet that it answers.
var tooMany = func() string {
	kind := kindOf(desktop.Unavailable)
	const sentence = "there are too many connections"
	body, err := json.Marshal(&Problem{Type: problemPath + kind.Name, Title: kind.Title, Status: kind.Status,
		Detail: sentence, Message: sentence, RequestID: "none"})
	if err != nil { // of our own type: cannot be
		panic(err)
	}
	return fmt.Sprintf("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}()

type connectionKey struct{}

// markCounted makes the connection known to the exchanges on it.
func markCounted(ctx context.Context, conn net.Conn) context.Context {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if counted, ok := conn.(*connection); ok {
		return context.WithValue(ctx, connectionKey{}, counted)
	}
	return ctx
}

func connectionOf(ctx context.Context) *connection {
	one, _ := ctx.Value(connectionKey{}).(*connection)
	return one
}
