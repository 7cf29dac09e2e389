package picture

import (
	"bytes"
	"encoding/binary"
	"hash/adler32"
	"hash/crc32"
	"image"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"
)

// A PNG encoder for screenshots. A caller waits for each one, so it spends about as long as the
// picture takes to be looked at once, and still halves what a plain encoding would send:
//
// The picture is cut into strips that are filtered and compressed at the same time. Each strip is a
// deflate stream that ends on a byte boundary, so that the streams in a row are one, and goes into
// an IDAT chunk of its own; only the checksum has to be put together. Strips have a fixed size, so
// the file does not depend on the host.
//
// A row is filtered against the row above or against the pixel to the left, or not at all, by what
// leaves the smaller differences; the other filters of PNG cost more than they gain on a desktop.

const (
	stripBytes   = 384 << 10 // of pixels, before compression
	deflateLevel = 1
	bytesPerRGB  = 3
)

const (
	filterNone = 0
	filterSub  = 1
	filterUp   = 2
)

var pngSignature = []byte("\x89PNG\r\n\x1a\n")

// encodePNG makes an RGB PNG of an opaque picture.
func encodePNG(img *image.RGBA) []byte {
	width, height := img.Rect.Dx(), img.Rect.Dy()
	rows := max(1, stripBytes/(width*bytesPerRGB))
	strips := make([]strip, (height+rows-1)/rows)
	next := make(chan *strip, len(strips))
	for i := range strips {
		strips[i] = strip{top: i * rows, bottom: min(height, (i+1)*rows), first: i == 0, last: i == len(strips)-1}
		next <- &strips[i]
	}
	close(next)
	var workers sync.WaitGroup
	work := func() {
		w := pngWorkers.Get().(*pngWorker)
		defer pngWorkers.Put(w)
		for s := range next {
			w.encode(s, img)
		}
	}
	for range min(runtime.GOMAXPROCS(0), len(strips)) - 1 {
		workers.Go(work)
	}
	work()
	workers.Wait()

	checksum, size := uint32(1), 0
	for _, s := range strips {
		checksum = combineAdler(checksum, s.adler, s.rawLength)
		size += len(s.chunk)
	}
	header := make([]byte, 13)
	binary.BigEndian.PutUint32(header[0:], uint32(width))
	binary.BigEndian.PutUint32(header[4:], uint32(height))
	header[8], header[9] = 8, 2 // bits per channel, truecolour
	out := make([]byte, 0, size+128)
	out = append(out, pngSignature...)
	out = appendChunk(out, "IHDR", header)
	for _, s := range strips {
		out = append(out, s.chunk...)
	}
	out = appendChunk(out, "IDAT", binary.BigEndian.AppendUint32(nil, checksum))
	return appendChunk(out, "IEND", nil)
}

// strip is some rows of the picture, and what becomes of them.
type strip struct {
	top, bottom int
	first, last bool

	chunk     []byte // a whole IDAT
	adler     uint32 // of the filtered rows
	rawLength int    // of the filtered rows
}

// pngWorker is what encoding strips one after another needs; it is used again.
type pngWorker struct {
	above, row []byte // as RGB
	filtered   []byte
	out        bytes.Buffer
	deflate    *flate.Writer
}

var pngWorkers = sync.Pool{New: func() any {
	w, err := flate.NewWriter(nil, deflateLevel)
	if err != nil {
		panic(err) // the level is a constant
	}
	return &pngWorker{deflate: w}
}}

