package desktop

import (
	"crypto/rand"
	"encoding/base32"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Status is where a desktop is in its life:
//
//	pending → booting → running → stopping → stopped, then destroying → destroyed
//
// and Failed ("error", with a reason) from any of them, which start and destroy lead out of.
type Status string

// The statuses, in the words of the API.
const (
	Pending    Status = "pending"    // wanted, nothing done yet
	Booting    Status = "booting"    // the machine is on its way up
	Running    Status = "running"    // the machine is up; AgentReady says whether it can be used
	Stopping   Status = "stopping"   // asked to shut down
	Stopped    Status = "stopped"    // off, its disk kept
	Destroying Status = "destroying" // on its way out for good
	Destroyed  Status = "destroyed"  // gone, kept in the history only
	Failed     Status = "error"      // Reason says why
)

// Stage is how far a boot has come, for the person who waits for it.
type Stage string

// The stages of a boot, in their order.
const (
	StageDisk    Stage = "disk"    // the overlay disk and the domain are made
	StageMachine Stage = "machine" // the machine is on: kernel, services, X
	StageAgent   Stage = "agent"   // the agent has answered; the display has not yet
	StageReady   Stage = "ready"   // the display answers: act and see
)

// NameLength is the most characters a desktop's name may have.
const NameLength = 63

// Desktop is what a caller sees of a desktop. Sizes are bytes.
type Desktop struct {
	ID      string `json:"id" doc:"The desktop's id, which never changes" example:"dt-7k3m9q2w5x8r4t6y"`
	Name    string `json:"name" doc:"The owner's name for it"`
	Owner   string `json:"owner" doc:"Id of the user who owns it"`
	Status  Status `json:"status" enum:"pending,booting,running,stopping,stopped,destroying,destroyed,error" doc:"Where it is in its life"`
	Reason  string `json:"reason,omitempty" doc:"Why the status is error, what is being waited for, or that it was stopped for inactivity"`
	Warning string `json:"warning,omitempty" doc:"What does not work in it although it can be used, and what helps"`
	Tier    string `json:"tier" doc:"The tier it was created with"`
	Image   string `json:"image" doc:"The image its disk is based on"`

	IPAddress    *string `json:"ipAddress" doc:"Address on the desktops' network, null while unknown"`
	AgentReady   bool    `json:"agentReady" doc:"Whether the desktop can be seen and controlled right now"`
	BootStage    Stage   `json:"bootStage,omitempty" enum:"disk,machine,agent,ready" doc:"How far the boot has come"`
	KeepAlive    bool    `json:"keepAlive" doc:"Never stopped for inactivity"`
	Network      string  `json:"network" enum:"nat,isolated" doc:"nat reaches the outside, isolated reaches nothing"`
	Acceleration string  `json:"acceleration,omitempty" enum:"kvm,tcg" doc:"kvm where the host's processor runs the guest, tcg where it is emulated; absent while the machine is off"`
	VCPUs        int     `json:"vcpus" doc:"Virtual processors"`
	MemoryBytes  int64   `json:"memoryBytes"`
	DiskBytes    int64   `json:"diskBytes"`

	Approval ApprovalPolicy `json:"approval" doc:"Which steps of its agent wait for a person's yes"`
	Agent    ChatAgent      `json:"agent" doc:"Who answers its chat"`

	Lease *Lease `json:"lease,omitempty" doc:"Who is alone at the desktop's input now; absent when nobody is"`

	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt" doc:"When what the owner asked for last changed"`
}

// Wish is the state the owner wants a desktop to be in. Wishes are durable: they are in the store
// before the caller hears of them, and the Manager works towards them across crashes.
type Wish string

// The wishes.
const (
	WishRun     Wish = "run"
	WishHalt    Wish = "halt"
	WishDestroy Wish = "destroy"
)

// Boot is a boot that was asked for and has not happened yet.
type Boot string

// The boots owed.
const (
	BootNone    Boot = ""        // none: the machine has been started
	BootStart   Boot = "start"   // turn the machine on
	BootRestart Boot = "restart" // turn the machine off, then owe BootStart
)

// Record is what is kept of a desktop: what its owner asked for and what cannot be seen from the
// hypervisor. What its machine is doing is never stored.
type Record struct {
	ID, Owner, Name string
	Tier            string
	Image           string // the image's name when the desktop was created
	ImageDigest     string // and its content, which stays the backing file for good
	Network         string
	VCPUs           int
	MemoryBytes     int64
	DiskBytes       int64
	KeepAlive       bool
	Approval        ApprovalPolicy
	Agent           ChatAgent

	Wish Wish
	// Boot is what is still owed of the last start or restart. It tells a machine that has yet to
	// be started from one that its guest has shut down, also after a crash.
	Boot Boot
	// Failure, when not empty, is why the Manager gave up on the wish until the next request.
	Failure string
	// HasDisk says that a disk was made for it. One that is lost is never replaced by an empty one.
	HasDisk bool

	// Lease is the last one that was taken of the desktop's input, also when it has expired.
	Lease LeaseRecord

	CreatedAt   time.Time
	UpdatedAt   time.Time
	DestroyedAt time.Time // zero until destroyed
}

// NewID makes a desktop id: "dt-" and 80 random bits in lower-case base 32.
func NewID() string { return "dt-" + randomBase32(10) }

func randomBase32(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

// CheckName says what is wrong with a desktop's name: it is 1 to NameLength characters, with no
// control characters and no space at either end.
func CheckName(name string) error {
	switch {
	case name == "":
		return Errorf(Invalid, "name is empty")
	case utf8.RuneCountInString(name) > NameLength:
		return Errorf(Invalid, "name is longer than %d characters", NameLength)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return Errorf(Invalid, "name has control characters")
	case strings.TrimSpace(name) != name:
		return Errorf(Invalid, "name begins or ends with a space")
	}
	return nil
}

// Tier is a size of desktop that an operator offers.
type Tier struct {
	Name        string
	VCPUs       int
	MemoryBytes int64
	DiskBytes   int64
	// Desktops is how many desktops one user of this tier may have; 0 means no limit.
	Desktops int
	// Running is how many of them may run at the same time; 0 means all.
	Running int
}

// exceeds tells whether any size of the tier is larger than the other's.
func (t Tier) exceeds(other Tier) bool {
	return t.VCPUs > other.VCPUs || t.MemoryBytes > other.MemoryBytes || t.DiskBytes > other.DiskBytes
}
