package activity

import (
	"path"
	"regexp"
	"strings"

	"bureau/desktop"
)

// Shell is told of a command whose program cannot be told for sure.
const Shell = "shell"

var (
	programRule    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9._+-]{0,39}$`)
	assignmentRule = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=[A-Za-z0-9_.,:/@%+=-]*$`)
)

// Program is the name of the program that a shell's command begins with. Nothing else of the command
// is ever told: arguments and variables have passwords in them. Where the beginning is more than plain
// words, so that a piece of a value could be taken for a program, it is Shell.
func Program(command string) string {
	for {
		command = strings.TrimLeft(command, " \t\n")
		end := strings.IndexAny(command, " \t\n;|&<>()")
		word := command
		if end >= 0 {
			word = command[:end]
		}
		if assignmentRule.MatchString(word) {
			if end < 0 || !strings.ContainsRune(" \t", rune(command[end])) {
				return Shell
			}
			command = command[end:]
			continue
		}
		if strings.ContainsAny(word, "'\"\\$`~*?[]{}!#=") {
			return Shell
		}
		if word = path.Base(word); !programRule.MatchString(word) {
			return Shell
		}
		return word
	}
}

// KindOf is what an action of input is called in an entry's details; "" for one that does nothing.
func KindOf(action desktop.Action) string {
	switch {
	case action.Click != nil:
		return "click"
	case action.Move != nil:
		return "move"
	case action.Drag != nil:
		return "drag"
	case action.Scroll != nil:
		return "scroll"
	case action.Type != nil:
		return "type"
	case action.Press != nil:
		return "key"
	}
	return ""
}

// CommandOf is what a command is called in an entry's details.
func CommandOf(command desktop.Exec) string {
	if command.Bash {
		return "bash"
	}
	return Program(command.Script)
}
