package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const searchBlock = 1 << 20

// search tells where secrets are: in files, in what processes were started with, and in their memory.
// It is given each secret with all its bits inverted, so that it does not itself bring it here.
func search(args []string) error {
	flags := flag.NewFlagSet("search", flag.ContinueOnError)
	secrets := flags.String("inverted", "", "the secrets, inverted, in hexadecimal, separated by commas")
	files := flags.String("files", "", "files and folders, separated by commas")
	processes := flags.String("processes", "", "ids of processes, separated by commas, or all")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s := searcher{Found: map[string][]string{}}
	for text := range strings.SplitSeq(*secrets, ",") {
		inverted, err := hex.DecodeString(text)
		if err != nil || len(inverted) < 8 {
			return fmt.Errorf("the secret %q is not one in hexadecimal: %v", text, err)
		}
		s.secrets, s.longest = append(s.secrets, inverted), max(s.longest, len(inverted))
	}
	if *files != "" {
		for root := range strings.SplitSeq(*files, ",") {
			if err := s.files(root); err != nil {
				return err
			}
		}
	}
	if *processes != "" {
		if err := s.processes(*processes); err != nil {
			return err
		}
	}
	return printJSON(s)
}

// searcher looks for secrets.
type searcher struct {
	secrets [][]byte // inverted
	longest int
	block   []byte

	Found map[string][]string // by the inverted secret: the places
	Bytes int64               // how much was looked at
}

// contains looks through a block, and tells of a place once.
func (s *searcher) contains(block []byte, place string) {
	for _, secret := range s.secrets {
		for rest := block; ; rest = rest[1:] {
			i := bytes.IndexByte(rest, ^secret[0])
			if i < 0 || len(rest)-i < len(secret) {
				break
			}
			if rest = rest[i:]; !inverse(rest[:len(secret)], secret) {
				continue
			}
			name := hex.EncodeToString(secret)
			if list := s.Found[name]; len(list) == 0 || list[len(list)-1] != place {
				s.Found[name] = append(list, place)
			}
			break
		}
	}
}

func inverse(a, b []byte) bool {
	for i := range a {
		if a[i] != ^b[i] {
			return false
		}
	}
	return true
}

// read looks through a stream. Blocks overlap by what a secret may lie across.
func (s *searcher) read(r io.Reader, place string) error {
	if s.block == nil {
		s.block = make([]byte, searchBlock)
	}
	kept := 0
	for {
		n, err := io.ReadFull(r, s.block[kept:])
		s.Bytes += int64(n)
		s.contains(s.block[:kept+n], place)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
		kept = copy(s.block, s.block[len(s.block)-s.longest+1:])
	}
}

// files looks through a file, or all regular files below a folder, whatever their file system. What
// goes away meanwhile, or is closed to root as well, is left out.
func (s *searcher) files(root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && path != root {
			return nil
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		return s.read(f, "file "+path)
	})
}

// processes looks through some, or all but this one.
func (s *searcher) processes(which string) error {
	ids := strings.Split(which, ",")
	if which == "all" {
		all, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		ids = nil
		for _, folder := range all {
			if id := filepath.Base(folder); id != strconv.Itoa(os.Getpid()) {
				ids = append(ids, id)
			}
		}
	}
	for _, id := range ids {
		if err := s.process(id); err != nil && which != "all" {
			return fmt.Errorf("process %s: %w", id, err)
		}
	}
	return nil
}

func (s *searcher) process(id string) error {
	folder := "/proc/" + id + "/"
	name, err := os.ReadFile(folder + "comm")
	if err != nil {
		return err
	}
	who := " of " + strings.TrimSpace(string(name)) + " " + id
	for _, file := range []string{"environ", "cmdline"} {
		data, err := os.ReadFile(folder + file)
		if err != nil {
			return err
		}
		s.Bytes += int64(len(data))
		s.contains(data, file+who)
	}
	maps, err := os.Open(folder + "maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	mem, err := os.Open(folder + "mem")
	if err != nil {
		return err
	}
	defer mem.Close()
	pages, err := os.Open(folder + "pagemap")
	if err != nil {
		return err
	}
	defer pages.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			continue // beyond what a process has of its own
		}
		if strings.HasPrefix(mode, "rw") {
			if err := s.memory(mem, pages, from, to, "memory"+who); err != nil {
				return err
			}
		}
	}
	return nil
}

// memory looks through the pages of a mapping that are there.
func (s *searcher) memory(mem, pages *os.File, from, to int64, place string) error {
	page := int64(os.Getpagesize())
	states := make([]byte, 8*(to-from)/page)
	if _, err := pages.ReadAt(states, 8*(from/page)); err != nil {
		return err
	}
	const present, swapped = 1 << 63, 1 << 62
	there := func(i int64) bool {
		return i < int64(len(states)/8) && binary.NativeEndian.Uint64(states[8*i:])&(present|swapped) != 0
	}
	for i := int64(0); i < int64(len(states)/8); i++ {
		first := i
		for there(i) {
			i++
		}
		if i == first {
			continue
		}
		// One that cannot be read, such as a device's, ends its run.
		_ = s.read(io.NewSectionReader(mem, from+first*page, (i-first)*page), place)
	}
	return nil
}
