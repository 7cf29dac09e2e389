// Package hypervisor is the room where libvirt and QEMU are spoken: the connection and its events,
// domain definitions, images and overlay disks, networks and leases, the streams to each guest's
// agent and the sockets of its display. It implements desktop.Machines for this host.
//
// It knows no users, keys or HTTP. It never opens a file of libvirt's: disks, kernels and manifests
// are volumes of one storage pool, made, filled and removed through libvirt, so that an ordinary
// user in the group libvirt can run it.
//
// Everything it makes carries Options.Prefix in its name or lies in the pool of that prefix, and
// Purge removes exactly that.
package hypervisor
