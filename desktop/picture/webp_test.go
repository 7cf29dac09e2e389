package picture

import (
	"bytes"
	"encoding/binary"
	"image"
	"math/rand/v2"
	"testing"

	"golang.org/x/image/webp"

	"bureau/desktop"
)

// Counts that grow like Fibonacci's numbers make the longest Huffman codes there are.
func TestCodeLengthsStayWithinTheirLimit(t *testing.T) {
	fibonacci := make([]int, 40)
	for i, a, b := 0, 1, 1; i < len(fibonacci); i++ {
		fibonacci[i] = a
		a, b = b, a+b
	}
	random := rand.New(rand.NewPCG(7, 8))
	skewed := make([]int, 700)
	for i := range skewed {
		skewed[i] = random.IntN(1 << random.IntN(24))
	}
	for _, counts := range [][]int{fibonacci, fibonacci[:19], skewed, {1, 1}, {0, 5, 0, 1 << 30, 1}, {3}} {
		for _, limit := range []int{15, 10, 7} {
			if len(counts) > 1<<limit {
				continue
			}
			lengths, used, kraft := codeLengths(counts, limit), 0, 0
			for symbol, n := range lengths {
				if (n > 0) != (counts[symbol] > 0) || int(n) > limit {
					t.Fatalf("symbol %d of %d counts has length %d", symbol, counts[symbol], n)
				}
				if n > 0 {
					used++
					kraft += 1 << (limit - int(n))
				}
			}
			if used > 1 && kraft != 1<<limit {
				t.Errorf("the code of %d symbols with limit %d is not complete", used, limit)
			}
		}
	}
}

// Pictures of random shape, number of colours and skew come back as they were.
func TestWebPOfAnything(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	for range 300 {
		img := image.NewRGBA(image.Rect(0, 0, 1+random.IntN(120), 1+random.IntN(60)))
		palette := make([]uint32, 1+random.IntN(1<<random.IntN(13)))
		for i := range palette {
			palette[i] = random.Uint32() | 0xff000000
		}
		var pixel uint32
		stay := random.IntN(10)
		for i := 0; i < len(img.Pix); i += 4 {
			if random.IntN(10) >= stay {
				pixel = palette[random.IntN(1+random.IntN(len(palette)))]
			}
			binary.LittleEndian.PutUint32(img.Pix[i:], pixel|0xff000000)
		}
		got, err := webp.Decode(bytes.NewReader(encodeWebP(img)))
		if err != nil {
			t.Fatalf("%v with %d colours: %v", img.Rect.Size(), len(palette), err)
		}
		wantPixels(t, got, img, image.Point{})
	}
}

// Copies as long as they get, and from as far as they may come.
func TestWebPDistances(t *testing.T) {
	img := noise(2048, 560) // more than the window
	copy(img.Pix[len(img.Pix)-4*9000:], img.Pix[:4*9000])
	half := len(img.Pix) / 2
	copy(img.Pix[half:half+4*20000], bytes.Repeat(img.Pix[:4*1000], 20))
	_, got := render(t, &desktop.Frame{Pixels: img}, Options{Format: WebP})
	wantPixels(t, got, img, image.Point{})
}
