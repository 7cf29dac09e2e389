// Package check says what of an appliance cannot be true: it reads libvirt (through virsh), the
// processes of the host, the folder of the disks, the database and the API, each with its own few
// lines, and holds them against each other and against what clients were told.
//
// It shares no code with the appliance, so that a mistake there is not made here again; a test sees
// to that. What it knows of the appliance is its contract: names in libvirt begin with a prefix, a
// domain carries the desktop's id in its metadata, a desktop's disk is desktop-ID.qcow2 in the pool.
package check
