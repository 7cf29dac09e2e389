package modeltest

import _ "embed"

//go:embed demo.json
var demo []byte

// Demo is a friendly script for a desktop with the editor mousepad: whatever is asked for, the model
// opens the editor, types a poem, saves it as poem.txt in the user's home, reads the file back and
// answers with the first line that it found there. It points at nothing, so it needs no display.
func Demo() (Script, error) { return ReadScript(demo) }
