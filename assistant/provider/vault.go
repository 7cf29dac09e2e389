package provider

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Vault seals keys for the store, with AES-256-GCM. Its master keys lie in a file that is not part of
// the database: a copy of the one opens nothing without the other.
//
// The file has a key a line, 64 hexadecimal digits. The first seals, all of them open; so a master
// key is changed by putting another before it. What is sealed begins with four bytes that tell by
// which key, then the nonce and the ciphertext, and is bound to its provider's id: it cannot be moved
// to another's row.
type Vault struct {
	keys  []masterKey
	fresh bool
}

type masterKey struct {
	mark [markSize]byte // the beginning of the key's sha256
	aead cipher.AEAD
}

const mastersHead = "# Opens the model providers' keys in the database beside it. Back it up, and not to the same place.\n"

const (
	masterSize = 32
	markSize   = 4
)

var errOtherMaster = errors.New("it was sealed with a master key that is not here")

// OpenVault reads the file of master keys, and makes it with a first key when there is none.
func OpenVault(path string) (*Vault, error) {
	fail := func(err error) (*Vault, error) {
		return nil, fmt.Errorf("open the master keys %s: %w", path, err)
	}
	text, err := os.ReadFile(path)
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh {
		text, err = makeMaster(path)
	}
	if err != nil {
		return fail(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fail(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fail(fmt.Errorf("others may read it: chmod 600 it, and give the providers new keys if somebody has"))
	}
	v := &Vault{fresh: fresh}
	masters, err := mastersOf(text)
	if err != nil {
		return fail(err)
	}
	for _, master := range masters {
		key, err := hex.DecodeString(master)
		if err != nil {
			return fail(err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return fail(err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return fail(err)
		}
		sum := sha256.Sum256(key)
		v.keys = append(v.keys, masterKey{[markSize]byte(sum[:markSize]), aead})
	}
	if len(v.keys) == 0 {
		return fail(errors.New("there is none in it"))
	}
	return v, nil
}

// makeMaster makes the file, durably: what is sealed must not outlive its key in a crash.
func makeMaster(path string) ([]byte, error) {
	key := make([]byte, masterSize)
	rand.Read(key)
	text := []byte(mastersHead +
		hex.EncodeToString(key) + "\n")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	return text, errors.Join(dir.Sync(), dir.Close())
}

// seal hides a key for the provider with that id.
func (v *Vault) seal(id, key string) []byte {
	first := v.keys[0]
	return first.aead.Seal(first.mark[:], nil, []byte(key), []byte(id))
}

// open is the key again. current tells whether it is sealed with the first master key.
func (v *Vault) open(id string, sealed []byte) (key string, current bool, err error) {
	if len(sealed) < markSize {
		return "", false, errors.New("it is damaged")
	}
	for i, k := range v.keys {
		if !bytes.Equal(k.mark[:], sealed[:markSize]) {
			continue
		}
		plain, err := k.aead.Open(nil, nil, sealed[markSize:], []byte(id))
		if err != nil {
			return "", false, errors.New("it is damaged, or another provider's")
		}
		return string(plain), i == 0, nil
	}
	return "", false, errOtherMaster
}
