package desktop

import "context"

// Draft is a desktop to be made. Empty fields take the appliance's defaults.
type Draft struct {
	Name      string `json:"name,omitempty" maxLength:"63" doc:"Made up when absent"`
	Tier      string `json:"tier,omitempty" doc:"Decides processors, memory and disk; by default the user's own tier, for an administrator the appliance's default one"`
	Image     string `json:"image,omitempty" doc:"Name of an image on this host; the configured default when absent"`
	Network   string `json:"network,omitempty" enum:"nat,isolated" doc:"nat reaches the outside, isolated reaches nothing"`
	KeepAlive bool   `json:"keepAlive,omitempty" doc:"Never stop it for inactivity"`
	// Approval and Agent are of the desktop's AI agent.
	Approval ApprovalPolicy `json:"approval,omitzero" doc:"Which steps of its agent wait for a person's yes; none by default"`
	Agent    ChatAgent      `json:"agent,omitzero" doc:"Who answers its chat; bureau's own agent by default"`
	Size     *Sizes         `json:"size,omitempty" doc:"Sizes that differ from the tier's, within its limits"`
	Start    *bool          `json:"start,omitempty" doc:"false makes it without booting it" default:"true"`
	// Owner makes it for another user; only the local operator may.
	Owner string `json:"owner,omitempty" doc:"Id or e-mail address of the user to make it for; only on the administration socket"`

	// Prepare, when not nil, does what must be there before the desktop is.
	Prepare func(ctx context.Context, id string) error `json:"-"`
}

// Sizes of a machine; zero leaves a size as the tier has it.
type Sizes struct {
	VCPUs       int   `json:"vcpus,omitempty" minimum:"0" maximum:"256"`
	MemoryBytes int64 `json:"memoryBytes,omitempty" minimum:"0"`
	DiskBytes   int64 `json:"diskBytes,omitempty" minimum:"0"`
}

// Change is what may be changed of a desktop; nil leaves a field as it is.
type Change struct {
	Name      *string         `json:"name,omitempty" minLength:"1" maxLength:"63"`
	KeepAlive *bool           `json:"keepAlive,omitempty" doc:"Never stop it for inactivity"`
	Approval  *ApprovalPolicy `json:"approval,omitempty" doc:"Which steps of its agent wait for a person's yes; replaces the former policy"`
	Agent     *ChatAgent      `json:"agent,omitempty" doc:"Who answers its chat; replaces the former"`
}
