package desktop

import (
	"regexp"
	"slices"
	"unicode/utf8"
)

// Limits of an ApprovalPolicy.
const (
	MaxPatterns      = 32
	MaxPatternLength = 500 // characters
)

// ApprovalPolicy says which steps of a desktop's agent wait for a person's yes. The zero value is none.
type ApprovalPolicy struct {
	Shell     bool     `json:"shell,omitempty" doc:"Every shell command, every change of a file, and typing into a terminal, as far as its window can be told"`
	Passwords bool     `json:"passwords,omitempty" doc:"Typing where a password is asked for, as far as the focused window's title tells"`
	Patterns  []string `json:"patterns,omitempty" maxItems:"32" doc:"Regular expressions (RE2). A step waits when one matches its tool's name or a text in its arguments"`
}

// None tells whether nothing waits.
func (p ApprovalPolicy) None() bool { return !p.Shell && !p.Passwords && len(p.Patterns) == 0 }

// Equal tells whether two policies are the same.
func (p ApprovalPolicy) Equal(other ApprovalPolicy) bool {
	return p.Shell == other.Shell && p.Passwords == other.Passwords && slices.Equal(p.Patterns, other.Patterns)
}

// Check says what is wrong with a policy.
func (p ApprovalPolicy) Check() error {
	if len(p.Patterns) > MaxPatterns {
		return Errorf(Invalid, "approval.patterns: more than %d", MaxPatterns)
	}
	for i, pattern := range p.Patterns {
		if pattern == "" || utf8.RuneCountInString(pattern) > MaxPatternLength {
			return Errorf(Invalid, "approval.patterns[%d]: expected 1 to %d characters", i, MaxPatternLength)
		}
		if _, err := regexp.Compile(pattern); err != nil {
			return Errorf(Invalid, "approval.patterns[%d]: %w", i, err)
		}
	}
	return nil
}
