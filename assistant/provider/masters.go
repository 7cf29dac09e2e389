package provider

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"bureau/desktop"
)

// Opens tells whether a key that was sealed for the provider with that id can be opened here.
func (v *Vault) Opens(id string, sealed []byte) bool {
	_, _, err := v.open(id, sealed)
	return err == nil
}

// MergeMasters adds to the file of master keys at path those of another one, as Restore of a database
// needs: what was sealed with either can be opened then. The keys that were there stay before them.
// owner, when not nil, is called with the new file before it takes its place.
func MergeMasters(path, from string, owner func(path string) error) (added int, err error) {
	added, err = mergeMasters(path, from, owner)
	if err != nil {
		return 0, fmt.Errorf("take over the master keys %s: %w", from, err)
	}
	return added, nil
}

func mergeMasters(path, from string, owner func(string) error) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	more, err := os.ReadFile(from)
	if err != nil {
		return 0, err
	}
	there, err := mastersOf(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	wanted, err := mastersOf(more)
	if err == nil && len(wanted) == 0 {
		err = errors.New("there is none in it")
	}
	if err != nil {
		return 0, desktop.Errorf(desktop.Invalid, "%w", err)
	}
	if len(text) == 0 {
		text = []byte(mastersHead)
	} else if !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	known := map[string]bool{}
	for _, key := range there {
		known[key] = true
	}
	added := 0
	for _, key := range wanted {
		if !known[key] {
			known[key] = true
			text = append(text, key+"\n"...)
			added++
		}
	}
	if added == 0 {
		return 0, nil
	}
	part := path + ".new"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was killed
		return 0, err
	}
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, errors.Join(err, os.Remove(part))
	}
	if owner != nil {
		if err := owner(part); err != nil {
			return 0, errors.Join(err, os.Remove(part))
		}
	}
	if err := os.Rename(part, path); err != nil {
		return 0, errors.Join(err, os.Remove(part))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return 0, err
	}
	return added, errors.Join(dir.Sync(), dir.Close())
}

// mastersOf are the keys in a file of them, as it has them.
func mastersOf(text []byte) ([]string, error) {
	var keys []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if key, err := hex.DecodeString(line); err != nil || len(key) != masterSize {
			return nil, fmt.Errorf("a line of it is not %d hexadecimal digits", 2*masterSize)
		}
		keys = append(keys, strings.ToLower(line))
	}
	return keys, nil
}
