package hypervisor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"bureau/desktop"
)

// A guest without a system never takes a byte from its port, nor gives one.
func TestAgentStreamOfSilentGuest(t *testing.T) {
	h := openTest(t, testOptions(t))
	ctx := testContext(t)
	spec := testSpec(importEmpty(t, h, "empty"))
	_, err := h.OpenAgent(ctx, spec.ID)
	wantCode(t, err, desktop.NotFound)
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}

	stream, err := h.OpenAgent(ctx, spec.ID)
	if err != nil {
		t.Fatal("open:", err)
	}
	read, write := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := stream.Read(make([]byte, 10))
		read <- err
	}()
	var written int
	filled := make(chan struct{})
	go func() {
		stream.(*channel).SetWriteDeadline(time.Now().Add(2 * time.Second))
		for {
			n, err := stream.Write(make([]byte, 1<<16))
			written += n
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				write <- err
				close(filled)
				return
			}
		}
		close(filled)
		stream.(*channel).SetWriteDeadline(time.Time{})
		_, err := stream.Write(make([]byte, 1<<20))
		write <- err
	}()
	<-filled
	if written > 8<<20 {
		t.Errorf("%d bytes went to a guest that takes none", written)
	}
	// Nothing else waits for that guest.
	if err := h.Start(ctx, spec); err != nil {
		t.Error("start:", err)
	}
	wantState(t, h, spec.ID, desktop.MachineRunning)

	// Close lets the reader and the writer go. libvirt holds the channel for as long as the guest
	// does not take what is on its way.
	stream.Close()
	for name, result := range map[string]chan error{"read": read, "write": write} {
		select {
		case err := <-result:
			if err == nil {
				t.Errorf("%s of the former stream succeeded", name)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s of the former stream hangs", name)
		}
	}

	_, err = h.OpenAgent(ctx, spec.ID)
	wantCode(t, err, desktop.Unavailable)

	// A machine that goes off ends its stream.
	if err := h.Stop(ctx, spec.ID, 0); err != nil {
		t.Fatal("stop:", err)
	}
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	newer, err := h.OpenAgent(ctx, spec.ID)
	if err != nil {
		t.Fatal("open after a restart:", err)
	}
	if err := h.Stop(ctx, spec.ID, 0); err != nil {
		t.Fatal("stop:", err)
	}
	newer.(*channel).SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := newer.Read(make([]byte, 10)); n != 0 || err != io.EOF {
		t.Errorf("read from a machine that is off: %d, %v", n, err)
	}
	newer.Close()
	newer.Close()
	if _, err := newer.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	_, err = h.OpenAgent(ctx, spec.ID)
	wantCode(t, err, desktop.Unavailable)
}

// daemon answers a remote protocol client with what a test wants, over a pair of sockets.
func daemon(t *testing.T, script func(net.Conn)) *channel {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer theirs.Close()
		script(theirs)
	}()
	c := &channel{conn: ours, release: func() { ours.Close() }}
	t.Cleanup(func() { c.Close(); <-done })
	return c
}

func takeCall(conn net.Conn) uint32 {
	var header [packetHeader]byte
	io.ReadFull(conn, header[:])
	h, _ := parseHeader(header[:])
	io.CopyN(io.Discard, conn, int64(h.payload))
	return h.serial
}

func TestLogin(t *testing.T) {
	words := func(list ...uint32) []byte {
		var b []byte
		for _, w := range list {
			b = binary.BigEndian.AppendUint32(b, w)
		}
		return b
	}
	reply := func(conn net.Conn, proc, status uint32, payload []byte) {
		serial := takeCall(conn)
		conn.Write(append(appendHeader(nil, len(payload), proc, typeReply, serial, status), payload...))
	}
	for _, test := range []struct {
		name   string
		script func(net.Conn)
		want   string
	}{
		{"no authentication", func(c net.Conn) {
			reply(c, procAuthList, statusOK, words(1, authNone))
			reply(c, procConnectOpen, statusOK, nil)
		}, ""},
		{"polkit", func(c net.Conn) {
			reply(c, procAuthList, statusOK, words(1, authPolkit))
			reply(c, procAuthPolkit, statusOK, words(1))
			reply(c, procConnectOpen, statusOK, nil)
		}, ""},
		{"polkit refuses", func(c net.Conn) {
			reply(c, procAuthList, statusOK, words(1, authPolkit))
			reply(c, procAuthPolkit, statusError, append(words(45, 7, 1, 8), "not you!"...))
		}, "not you!"},
		{"a password", func(c net.Conn) { reply(c, procAuthList, statusOK, words(1, 1)) }, "password"},
		{"a list cut off", func(c net.Conn) { reply(c, procAuthList, statusOK, words(3, authNone)) }, "malformed"},
		{"an error cut off", func(c net.Conn) { reply(c, procAuthList, statusError, words(38, 7, 1, 1<<31)) }, "error 38"},
		{"a huge reply", func(c net.Conn) { takeCall(c); c.Write(words(1 << 24)); c.Write(make([]byte, 24)) }, "bytes"},
		{"a tiny packet", func(c net.Conn) { takeCall(c); c.Write(words(4, 0, 0, 0, 0, 0, 0)) }, "bytes"},
		{"the end", func(c net.Conn) { takeCall(c) }, "EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := daemon(t, test.script).login("qemu:///system")
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error is %v, want %q", err, test.want)
			}
		})
	}
}

