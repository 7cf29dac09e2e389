package picture

import (
	"encoding/binary"
	"image"
	"math/bits"
	"slices"
)

// A lossless WebP encoder for screenshots. (The one module there is in Go for this panics, and can
// write broken files, on pictures whose colours are distributed unkindly; and those are the guest's
// to choose.)
//
// In the terms of the format: green is subtracted from red and blue, and from a photograph each
// pixel's neighbours as well; then come literals, backward references and a cache of recent colours
// under one group of prefix codes. Anything more buys a few percent for several times the time.

const (
	webpCacheBits = 9
	webpMaxLength = 4096
	webpMinLength = 3
	webpWindow    = 1<<20 - 120
	webpHashBits  = 15

	webpLengths   = 24 // prefix codes of lengths
	webpDistances = 40 // and of distances
)

// encodeWebP makes a lossless WebP of an opaque picture.
func encodeWebP(img *image.RGBA) []byte {
	width, height := img.Rect.Dx(), img.Rect.Dy()
	w := &bitWriter{out: make([]byte, 0, 64<<10)}
	w.out = append(w.out, "RIFF\x00\x00\x00\x00WEBPVP8L\x00\x00\x00\x00\x2f"...)
	const dataStart = 20
	w.write(uint32(width-1), 14)
	w.write(uint32(height-1), 14)
	w.write(0, 1+3) // no alpha, version 0

	pixels := make([]uint32, 0, width*height)
	drawn := 0
	for y := range height {
		row := rowOf(img, y)
		for i := 0; i+4 <= len(row); i += 4 {
			green := row[i+1]
			pixel := 0xff000000 | uint32(row[i]-green)<<16 | uint32(green)<<8 | uint32(row[i+2]-green)
			if n := len(pixels); n > 0 && pixels[n-1] == pixel {
				drawn++
			}
			pixels = append(pixels, pixel)
		}
	}
	photograph := drawn < len(pixels)/2
	w.write(1, 1) // a transform:
	w.write(2, 2) // subtract green
	if photograph {
		pixels = predict(pixels, width, height)
		const blockBits = 9
		w.write(1, 1) // a transform:
		w.write(0, 2) // prediction, in blocks with a mode each, which are an image of their own
		w.write(blockBits-2, 3)
		w.write(0, 1) // without a cache
		for _, symbol := range []uint32{predictAverage, 0, 0, 0, 0} {
			w.writeSimpleCode(symbol) // the same for every block, so that no bits are left to write
		}
	}
	w.write(0, 1) // no further transform
	w.writePixels(pixels, width)
	w.flush()

	if len(w.out)%2 != 0 {
		w.out = append(w.out, 0)
		binary.LittleEndian.PutUint32(w.out[dataStart-4:], uint32(len(w.out)-dataStart-1))
	} else {
		binary.LittleEndian.PutUint32(w.out[dataStart-4:], uint32(len(w.out)-dataStart))
	}
	binary.LittleEndian.PutUint32(w.out[4:], uint32(len(w.out)-8))
	return w.out
}

// predictAverage is the mode that takes the average of the pixel to the left and the one above.
const predictAverage = 7

// predict gives the differences between pixels and what is predicted from their neighbours. The
// first row is predicted from the left and the first column from above, whatever the mode.
func predict(pixels []uint32, width, height int) []uint32 {
	out := make([]uint32, len(pixels))
	out[0] = subtract(pixels[0], 0xff000000)
	for i := 1; i < width; i++ {
		out[i] = subtract(pixels[i], pixels[i-1])
	}
	for y := 1; y < height; y++ {
		row, above, to := pixels[y*width:][:width], pixels[(y-1)*width:][:width], out[y*width:][:width]
		to[0] = subtract(row[0], above[0])
		for x := 1; x < len(row); x++ {
			left, top := row[x-1], above[x]
			average := left&top + (left^top)&0xfefefefe>>1
			to[x] = subtract(row[x], average)
		}
	}
	return out
}

// subtract subtracts each channel by itself.
func subtract(a, b uint32) uint32 {
	const even, odd = 0x00ff00ff, 0xff00ff00
	return ((a|odd)-(b&even))&even | (((a | even) - (b & odd)) & odd)
}

// token is a literal pixel, a place in the cache, or a copy of pixels before.
type token struct {
	kind   tokenKind
	length uint16 // of a copy
	value  uint32 // the pixel, the place, or the distance's code
}

type tokenKind uint8

const (
	literal tokenKind = iota
	cached
	copied
)

