package desktop

import (
	"strings"
	"unicode/utf8"
)

// The kinds of agent that answer a desktop's chat.
const (
	AgentBuiltin = "builtin" // bureau's own, which works on the desktop from the host
	AgentCommand = "command" // a program in the desktop that takes a prompt and prints an answer
)

// The programs whose output is understood.
const (
	PresetClaudeCode = "claude-code"
	PresetCodex      = "codex"
)

// MaxAgentCommand is the most characters of a command.
const MaxAgentCommand = 4096

// ChatAgent says who answers a desktop's chat. The zero value is the builtin one.
type ChatAgent struct {
	Kind    string `json:"kind,omitempty" enum:"builtin,command" default:"builtin" doc:"builtin is bureau's own; command is a program in the desktop"`
	Command string `json:"command,omitempty" maxLength:"4096" doc:"Of kind command: a line for the desktop's shell. The prompt is on its standard input, and in BUREAU_PROMPT; what it prints is the answer"`
	Preset  string `json:"preset,omitempty" enum:"claude-code,codex" doc:"In place of command: a program that is installed in the desktop and whose output is understood"`
}

// named has its kind written out.
func (a ChatAgent) named() ChatAgent {
	if a.Kind == "" {
		a.Kind = AgentBuiltin
	}
	return a
}

// Check says what is wrong with it.
func (a ChatAgent) Check() error {
	switch a.Kind {
	case "", AgentBuiltin:
		if a.Command != "" || a.Preset != "" {
			return Errorf(Invalid, "agent.kind: a command or a preset is of the kind %s", AgentCommand)
		}
	case AgentCommand:
		switch {
		case (a.Command == "") == (a.Preset == ""):
			return Errorf(Invalid, "agent: the kind %s needs either a command or a preset", AgentCommand)
		case a.Preset != "" && a.Preset != PresetClaudeCode && a.Preset != PresetCodex:
			return Errorf(Invalid, "agent.preset: expected %s or %s", PresetClaudeCode, PresetCodex)
		case utf8.RuneCountInString(a.Command) > MaxAgentCommand || strings.ContainsRune(a.Command, 0):
			return Errorf(Invalid, "agent.command: expected at most %d characters, and none that is NUL", MaxAgentCommand)
		}
	default:
		return Errorf(Invalid, "agent.kind: expected %s or %s", AgentBuiltin, AgentCommand)
	}
	return nil
}