func TestStreamPackets(t *testing.T) {
	data := func(conn net.Conn, status uint32, payload string) {
		conn.Write(append(appendHeader(nil, len(payload), procOpenChannel, typeStream, 0, status), payload...))
	}
	t.Run("data, then the end", func(t *testing.T) {
		c := daemon(t, func(conn net.Conn) {
			data(conn, statusContinue, "hello ")
			data(conn, statusContinue, "world")
			data(conn, statusContinue, "")
		})
		c.proc = procOpenChannel
		if got, err := io.ReadAll(c); string(got) != "hello world" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the end: %v", err)
		}
	})
	t.Run("an error of the daemon's", func(t *testing.T) {
		c := daemon(t, func(conn net.Conn) {
			data(conn, statusError, "\x00\x00\x00\x01\x00\x00\x00\x07\x00\x00\x00\x01\x00\x00\x00\x04gone")
		})
		c.proc = procOpenChannel
		if _, err := c.Read(make([]byte, 1)); err == nil || err.Error() != "gone" {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("the daemon can read no more of the machine", func(t *testing.T) {
		c := daemon(t, func(conn net.Conn) {
			data(conn, statusError, "\x00\x00\x00\x26\x00\x00\x00\x07\x00\x00\x00\x01\x00\x00\x00\x05reset")
		})
		c.proc = procOpenChannel
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("the daemon dies within a packet", func(t *testing.T) {
		c := daemon(t, func(conn net.Conn) {
			conn.Write(append(appendHeader(nil, 100, procOpenChannel, typeStream, 0, statusContinue), "half"...))
		})
		c.proc = procOpenChannel
		if got, err := io.ReadAll(c); string(got) != "half" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
	t.Run("a deadline within a header", func(t *testing.T) {
		more := make(chan struct{})
		c := daemon(t, func(conn net.Conn) {
			packet := append(appendHeader(nil, 2, procOpenChannel, typeStream, 0, statusContinue), "ok"...)
			conn.Write(packet[:10])
			<-more
			conn.Write(packet[10:])
		})
		c.proc = procOpenChannel
		for c.have < 10 {
			c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if _, err := c.Read(make([]byte, 5)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("error is %v", err)
			}
		}
		c.SetReadDeadline(time.Time{})
		close(more)
		if got, err := io.ReadAll(c); string(got) != "ok" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
	t.Run("writes are cut into packets", func(t *testing.T) {
		sent := bytes.Repeat([]byte("0123456789"), streamPayload/5)
		received := make(chan []byte, 1)
		c := daemon(t, func(conn net.Conn) {
			var got []byte
			for len(got) < len(sent) {
				var header [packetHeader]byte
				if _, err := io.ReadFull(conn, header[:]); err != nil {
					break
				}
				h, err := parseHeader(header[:])
				if err != nil || h.kind != typeStream || h.status != statusContinue || h.payload > streamPayload {
					break
				}
				payload := make([]byte, h.payload)
				io.ReadFull(conn, payload)
				got = append(got, payload...)
			}
			received <- got
		})
		if n, err := c.Write(sent); n != len(sent) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
		if got := <-received; !bytes.Equal(got, sent) {
			t.Errorf("%d bytes arrived of %d", len(got), len(sent))
		}
	})
}

func TestRemoteSockets(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	for uri, want := range map[string]string{
		"qemu:///system":                    "/run/libvirt/virtqemud-sock /run/libvirt/libvirt-sock",
		"qemu:///session":                   "/run/user/7/libvirt/virtqemud-sock /run/user/7/libvirt/libvirt-sock",
		"qemu:///system?socket=/run/x":      "/run/x",
		"qemu+unix:///system?socket=/run/x": "/run/x",
		"qemu+ssh://host/system":            "",
		"qemu://host/system":                "",
		"xen:///system":                     "",
	} {
		got, err := remoteSockets(uri)
		if want == "" && err == nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v, %v", uri, got, err)
		}
	}
}
