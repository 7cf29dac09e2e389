package assistant

import (
	"context"
	"time"
)

// SetSleep puts f in the place of a turn's waiting.
func (s *Service) SetSleep(f func(ctx context.Context, d time.Duration) error) { s.sleep = f }

// What the tests of the package look at from outside.
var (
	Conversation    = conversation
	DroppedPictures = droppedPictures
	DroppedPicture  = droppedPicture
)

const (
	KeptPictures = keptPictures
	DropChunk    = dropChunk
	JournalTail  = journalTail
)