// writePixels writes the image's main part.
func (w *bitWriter) writePixels(pixels []uint32, width int) {
	tokens := tokenise(pixels, width)
	counts := [5][]int{
		make([]int, 256+webpLengths+1<<webpCacheBits), make([]int, 256), make([]int, 256), make([]int, 256), make([]int, webpDistances),
	}
	for _, t := range tokens {
		switch t.kind {
		case literal:
			counts[0][t.value>>8&0xff]++
			counts[1][t.value>>16&0xff]++
			counts[2][t.value&0xff]++
			counts[3][t.value>>24]++
		case cached:
			counts[0][256+webpLengths+t.value]++
		case copied:
			length, _, _ := prefixOf(uint32(t.length))
			distance, _, _ := prefixOf(t.value)
			counts[0][256+length]++
			counts[4][distance]++
		}
	}
	w.write(1, 1) // a cache
	w.write(webpCacheBits, 4)
	w.write(0, 1) // one group of codes
	var codes [5][]prefixCode
	for i := range codes {
		codes[i] = w.writeCode(counts[i])
	}
	for _, t := range tokens {
		switch t.kind {
		case literal:
			w.code(codes[0][t.value>>8&0xff])
			w.code(codes[1][t.value>>16&0xff])
			w.code(codes[2][t.value&0xff])
			w.code(codes[3][t.value>>24])
		case cached:
			w.code(codes[0][256+webpLengths+t.value])
		case copied:
			prefix, extra, n := prefixOf(uint32(t.length))
			w.code(codes[0][256+prefix])
			w.write(extra, n)
			prefix, extra, n = prefixOf(t.value)
			w.code(codes[4][prefix])
			w.write(extra, n)
		}
	}
}

// tokenise finds what repeats: first what lies to the left and above, which is nearly everything on
// a desktop and has the shortest codes, then the last place with the same few pixels.
func tokenise(pixels []uint32, width int) []token {
	tokens := make([]token, 0, len(pixels)/8)
	var cache [1 << webpCacheBits]uint32
	heads := make([]int32, 1<<webpHashBits) // place + 1 of the last pixels with a hash
	hash := func(i int) uint32 {
		return (pixels[i]*0x9e3779b1 ^ pixels[i+1]*0x85ebca6b ^ pixels[i+2]*0xc2b2ae35) >> (32 - webpHashBits)
	}
	for i := 0; i < len(pixels); {
		length, distance := 0, 0
		try := func(from int) {
			if from < 0 || i-from > webpWindow || pixels[from] != pixels[i] {
				return
			}
			if n := matchLength(pixels, from, i); n > length {
				length, distance = n, i-from
			}
		}
		if i > 0 {
			try(i - 1)
			if length < webpMaxLength {
				try(i - width)
			}
		}
		if i+webpMinLength <= len(pixels) {
			h := hash(i)
			if length < 64 {
				try(int(heads[h]) - 1)
			}
			heads[h] = int32(i + 1)
		}
		if length >= webpMinLength {
			code := uint32(distance) + 120
			switch distance { // of the 120 near places that have codes of their own, the two that matter
			case width:
				code = 1
			case 1:
				code = 2
			}
			tokens = append(tokens, token{kind: copied, length: uint16(length), value: code})
			last := ^pixels[i]
			for _, p := range pixels[i : i+length] {
				if p != last {
					cache[cacheKey(p)] = p
					last = p
				}
			}
			i += length
			continue
		}
		p := pixels[i]
		if key := cacheKey(p); cache[key] == p {
			tokens = append(tokens, token{kind: cached, value: key})
		} else {
			cache[key] = p
			tokens = append(tokens, token{kind: literal, value: p})
		}
		i++
	}
	return tokens
}

func cacheKey(pixel uint32) uint32 { return pixel * 0x1e35a7bd >> (32 - webpCacheBits) }

