package dialect

import (
	"strings"

	"bureau/desktop"
)

// Names of keys are the guest's to read. Here is only how vendors put several of them together.

// chord is a combination written with plus signs, in the form that desktop.Press takes: the plus key
// itself is called by its name.
func (o *object) chord(name, s string) string {
	keys := strings.Split(s, "+")
	if n := len(keys); n > 1 && keys[n-1] == "" && keys[n-2] == "" { // "ctrl++", "+"
		keys = append(keys[:n-2], "plus")
	}
	for i, key := range keys {
		if keys[i] = keyName(key); keys[i] == "" {
			o.fail("%s has %s, in which a key is missing", name, quote(s))
		}
	}
	return strings.Join(keys, "+")
}

// keyName is a key that a vendor named alone.
func keyName(key string) string {
	switch trimmed := strings.TrimSpace(key); {
	case trimmed == "+":
		return "plus"
	case trimmed == "" && strings.Contains(key, " "):
		return "space"
	case strings.EqualFold(trimmed, "ControlOrMeta"): // the name for the platform's own, which is this
		return "ctrl"
	default:
		return trimmed
	}
}

// together is a combination whose keys came as a list.
func (o *object) together(name string, keys []string) string {
	if len(keys) == 0 {
		o.missing(name)
		return ""
	}
	parts := make([]string, len(keys))
	for i, key := range keys {
		parts[i] = o.chord(name, key)
	}
	return strings.Join(parts, "+")
}

// sequence is combinations separated by spaces, pressed one after another.
func (o *object) sequence(name, s string) []string {
	if s != "" && strings.Trim(s, " ") == "" {
		return []string{"space"}
	}
	list := strings.Fields(strings.ReplaceAll(s, " + ", "+"))
	switch {
	case len(list) == 0:
		o.fail("%s names no key", name)
	case len(list) > desktop.MaxKeys:
		o.failWith(desktop.TooLarge, "%s has more than %d combinations", name, desktop.MaxKeys)
		return nil
	}
	for i := range list {
		list[i] = o.chord(name, list[i])
	}
	return list
}

// held is the modifiers in a combination, none when it is empty.
func (o *object) held(name, s string) []string {
	if strings.TrimSpace(s) == "" {
		return nil
	}
	return o.modifiers(name, strings.Split(o.chord(name, s), "+"))
}

func (o *object) modifiers(name string, keys []string) []string {
	if len(keys) > desktop.MaxModifiers {
		o.fail("%s has more than %d keys to hold", name, desktop.MaxModifiers)
		return nil
	}
	for i := range keys {
		if keys[i] = keyName(keys[i]); keys[i] == "" {
			o.fail("%s has an empty name of a key", name)
		}
	}
	return keys
}
