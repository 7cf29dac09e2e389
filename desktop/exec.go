package desktop

import "time"

// Limits of a command.
const (
	DefaultExecTimeout = 60 * time.Second
	MaxExecTimeout     = 24 * time.Hour
	MaxExecOutput      = 8 << 20 // bytes of each of stdout and stderr; beyond it truncated is set
	MaxScriptLength    = 1 << 20
)

// Exec is a command to run in the guest.
type Exec struct {
	// Script is run by /bin/sh -c, or by bash when Bash is set.
	Script  string            `json:"script"`
	Bash    bool              `json:"bash,omitempty"`
	Cwd     string            `json:"cwd,omitempty"` // the user's home by default
	Env     map[string]string `json:"env,omitempty"` // on top of the desktop session's
	Stdin   []byte            `json:"stdin,omitempty"`
	Timeout time.Duration     `json:"timeout,omitempty"` // DefaultExecTimeout when 0
	User    string            `json:"user,omitempty"`    // the desktop's user by default
	// Raw keeps the bytes of the result's output as they are. Without it what is not UTF-8 is replaced.
	Raw bool `json:"-"`
}

// ExecResult is how a command ended. A non-zero exit code is not an error.
type ExecResult struct {
	Stdout     string  `json:"stdout" doc:"What it wrote to standard output; as text, bytes that are not UTF-8 are replaced"`
	Stderr     string  `json:"stderr"`
	ExitCode   int     `json:"exitCode" doc:"Exit code of the shell; 128 plus the signal when a signal ended it"`
	Signal     string  `json:"signal,omitempty" doc:"The signal that ended it, such as KILL"`
	DurationMs float64 `json:"durationMs"`
	TimedOut   bool    `json:"timedOut" doc:"The time limit ended it, with every process it had started"`
	Truncated  bool    `json:"truncated" doc:"Output beyond the limit was dropped"`
}

// Stream names where a piece of output was written.
type Stream string

// The streams of a command.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)