func matchLength(pixels []uint32, from, to int) int {
	n := min(len(pixels)-to, webpMaxLength)
	a, b := pixels[from:from+n], pixels[to:to+n]
	for i := range b {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// prefixOf splits a length or distance, from 1, into a prefix code and extra bits.
func prefixOf(v uint32) (code, extra uint32, n int) {
	v--
	if v < 2 {
		return v, 0, 0
	}
	high := bits.Len32(v) - 1
	n = high - 1
	return uint32(2*high) + v>>n&1, v & (1<<n - 1), n
}

// prefixCode is a symbol's code, its first bit lowest.
type prefixCode struct {
	bits   uint16
	length uint8
}

// writeCode writes the prefix code that suits the counts of its symbols, and returns it.
func (w *bitWriter) writeCode(counts []int) []prefixCode {
	used := 0
	only := uint32(0)
	for symbol, n := range counts {
		if n > 0 {
			used++
			only = uint32(symbol)
		}
	}
	if used <= 1 && only < 256 {
		w.writeSimpleCode(only)
		return make([]prefixCode, len(counts)) // of no bits
	}
	lengths := codeLengths(counts, 15)

	// The lengths are written with a prefix code of their own; runs of zeros have symbols in it.
	type part struct{ symbol, extra, bits int }
	var parts []part
	for i := 0; i < len(lengths); {
		run := 1
		for i+run < len(lengths) && lengths[i+run] == lengths[i] && run < 138 {
			run++
		}
		switch {
		case lengths[i] == 0 && run >= 11:
			parts = append(parts, part{18, run - 11, 7})
		case lengths[i] == 0 && run >= 3:
			run = min(run, 10)
			parts = append(parts, part{17, run - 3, 3})
		default:
			run = 1
			parts = append(parts, part{int(lengths[i]), 0, 0})
		}
		i += run
	}
	partCounts := make([]int, 19)
	for _, p := range parts {
		partCounts[p.symbol]++
	}
	partLengths := codeLengths(partCounts, 7)
	order := [...]int{17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	last := len(order)
	for last > 4 && partLengths[order[last-1]] == 0 {
		last--
	}
	w.write(0, 1) // not a simple code
	w.write(uint32(last-4), 4)
	for _, symbol := range order[:last] {
		w.write(uint32(partLengths[symbol]), 3)
	}
	w.write(0, 1) // the lengths of all symbols follow
	partCodes := codesOf(partLengths)
	for _, p := range parts {
		w.code(partCodes[p.symbol])
		w.write(uint32(p.extra), p.bits)
	}
	return codesOf(lengths)
}

// writeSimpleCode writes a code of one symbol, which takes no bits.
func (w *bitWriter) writeSimpleCode(symbol uint32) {
	w.write(1, 1) // simple
	w.write(0, 1) // one symbol
	w.write(1, 1) // of 8 bits
	w.write(symbol, 8)
}

// codeLengths gives the lengths of a Huffman code of which none exceeds limit. Where one would, rare
// symbols are taken for less rare until none does: in the end all would count the same, and the
// lengths be those of a plain binary code.
func codeLengths(counts []int, limit int) []uint8 {
	type node struct{ count, left, right, symbol int }
	for least := 1; ; least *= 2 {
		var nodes []node
		for symbol, n := range counts {
			if n > 0 {
				nodes = append(nodes, node{max(n, least), -1, -1, symbol})
			}
		}
		lengths := make([]uint8, len(counts))
		if len(nodes) == 1 {
			lengths[nodes[0].symbol] = 1
			return lengths
		}
		slices.SortStableFunc(nodes, func(a, b node) int { return a.count - b.count })
		// Joined nodes come in ascending order, so the two smallest are at the front of one of
		// two queues: the leaves, and the joined ones behind them.
		leaves := len(nodes)
		leaf, joined := 0, leaves
		smallest := func() int {
			if leaf < leaves && (joined == len(nodes) || nodes[leaf].count <= nodes[joined].count) {
				leaf++
				return leaf - 1
			}
			joined++
			return joined - 1
		}
		for range leaves - 1 {
			a, b := smallest(), smallest()
			nodes = append(nodes, node{nodes[a].count + nodes[b].count, a, b, -1})
		}
		depths := make([]int, len(nodes))
		deepest := 0
		for i := len(nodes) - 1; i >= 0; i-- { // from the root, which is last, down
			if n := nodes[i]; n.symbol < 0 {
				depths[n.left], depths[n.right] = depths[i]+1, depths[i]+1
			} else {
				lengths[n.symbol] = uint8(min(depths[i], 255))
				deepest = max(deepest, depths[i])
			}
		}
		if deepest <= limit {
			return lengths
		}
	}
}

// codesOf gives the canonical codes of given lengths. The only symbol of a code takes no bits.
func codesOf(lengths []uint8) []prefixCode {
	codes := make([]prefixCode, len(lengths))
	var perLength [16]int
	used := 0
	for _, n := range lengths {
		if n > 0 {
			perLength[n]++
			used++
		}
	}
	if used == 1 {
		return codes
	}
	var next [17]uint16
	for n := 1; n <= 15; n++ {
		next[n+1] = (next[n] + uint16(perLength[n])) << 1
	}
	for symbol, n := range lengths {
		if n > 0 {
			codes[symbol] = prefixCode{bits.Reverse16(next[n]) >> (16 - n), n}
			next[n]++
		}
	}
	return codes
}

// bitWriter writes numbers of bits, the lowest first.
type bitWriter struct {
	out  []byte
	held uint64
	n    int // bits in held
}

func (w *bitWriter) write(value uint32, n int) {
	w.held |= uint64(value) << w.n
	w.n += n
	if w.n >= 32 {
		w.out = binary.LittleEndian.AppendUint32(w.out, uint32(w.held))
		w.held >>= 32
		w.n -= 32
	}
}

func (w *bitWriter) code(c prefixCode) { w.write(uint32(c.bits), int(c.length)) }

func (w *bitWriter) flush() {
	for ; w.n > 0; w.n -= 8 {
		w.out = append(w.out, byte(w.held))
		w.held >>= 8
	}
	w.n = 0
}
