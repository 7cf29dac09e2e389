package picture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"runtime"
	"slices"
	"sync"
)

// JPEGs are encoded in strips at the same time, by the standard library: what is compressed of each is
// an interval that begins anew, as the format allows it in the middle of a picture, so the strips'
// contents in a row, with restart markers between them, are the contents of the whole. Strips have a
// fixed size, so the file does not depend on the host.

const (
	jpegStrip = 128 // rows: whole blocks of 16, few enough for every width's restart interval
	jpegBlock = 16  // pixels of a block's side, colours being kept at half the resolution
)

// Markers of the format.
const (
	jpegFrame   = 0xc0 // SOF0: size and components
	jpegScan    = 0xda // SOS: what is compressed follows
	jpegEnd     = 0xd9 // EOI
	jpegEvery   = 0xdd // DRI: the restart interval
	jpegRestart = 0xd0 // RST0, and seven more, by turns
)

func encodeJPEG(img *image.RGBA, quality int) ([]byte, error) {
	width, height := img.Rect.Dx(), img.Rect.Dy()
	count := (height + jpegStrip - 1) / jpegStrip
	strips, failed := make([]bytes.Buffer, count), make([]error, count)
	next := make(chan int, count)
	for i := range count {
		next <- i
	}
	close(next)
	work := func() {
		for i := range next {
			rows := image.Rect(img.Rect.Min.X, img.Rect.Min.Y+i*jpegStrip, img.Rect.Max.X, min(img.Rect.Max.Y, img.Rect.Min.Y+(i+1)*jpegStrip))
			failed[i] = jpeg.Encode(&strips[i], img.SubImage(rows), &jpeg.Options{Quality: quality})
		}
	}
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), count) - 1 {
		workers.Go(work)
	}
	work()
	workers.Wait()
	for _, err := range failed {
		if err != nil {
			return nil, fmt.Errorf("encode a JPEG: %w", err)
		}
	}
	if count == 1 {
		return strips[0].Bytes(), nil
	}

	total := 0
	for i := range strips {
		total += strips[i].Len()
	}
	out := make([]byte, 0, total)
	for i := range strips {
		file := strips[i].Bytes()
		scan, size, err := jpegParts(file)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			head := slices.Clone(file[:scan.header])
			binary.BigEndian.PutUint16(head[size:], uint16(height))
			every := (width + jpegBlock - 1) / jpegBlock * (jpegStrip / jpegBlock)
			out = append(out, head...)
			out = append(out, 0xff, jpegEvery, 0, 4, byte(every>>8), byte(every))
			out = append(out, file[scan.header:scan.content]...)
		} else {
			out = append(out, 0xff, byte(jpegRestart+(i-1)%8))
		}
		out = append(out, file[scan.content:len(file)-2]...)
	}
	return append(out, 0xff, jpegEnd), nil
}

// jpegPlaces are where in a file the scan's header begins, and its content.
type jpegPlaces struct{ header, content int }

// jpegParts finds the scan of a file, and where its height is.
func jpegParts(file []byte) (scan jpegPlaces, height int, err error) {
	for at := 2; at+4 <= len(file) && file[at] == 0xff; {
		length := int(binary.BigEndian.Uint16(file[at+2:]))
		switch file[at+1] {
		case jpegFrame:
			height = at + 5
		case jpegScan:
			if height == 0 || at+2+length > len(file)-2 || !bytes.HasSuffix(file, []byte{0xff, jpegEnd}) {
				return scan, 0, errJPEG
			}
			return jpegPlaces{at, at + 2 + length}, height, nil
		}
		at += 2 + length
	}
	return scan, 0, errJPEG
}

var errJPEG = errors.New("encode a JPEG: the strips are not as they are expected")
