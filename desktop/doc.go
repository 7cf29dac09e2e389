// Package desktop is the vocabulary and the domain of bureau: what a desktop is, who owns it, what
// can be asked of it and which states it goes through, and the Manager that makes what is wanted
// true and keeps it true.
//
// A reader who wants to know the product starts here. The package declares the small interfaces
// it needs (Machines, Store, Agent, Screen); the packages hypervisor, store and agent implement
// them, api and cmd use them. So calls go down, imports point here, and nothing here knows HTTP,
// SQL, XML, libvirt or X11.
package desktop