func (w *pngWorker) encode(s *strip, img *image.RGBA) {
	width := img.Rect.Dx()
	length := width * bytesPerRGB
	w.above, w.row = sized(w.above, length), sized(w.row, length)
	if s.top > 0 {
		toRGB(w.above, rowOf(img, s.top-1))
	} else {
		clear(w.above)
	}
	w.filtered = w.filtered[:0]
	for y := s.top; y < s.bottom; y++ {
		toRGB(w.row, rowOf(img, y))
		w.filtered = appendFiltered(w.filtered, w.row, w.above)
		w.row, w.above = w.above, w.row
	}
	s.adler, s.rawLength = adler32.Checksum(w.filtered), len(w.filtered)

	w.out.Reset()
	w.out.WriteString("\x00\x00\x00\x00IDAT")
	if s.first {
		w.out.WriteString("\x78\x01") // zlib's header
	}
	w.deflate.Reset(&w.out)
	w.deflate.Write(w.filtered) // a Buffer takes everything
	if s.last {
		w.deflate.Close()
	} else {
		w.deflate.Flush()
	}
	s.chunk = finishChunk(bytes.Clone(w.out.Bytes()))
}

func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// rowOf is a row counted from the picture's top, whatever its rectangle.
func rowOf(img *image.RGBA, y int) []byte {
	return img.Pix[y*img.Stride:][:4*img.Rect.Dx()]
}

func toRGB(to, from []byte) {
	for len(from) >= 4 && len(to) >= 3 {
		to[0], to[1], to[2] = from[0], from[1], from[2]
		from, to = from[4:], to[3:]
	}
}

// appendFiltered appends a row with its filter byte.
func appendFiltered(out, row, above []byte) []byte {
	if bytes.Equal(row, above) { // most rows of a desktop
		return append(append(out, filterUp), make([]byte, len(row))...)
	}
	start := len(out)
	switch chooseFilter(row, above) {
	case filterUp:
		out = append(append(out, filterUp), row...)
		to := out[start+1:]
		above = above[:len(to)]
		for i := range to {
			to[i] -= above[i]
		}
	case filterSub:
		out = append(append(out, filterSub), row...)
		to, left := out[start+1+bytesPerRGB:], row
		left = left[:len(to)]
		for i := range to {
			to[i] -= left[i]
		}
	default:
		out = append(append(out, filterNone), row...)
	}
	return out
}

// chooseFilter compares the differences that the filters would leave, on every few pixels. Plain
// rows win a tie with neighbours: text and lines repeat themselves exactly, which deflate finds.
func chooseFilter(row, above []byte) byte {
	const step = 5 * bytesPerRGB
	var sub, up, equal, n int
	above = above[:len(row)]
	for i := bytesPerRGB + 1; i < len(row); i += step { // green stands for all
		here := row[i]
		toLeft, toAbove := distance(here, row[i-bytesPerRGB]), distance(here, above[i])
		sub += toLeft
		up += toAbove
		if toLeft == 0 || toAbove == 0 {
			equal++
		}
		n++
	}
	switch {
	case 2*equal > n: // drawn, not photographed
		if up == 0 {
			return filterUp
		}
		return filterNone
	case up <= sub:
		return filterUp
	}
	return filterSub
}

func distance(a, b byte) int {
	d := int(int8(a - b))
	return max(d, -d)
}

// combineAdler is the checksum of two byte sequences in a row, from the checksum of each and the
// length of the second. The checksum is a sum of the bytes and a sum of those sums, modulo a prime,
// so the second's sums grow by the first's, once and once for each of its bytes.
func combineAdler(first, second uint32, length int) uint32 {
	const prime = 65521
	a1, b1 := uint64(first&0xffff), uint64(first>>16)
	a2, b2 := uint64(second&0xffff), uint64(second>>16)
	a := (a1 + a2 + prime - 1) % prime
	b := (b1 + b2 + uint64(length%prime)*(a1+prime-1)) % prime
	return uint32(b<<16 | a)
}

func appendChunk(out []byte, name string, data []byte) []byte {
	start := len(out)
	out = append(append(append(out, 0, 0, 0, 0), name...), data...)
	finished := finishChunk(out[start:])
	return append(out[:start], finished...)
}

// finishChunk fills in the length of a chunk and appends its checksum.
func finishChunk(chunk []byte) []byte {
	binary.BigEndian.PutUint32(chunk, uint32(len(chunk)-8))
	return binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk[4:]))
}
