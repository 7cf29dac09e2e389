package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"bureau/desktop"
)

// Bytes is a size as people write it: 4GiB, 20 GB, 512MiB, or a plain number of bytes. Units with
// an i are powers of 1024, those without powers of 1000, as the standards have it.
type Bytes int64

var units = map[string]float64{
	"": 1, "b": 1,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
}

var sizeRule = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) *([A-Za-z]*)$`)

// ParseBytes reads a size.
func ParseBytes(text string) (Bytes, error) {
	m := sizeRule.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return 0, desktop.Errorf(desktop.Invalid, "%q is not a size such as 4GiB", text)
	}
	unit, ok := units[strings.ToLower(m[2])]
	if !ok {
		return 0, desktop.Errorf(desktop.Invalid, "%q is not a size such as 4GiB: the units are KiB, MiB, GiB, TiB and kB, MB, GB, TB", text)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil || n*unit >= math.MaxInt64 {
		return 0, desktop.Errorf(desktop.Invalid, "%q is too large a size", text)
	}
	return Bytes(n * unit), nil
}

// UnmarshalText reads a size of a configuration file.
func (b *Bytes) UnmarshalText(text []byte) error {
	n, err := ParseBytes(string(text))
	if err != nil {
		return err
	}
	*b = n
	return nil
}

// String writes a size the way ParseBytes reads it back exactly.
func (b Bytes) String() string {
	names := []string{"", "KiB", "MiB", "GiB", "TiB"}
	n, i := int64(b), 0
	for n != 0 && n%1024 == 0 && i < len(names)-1 {
		n, i = n/1024, i+1
	}
	return fmt.Sprintf("%d%s", n, names[i])
}
