// Package assistant is the AI agent of a desktop: the chat loop that runs on the host and works in
// the guest, its tools, sessions and approvals.
//
// The loop, its limits, its history and the models' keys are out of reach of whatever a model is
// talked into running in the guest (it may be root there). A turn acts on a desktop through the
// small interface [Desktop] and asks a language model through package model; what it remembers goes
// through the interface [Store]. The package knows nothing of libvirt, SQL, X11 or the public API.
//
// Its rooms: model is the vendors' wire formats behind one interface; gateway lends models to the
// programs in a guest.
package assistant
