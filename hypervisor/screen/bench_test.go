package screen

import (
	"bytes"
	"testing"

	"bureau/desktop"
)

// BenchmarkListener measures what a full repaint of a 1280x800 display costs the host, from the
// bytes of QEMU's call to the frame.
func BenchmarkListener(b *testing.B) {
	const width, height = 1280, 800
	black := qemuCall("Scanout", "uuuuay", []int{width, height, width * 4, int(formatX8R8G8B8)}, make([]byte, width*height*4))
	white := qemuCall("Scanout", "uuuuay", []int{width, height, width * 4, int(formatX8R8G8B8)}, bytes.Repeat([]byte{255}, width*height*4))
	for _, c := range []struct {
		name  string
		calls [][]byte
		look  bool
	}{
		{"unwatched", [][]byte{black, white}, false},
		{"watched", [][]byte{black, white}, true},
		{"repainting the same", [][]byte{black}, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			m := newMirror(desktop.SourceDBus)
			l := &listener{mirror: m, conn: deaf{}}
			var in messageReader
			i := 0
			for b.Loop() {
				in.r = bytes.NewReader(c.calls[i%len(c.calls)])
				i++
				call, err := in.next()
				if err != nil {
					b.Fatal(err)
				}
				if _, err := l.answer(call); err != nil {
					b.Fatal(err)
				}
				if c.look {
					if _, err := m.look(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
