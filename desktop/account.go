package desktop

import (
	"slices"
	"time"
)

// Role is what a user is on this appliance.
type Role string

// The roles.
const (
	RoleAdmin Role = "admin"
	RoleUser  Role = "user"
)

// User is a person, or a program, that owns desktops.
type User struct {
	ID        string    `json:"id" example:"usr-4m2k8x6q"`
	Email     string    `json:"email"`
	Role      Role      `json:"role" enum:"admin,user"`
	Tier      string    `json:"tier" doc:"Decides how many desktops the user may have and the size of a new one"`
	CreatedAt time.Time `json:"createdAt"`
}

// UserChange is what of a user is to be changed; what is nil stays as it is.
type UserChange struct {
	Role *Role
	Tier *string
}

// Capability is something that a key allows.
type Capability string

// The capabilities of the public API.
const (
	CanRead      Capability = "desktop:read"
	CanLifecycle Capability = "desktop:lifecycle"
	CanControl   Capability = "desktop:control"
	CanChat      Capability = "desktop:chat"
	CanManage    Capability = "desktop:manage"
	CanFiles     Capability = "desktop:files"
	CanProvide   Capability = "provider:manage" // the caller's model providers, with their keys
)

// Capabilities lists all of them, in the order of the manual.
func Capabilities() []Capability {
	return []Capability{CanRead, CanLifecycle, CanControl, CanChat, CanManage, CanFiles, CanProvide}
}

// DefaultCapabilities are those of a key made without naming any.
func DefaultCapabilities() []Capability { return []Capability{CanRead, CanChat} }

// Key is an API key as it is kept: never the secret itself.
type Key struct {
	ID           string       `json:"id" example:"key-9t3w5z7b"`
	UserID       string       `json:"userId"`
	Name         string       `json:"name" doc:"What it is for"`
	Prefix       string       `json:"prefix" doc:"The beginning of the secret, to recognise it by"`
	Capabilities []Capability `json:"capabilities"`
	CreatedAt    time.Time    `json:"createdAt"`
	ExpiresAt    *time.Time   `json:"expiresAt" doc:"null for a key that does not expire"`
	LastUsedAt   *time.Time   `json:"lastUsedAt"`
	RevokedAt    *time.Time   `json:"revokedAt"`
}

// Caller is who makes a request.
type Caller struct {
	User User
	Key  Key
	// Local is the operator on the host, over the administration socket: allowed everything, on
	// every desktop.
	Local bool
	// Lease is the token of an input lease that the request carries; "" for none.
	Lease string
}

// Can tells whether the caller has a capability.
func (c Caller) Can(capability Capability) bool {
	return c.Local || slices.Contains(c.Key.Capabilities, capability)
}

// Owns tells whether the caller may know of a desktop of that owner.
func (c Caller) Owns(owner string) bool { return c.Local || c.User.ID == owner }
